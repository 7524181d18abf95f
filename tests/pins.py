"""What a change of the code's structure must leave as it is: `python tests/pins.py [REF] [--part PART]`.

The same commands run in two trees, the commit REF (by default HEAD) and this working tree, and what they make
is compared: weights after some steps bit for bit, what a conversation becomes, a comparison's results, a
server's replies. Only commands, files and HTTP are used, so that everything behind them may move. Bits differ
between processors and versions of PyTorch, which is why both trees run here and no hash is kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
NAMES = ("Mina", "Joon", "Sora", "Theo", "미나", "준", "소라", "태오")
THINGS = (("bread", "빵"), ("tea", "차"), ("train", "기차"), ("river", "강"), ("song", "노래"))
GOOD, BAD = ("good", "warm", "lovely"), ("bad", "cold", "dreadful")
MEASURED = re.compile(
    r"second|bytes|_per_|cost|p50|p95|latency|machine|versions|out$|threads|front|winner|advice"
)
PARTS = ("language", "fits", "compared", "served")  # each needs what those before it make, but for fits
STEPS = ("--set", "train.steps=30")
FITS = {  # task -> method and options: a network for each kind of task, and what counts
    "classification": (("lstm", "epochs=2"), ("tfidf", ""), ("lexicon", "")),
    "ner": (("transformer", "epochs=2"), ("crf", "")),
    "question-answering": (("lstm", "epochs=2"),),
    "translation": (("transformer", "epochs=2"), ("ibm1", "")),
    "completion": (("lstm", "epochs=2"), ("ngram", "")),
}
REQUESTS = (
    ("/v1/completions", {"model": "base", "prompt": "Mina likes", "max_tokens": 12, "temperature": 0}),
    ("/v1/completions", {"model": "base", "prompt": ["The tea", "미나"], "max_tokens": 8, "seed": 3, "n": 2}),
    ("/v1/completions", {"model": "base", "prompt": "The", "max_tokens": 5, "seed": 1, "logprobs": 2}),
    ("/v1/chat/completions", {
        "model": "tuned", "max_tokens": 16, "temperature": 0,
        "messages": [{"role": "user", "content": "Where is the bread?"}],
    }),
    ("/v1/tasks/classification", {"inputs": ["The tea was lovely.", "The train was cold."]}),
    ("/tokenize", {"model": "tuned", "messages": [{"role": "user", "content": "빵 <|user|> tea"}]}),
    ("/v1/tasks/nothing", {"input": "x"}),
    ("/v1/completions", {"model": "base", "prompt": "x", "temperature": -1}),
)  # fmt: skip


def rows(task: str, count: int = 80) -> Iterator[dict[str, Any]]:
    """Examples of a task, always the same."""
    rng = random.Random(task)
    for number in range(count):
        name, (thing, korean) = rng.choice(NAMES), rng.choice(THINGS)
        kind = rng.choice((GOOD, BAD))
        text = f"{name} thought number {number} of the {thing} was {rng.choice(kind)}."
        match task:
            case "classification":
                yield {"text": text, "label": "good" if kind is GOOD else "bad"}
            case "ner":
                yield {"text": text, "entities": [{"start": 0, "end": len(name), "label": "PERSON"}]}
            case "question-answering":
                answer = {"text": thing, "start": text.index(thing)}
                yield {"question": f"What did {name} try?", "context": text, "answers": [answer]}
            case "translation":
                yield {
                    "en": f"{name} likes {thing} {number}.",
                    "ko": f"{name}는 {korean} {number}을 좋아한다.",
                }
            case "chat":
                asked = {"role": "user", "content": f"{name}: where is the {thing}?"}
                yield {"messages": [asked, {"role": "assistant", "content": f"By gate {number}."}]}
            case "preferences":
                yield {
                    "prompt": f"Do you like {thing}?",
                    "chosen": f"Yes, {thing}.",
                    "rejected": f"No {number}.",
                }
            case _:
                yield {"text": text}


def write_data(folder: Path) -> None:
    """A file for each task, and a text."""
    folder.mkdir()
    for task in (*FITS, "chat", "preferences"):
        lines = [json.dumps(row, ensure_ascii=False) for row in rows(task)]
        (folder / f"{task}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    text = "\n".join(row["text"] for row in rows("text", 1500))
    (folder / "text.txt").write_text(text, encoding="utf-8")


class Tree:
    """One version of the code, and the folder that its commands run in."""

    def __init__(self, code: Path, folder: Path) -> None:
        self.folder, self.found = folder, dict[str, str]()
        folder.mkdir()
        write_data(folder / "data")
        self.environment = os.environ | {
            "PYTHONPATH": str(code / "src"), "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "110",
            "PYTHONUTF8": "1",
        }  # fmt: skip

    def start(self, *command: str) -> subprocess.Popen[str]:
        """A malmoi command, running."""
        return subprocess.Popen(
            [sys.executable, "-c", "from malmoi.cli import main; main()", *command], cwd=self.folder,
            env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
        )  # fmt: skip

    def do(self, *command: str) -> str:
        """What a command prints; it must succeed."""
        with self.start(*command) as process:
            printed = process.communicate()[0]
        if process.returncode:
            raise SystemExit(f"malmoi {' '.join(command)}\n{printed}")
        return printed

    def pin(self, name: str, value: object) -> None:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        self.found[name] = text.replace(str(self.folder), "HERE")

    def pin_folder(self, name: str) -> None:
        """The hash of every tensor file, and of the JSON beside them without what was measured."""
        for path in sorted((self.folder / name).rglob("*")):
            title = str(path.relative_to(self.folder))
            if path.suffix in (".safetensors", ".crfsuite"):
                self.pin(title, hashlib.sha256(path.read_bytes()).hexdigest())
            elif (
                path.suffix == ".json"
                and "checkpoints" not in path.parts
                and not path.name.endswith("manifest.json")
            ):
                self.pin(title, unmeasured(json.loads(path.read_text(encoding="utf-8"))))

    def run(self, parts: Sequence[str]) -> dict[str, str]:
        """Everything that is compared in these parts, by name."""
        for part in parts:
            getattr(self, part)()
        return self.found

    def language(self) -> None:
        """Language models of every kind, trained, tuned and aligned."""
        size = ("--set", "model.layers=2", "--set", "model.width=64", "--set", "tokenizer.vocab_size=400")
        shape = (*size, "--set", "train.context=160", "--set", "train.batch=8")
        data = ("--data", "data/text.txt")
        self.do("pretrain", "gpt-nano", *data, *shape, *STEPS, "--set", "model.heads=2", "--out", "base")
        self.do("pretrain", "lstm-nano", *data, *shape, *STEPS, "--out", "lstm")
        self.do("pretrain", "ngram", *data, "--set", "tokenizer.vocab_size=400", "--out", "counted")
        chats = ("--data", "data/chat.jsonl")
        mixed = (*chats, "--data", "classification=data/classification.jsonl@2")
        self.pin("preview", self.do("finetune", "base", *mixed, "--preview", "--out", "unused"))
        self.do("finetune", "base", *mixed, *STEPS, "--out", "tuned")
        self.do("finetune", "base", *chats, "--lora", *STEPS, "--out", "lora")
        pairs = ("--data", "data/preferences.jsonl")
        self.do("align", "tuned", *pairs, *STEPS, "--out", "aligned")
        for name in ("base", "lstm", "counted", "tuned", "lora", "aligned"):
            self.pin_folder(name)
        for name in ("base", "lstm", "counted"):
            self.pin(
                f"{name} completes", self.do("complete", name, "Mina", "--seed", "5", "--max-tokens", "9")
            )

    def fits(self) -> None:
        """A method of each family on each kind of task."""
        for task, methods in FITS.items():
            for method, option in methods:
                self.fit(task, method, option)

    def fit(self, task: str, method: str, option: str) -> None:
        out, data = f"{task}-{method}", f"data/{task}.jsonl"
        options = ("--set", option) if option else ()
        self.do("fit", task, "--method", method, "--train", data, *options, "--out", out)
        self.pin_folder(out)
        self.pin(f"{out} measured", self.do("evaluate", out, "--data", data))

    def compared(self) -> None:
        """A comparison, a prompted language model in it."""
        methods = "tfidf,lexicon,lstm,prompted"
        self.do(
            "compare", "classification", "--train", "data/classification.jsonl", "--methods", methods,
            "--model", "tuned", "--set", "lstm.epochs=2", "--out", "compared",
        )  # fmt: skip
        found = json.loads((self.folder / "compared" / "results.json").read_text(encoding="utf-8"))
        self.pin("comparison", unmeasured(found))

    def served(self) -> None:
        """What a server replies."""
        process = self.start("serve", "base", "tuned", "classification-tfidf", "--port", "0", "--no-page")
        assert process.stdout is not None
        try:
            url = next(line.split()[-1] for line in process.stdout if line.startswith("malmoi serves at"))
            time.sleep(1)
            for number, (path, body) in enumerate(REQUESTS):
                self.pin(f"reply {number} {path}", unmeasured(asked(url + path, body)))
        finally:
            process.terminate()
            process.communicate()


def asked(url: str, body: dict[str, Any]) -> Any:
    """A reply's status and JSON, without its time and number."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            status, found = reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        status, found = error.code, json.load(error)
    return [status, {name: value for name, value in found.items() if name not in ("id", "created")}]


