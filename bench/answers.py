"""What tuning makes of a model that only completes: the same ten questions before and after.

    python bench/answers.py MODEL --out DIR [--steps 40] [--rows 150] [--base auto]

Takes rows of ../shared/data/instruct and ../shared/data/chat, at even distances, and tunes MODEL on them with
LoRA (`malmoi finetune`). A model that is in DIR already is not tuned again. Replies are greedy; before tuning
a question is text to go on from.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import malmoi
from malmoi.engine.loaded import Loaded
from malmoi.util.hardware import cpu_name
from malmoi.util.units import human_seconds

DATA = Path(__file__).parents[1] / "../shared/data"
SETS = {  # weight of a row
    "instruct/self-instruct-seeds/train.jsonl": 2,
    "instruct/gsm8k/train.jsonl": 1,
    "instruct/tldr-commands/train.jsonl": 1,
    "chat/songys-ko/train.jsonl": 2,
    "chat/self-dialogue-en/train.jsonl": 0.5,
}
JUDGED = 10  # rows of each set are kept out, to judge by
REPLY_TOKENS = 48
QUESTIONS = (
    "What is the capital of France?",
    "Give me three tips for sleeping better.",
    "Tom has 3 boxes with 12 apples each. He eats 5 apples. How many apples are left?",
    "Write one sentence about the sea.",
    "Show the size of every file in a folder",
    "Hi! Have you seen any good movies lately?",
    "안녕? 오늘 기분이 어때?",
    "요즘 너무 피곤해.",
    "배고픈데 뭐 먹을까?",
    "친구랑 싸웠어.",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=40, help="of 2,048 tokens")
    parser.add_argument("--rows", type=int, default=150, help="of each set")
    parser.add_argument("--base", default="auto", help="what frozen weights are held in (lora.base)")
    options = parser.parse_args()
    tune(options)
    before = [completed(options.model, question) for question in QUESTIONS]
    after = [replied(options.out / "tuned", question) for question in QUESTIONS]
    for question, *replies in zip(QUESTIONS, before, after, strict=True):
        print(f"\n{question}")
        for name, reply in zip(("before", "after"), replies, strict=True):
            print(f"  {name:7} {' / '.join(reply.split(chr(10)))}")


def tune(options: argparse.Namespace) -> None:
    """Run `malmoi finetune` on some rows of each set."""
    out: Path = options.out / "tuned"
    if (out / "model.safetensors").exists():
        return
    start_s = time.perf_counter()
    data, valid = zip(*(rows_of(name, weight, options) for name, weight in SETS.items()), strict=True)
    command = [str(Path(sys.executable).with_name("malmoi")), "finetune", str(options.model), "--lora"]
    for flag, values in (("--data", data), ("--valid", valid)):
        command += [it for value in values for it in (flag, value)]
    steps = f"train.steps={options.steps}"
    for setting in (steps, f"train.eval_every={options.steps}", "train.batch=4", f"lora.base={options.base}"):
        command += ["--set", setting]
    subprocess.run([*command, "--out", str(out), "--allow-skips"], check=True)
    print(f"tuned in {human_seconds(time.perf_counter() - start_s)} on {cpu_name()}", flush=True)


def rows_of(name: str, weight: float, options: argparse.Namespace) -> tuple[str, str]:
    """Files of some of a set's rows: to learn, with their weight, and to judge by."""
    lines = (DATA / name).read_text(encoding="utf-8").splitlines()
    count = min(options.rows + JUDGED, len(lines))
    chosen = [lines[at * len(lines) // count] for at in range(count)]
    step = -(-count // JUDGED)
    judged = chosen[::step]
    learned = [line for at, line in enumerate(chosen) if at % step]
    options.out.mkdir(parents=True, exist_ok=True)
    paths = [options.out / f"{Path(name).parent.name}-{part}.jsonl" for part in ("train", "valid")]
    for path, part in zip(paths, (learned, judged), strict=True):
        path.write_text("".join(f"{line}\n" for line in part), encoding="utf-8")
    return f"{paths[0]}@{weight}", str(paths[1])


def completed(model: Path, question: str) -> str:
    """What a model that only completes goes on with."""
    return opened(model).complete(question, max_tokens=REPLY_TOKENS, temperature=0)[0].text


def replied(model: Path, question: str) -> str:
    """A tuned model's reply."""
    return opened(model).chat(question, max_tokens=REPLY_TOKENS, temperature=0)


def opened(model: Path) -> Loaded:
    """A language model, once."""
    if model not in _OPEN:
        found = malmoi.load(model)
        assert isinstance(found, Loaded)
        _OPEN[model] = found
    return _OPEN[model]


_OPEN: dict[Path, Loaded] = {}

if __name__ == "__main__":
    main()
