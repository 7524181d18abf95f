"""What cleaning costs, and what it changes for a model.

    python bench/clean.py speed [--megabytes N]   every rule over N MB, beside its test texts
    python bench/clean.py model [--steps N]       a small GPT on the raw and the cleaned text, the same steps

The text is ../shared/data/completion/mixed-ko. "model" cleans the training text with RULES and measures both
models on the same validation text. Runs are kept under --out and resumed where they were cut off.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from malmoi.data.cleaning import clean
from malmoi.data.cleaning_rules import DROPS, FIXES, Cleaning
from malmoi.data.cleaning_sources import text_sources
from malmoi.data.readers import read_documents
from malmoi.util.units import human_seconds

MIXED = Path(__file__).parents[2] / "shared" / "data" / "completion" / "mixed-ko"
MALMOI = "from malmoi.cli.commands import main; main()"
RULES = {"fix": ["nfc", "invisible"], "drop": ["exact", "near", "leaks", "language", "gopher"]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bench", choices=["speed", "model"])
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("runs/clean"))
    options = parser.parse_args()
    if options.bench == "speed":
        speed(options.megabytes)
    else:
        model(options.steps, options.out)


def texts(num_bytes: int) -> Iterator[str]:
    """Documents of mixed-ko, from the second time on with their words in another order."""
    for turn in range(1_000):
        draw = random.Random(turn)
        for text in read_documents(MIXED / "train.jsonl"):
            words = text.split(" ")
            if turn:
                draw.shuffle(words)
            made = " ".join(words)
            num_bytes -= len(made.encode())
            if num_bytes < 0:
                return
            yield made


def speed(megabytes: int) -> None:
    """Seconds by the clock and of the processors for every rule, and the most memory."""
    rules = Cleaning.of(fix=FIXES, drop=[name for name in DROPS if name != "unreadable"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for text in texts(megabytes * 1_000_000):
                file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
        began_s, used_s = time.perf_counter(), time.process_time()
        sources = text_sources(path, [MIXED / "valid.jsonl"], field="text", errors="strict")
        found = clean(sources, rules, Path(folder) / "out")
        took_s, used_s = time.perf_counter() - began_s, time.process_time() - used_s
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rate = f"{human_seconds(used_s)} of the processors ({megabytes / used_s:.1f} MB/s)"
    print(
        f"{megabytes} MB, {found.before.rows:,} documents: {human_seconds(took_s)}, {rate}, {memory:,.0f} MiB"
    )


def model(steps: int, out: Path) -> None:
    """Bits per byte of the same validation text after the same steps on the raw and on the cleaned text."""
    cleaned = out / "text"
    if not cleaned.exists():
        out.mkdir(parents=True, exist_ok=True)
        sources = text_sources(MIXED, [], field="text", errors="strict")
        print(clean(sources, Cleaning.of(**RULES), cleaned))
    for name, text in {"raw": MIXED, "cleaned": cleaned}.items():
        folder = out / f"{name}-{steps}"
        if not (folder / "model.safetensors").exists():
            command = [
                *("pretrain", "gpt-nano", "--data", text / "train.jsonl", "--out", folder),
                *("--set", f"train.steps={steps}", "--set", f"data.valid={cleaned / 'valid.jsonl'}"),
                *["--resume"][: folder.exists()],
            ]
            subprocess.run([sys.executable, "-c", MALMOI, *map(str, command)], check=True)
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        bits = [row["valid_bits_per_byte"] for row in map(json.loads, lines) if "valid_bits_per_byte" in row]
        print(f"{name}: {bits[-1]:.4f} bits per byte after {steps} steps")


if __name__ == "__main__":
    main()
