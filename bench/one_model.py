"""One language model for every task, on real data: as it is, and tuned on all tasks together.

    python bench/one_model.py MODEL [SET ...] [--rows N] [--limit N] [--epochs E] [--out DIR]

Takes N rows of the training file of each set (see bench/tasks.py), tunes MODEL on all of them in one run, and
asks the foundation model (with solved examples before the question) and the tuned one (without) about the
first N examples of each validation file. The figures are the tasks' own metrics with 95% bootstrap intervals;
a finished part is a file in --out and not done again. Small models beside it: python bench/tasks.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from malmoi.core.nouns import Example, Json
from malmoi.methods.registry import make_method
from malmoi.methods.use import evaluate
from malmoi.tasks import make_task
from malmoi.tasks.base import Task
from malmoi.util.files import read_json, write_json
from tasks import SETS, read

DEFAULT = ("nsmc", "wnut17", "tatoeba-enko", "squad", "scitldr", "songys-ko", "mixed-ko")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("sets", nargs="*", default=DEFAULT, metavar="SET")
    parser.add_argument("--rows", type=int, default=3000, help="training rows of each set")
    parser.add_argument("--limit", type=int, default=200, help="validation examples of each set")
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--shots", type=int, default=2, help="shown to the foundation model")
    parser.add_argument("--out", type=Path, default=Path("one-model"))
    options = parser.parse_args()
    tuned = tune(options)
    asked = {"foundation": (options.model, options.shots), "tuned": (tuned, 0)}
    rows = [[name, *(ask(options, name, kind, *how) for kind, how in asked.items())] for name in options.sets]
    print(table(rows, options))


def tune(options: argparse.Namespace) -> Path:
    """The model tuned on all sets, in a process of its own."""
    out: Path = options.out / "tuned"
    data = [write_rows(name, options) for name in options.sets]
    if not (out / "model.safetensors").exists():
        start_s = time.perf_counter()
        command = [
            str(Path(sys.executable).with_name("malmoi")),
            "finetune",
            str(options.model),
            "--out",
            str(out),
        ]
        command += [word for source in data for word in ("--data", source)]
        settings = (f"train.epochs={options.epochs}", "train.batch=16")
        command += ["--allow-skips", "--resume", *(word for it in settings for word in ("--set", it))]
        subprocess.run(command, check=True)
        write_json(options.out / "tuning.json", {"seconds": time.perf_counter() - start_s})
    return out


def write_rows(name: str, options: argparse.Namespace) -> str:
    """A set's training rows as a file; returns TASK=PATH."""
    task, path = make_task(SETS[name].task, SETS[name].fields), options.out / "data" / f"{name}.jsonl"
    if not path.exists():
        examples = list(read(SETS[name], task, 0).train)
        random.Random(0).shuffle(examples)
        lines = (json.dumps(task.row(one), ensure_ascii=False) for one in examples[: options.rows])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return f"{task.name}={path}"


def ask(options: argparse.Namespace, name: str, kind: str, model: Path, shots: int) -> Json:
    """The metrics of the prompted method with one model on one set."""
    file = options.out / "rows" / f"{name}-{kind}.json"
    if file.exists():
        return read_json(file)
    task: Task[Any, Any] = make_task(SETS[name].task, SETS[name].fields)
    splits = read(SETS[name], task, options.limit)
    asked: dict[str, Any] = {"model": str(model)}
    if not task.kind.goes_on or kind == "tuned":
        asked["shots"] = shots
    start_s = time.perf_counter()
    method = make_method("prompted", task, asked)
    report = method.fit(splits.train, splits.valid)
    test: list[Example[Any, Any]] = list(splits.test)
    metrics = evaluate(method, test)
    row = {
        "metric": task.primary, "examples": len(test), "seconds": time.perf_counter() - start_s,
        "metrics": {key: dataclasses.asdict(metric) for key, metric in metrics.items()},
        "report": report.facts,
    }  # fmt: skip
    write_json(file, row)
    print(f"{name} {kind}: {shown(row)}", file=sys.stderr, flush=True)
    return row


def shown(row: Json) -> str:
    metric = row["metrics"][row["metric"]]
    low, high = metric["interval"]
    return f"{metric['value']:.3f} [{low:.3f}, {high:.3f}]"


def table(rows: list[list[Any]], options: argparse.Namespace) -> str:
    lines = [
        f"| set | by | examples | foundation, {options.shots} shots | tuned on all, asked plainly |",
        "|---|---|---|---|---|",
    ]
    for name, foundation, tuned in rows:
        lines.append(
            f"| {name} | {tuned['metric']} | {tuned['examples']} | {shown(foundation)} | {shown(tuned)} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