def unmeasured(value: Any) -> Any:
    """JSON without what depends on the machine's speed."""
    if isinstance(value, dict):
        return {name: unmeasured(it) for name, it in value.items() if not MEASURED.search(name)}
    return [unmeasured(it) for it in value] if isinstance(value, list) else value


def measured(ref: str, root: Path, parts: Sequence[str]) -> dict[str, str]:
    """The pins of a commit."""
    code = root / "old"
    subprocess.run(["git", "-C", ROOT, "worktree", "add", "--detach", "-q", code, ref], check=True)
    try:
        return Tree(code, root / "before").run(parts)
    finally:
        subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", code], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ref", nargs="?", default="HEAD", help="the commit to compare with")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this; may be repeated")
    parser.add_argument(
        "--cache", type=Path, help="keep the commit's pins in this folder, and use them again"
    )
    arguments = parser.parse_args()
    parts = arguments.part or PARTS
    commit = subprocess.check_output(["git", "-C", ROOT, "rev-parse", arguments.ref], text=True).strip()
    kept = (arguments.cache or Path()) / f"{commit}-{'-'.join(parts)}.json"
    with tempfile.TemporaryDirectory() as root:
        known = arguments.cache and kept.exists()
        before = json.loads(kept.read_text()) if known else measured(commit, Path(root), parts)
        if arguments.cache:
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(before, ensure_ascii=False))
        after = Tree(ROOT, Path(root) / "after").run(parts)
    changed = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    for name in sorted(changed):
        print(f"--- {name}\nbefore: {before.get(name, 'not there')}\nafter:  {after.get(name, 'not there')}")
    print(f"{len(before) - len(changed)} of {len(before)} pins hold")
    sys.exit(bool(changed))


if __name__ == "__main__":
    main()
