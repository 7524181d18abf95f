"""How good every method of malmoi gets on a task, and how good the peers get: one table for each data set.

    python bench/tasks.py SET ... [--methods all|malmoi|peers|NAME,NAME] [--budget SECONDS] [--limit N]

All learn from the same part of the training file and choose (constants, when to stop) by the same held-out
part of it; the figures are of the validation file, by the task's own metrics, with 95% bootstrap intervals.
The data are ../shared/data. Each finished row is a file in --out/SET: it is not measured again, and a table
of finished rows costs nothing. OMP_NUM_THREADS says how many threads all get.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
import re
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from malmoi.core.errors import UserError, nearest
from malmoi.core.nouns import Budget, Json, Metric, Predictions, Work
from malmoi.data.splits import Splits
from malmoi.methods.base import Method
from malmoi.methods.registry import make_method, methods_for
from malmoi.tasks import make_task
from malmoi.tasks.base import Task
from malmoi.util.files import read_json, write_json
from malmoi.util.hardware import cpu_name, keep_heap
from peers import MISSING, PEERS, Peer
from sets import SETS, read

LIBRARIES = ("malmoi", "torch", "scikit-learn", "fasttext-wheel", "spacy", "transformers", "networkx")
console = Console(stderr=True)  # the tables alone go to standard output


BOTH_WAYS = {"translation-enko": ("translation-en-ko", "translation-ko-en")}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", nargs="+", choices=[*SETS, *BOTH_WAYS], metavar="SET")
    parser.add_argument("--methods", default="all", help="all, malmoi, peers, or names with commas")
    parser.add_argument("--budget", type=float, default=360, help="seconds for each row's training")
    parser.add_argument("--limit", type=int, default=0, help="report on the first N examples (0: all)")
    parser.add_argument("--out", type=Path, default=Path("bench-out"))
    options = parser.parse_args()
    for name in (one for given in options.sets for one in BOTH_WAYS.get(given, (given,))):
        try:
            print(bench(name, options.methods, options.budget, options.limit, options.out / name), flush=True)
        except UserError as error:
            raise SystemExit(f"{name}: {error}") from None


def bench(name: str, methods: str, budget_s: float, limit: int, out: Path) -> str:
    """The Markdown table of one data set, its missing rows measured."""
    task = make_task(SETS[name].task, SETS[name].fields)
    chosen = choose(methods, task)
    splits = read(SETS[name], task, limit)
    parts = (splits.train, splits.valid, splits.test)
    texts = (f"{one.input}\t{one.target}" for part in parts for one in part)
    settings = {
        "budget_s": budget_s,
        "train_valid_test": [len(part) for part in parts],
        "data": hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16],
        "threads": os.getenv("OMP_NUM_THREADS", "all"),
    }
    for note in splits.notes:
        console.print(f"{name}: {note}")
    rows = [finished(out, row, settings) or measure(out, row, settings, task, splits) for row in chosen]
    return table(name, task, settings, rows)


def choose(given: str, task: Task[Any, Any]) -> list[str]:
    """Names of methods and peers. Raises UserError for an unknown one."""
    ours, peers = methods_for(task), list(PEERS[task.name])
    groups = {"all": [*ours, *peers], "malmoi": ours, "peers": peers}
    names = groups.get(given) or given.split(",")
    for name in names:
        if name not in methods_for(task, all_known=True) + peers:
            raise UserError(f"no method {name!r} for {task.name}; {nearest(name, groups['all'])}")
    return names


# ---- one row


def row_file(out: Path, name: str) -> Path:
    return out / f"{re.sub(r'[^a-z0-9]+', '-', name.lower())}.json"


def finished(out: Path, name: str, settings: Json) -> Json | None:
    """The row measured before, if any. Raises UserError where it was measured otherwise."""
    file = row_file(out, name)
    row = read_json(file) if file.exists() else None
    if row and row["settings"] != settings:
        raise UserError(
            f"{file} was measured with {row['settings']}, not {settings}; remove it or give --out"
        )
    return row


def measure(out: Path, name: str, settings: Json, task: Task[Any, Any], splits: Splits) -> Json:
    """Train, predict, score, and keep the row. What fails is told in the table and tried again next time."""
    console.print(f"{out.name}: {name} ...")
    try:
        row = {"set": out.name, "method": name, "settings": settings, **learn(name, settings, task, splits)}
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        console.print(f"{out.name}: {name} failed: {type(error).__name__}: {reason}", markup=False)
        return {"method": name, "failed": reason}
    machine = {"cpu": cpu_name(), "versions": {library: version(library) for library in LIBRARIES}}
    write_json(row_file(out, name), {**row, **machine})
    return row


def learn(name: str, settings: Json, task: Task[Any, Any], splits: Splits) -> Json:
    inputs = [example.input for example in splits.test]
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    model, limits = fit(name, settings["budget_s"], task, splits)
    trained_s, trained_cpu_s = time.perf_counter(), time.process_time()
    found = model.predict(inputs)
    predictions = found.values if isinstance(found, Predictions) else found
    predicted_s = time.perf_counter()
    likelihoods = None
    if task.kind.goes_on and hasattr(model, "log_likelihood"):
        likelihoods = model.log_likelihood(inputs, [example.target for example in splits.test])
    metrics = task.score(predictions, splits.test, likelihoods)
    return {
        "metrics": {key: dataclasses.asdict(metric) for key, metric in metrics.items()},
        "training_s": trained_s - start_s,
        "training_cpu_s": trained_cpu_s - start_cpu_s,
        "predictions_per_s": len(inputs) / (predicted_s - trained_s),
        "limits": limits,
        "predictions": [task.to_json(one, value) for one, value in zip(predictions, inputs, strict=True)],
    }


def fit(name: str, budget_s: float, task: Task[Any, Any], splits: Splits) -> tuple[Method | Any, str]:
    """The trained peer or method, and what was cut short."""
    if name in PEERS[task.name]:
        peer: Peer = PEERS[task.name][name]()
        peer.fit(splits.train, splits.valid, budget_s)
        return peer, peer.limits
    method = make_method(name, task, {})
    facts = method.fit(splits.train, splits.valid, Work(Budget(seconds=budget_s))).facts
    return method, f"{facts['steps']} steps" if "steps" in facts else ""


# ---- the table


def table(name: str, task: Task[Any, Any], settings: Json, rows: Sequence[Json]) -> str:
    """Markdown, the best row of the task's first metric on top, failures at the end."""
    done = sorted((row for row in rows if "failed" not in row), key=order(task.primary), reverse=True)
    names = list(dict.fromkeys([task.primary, *(key for row in done for key in row["metrics"])]))
    sizes = " / ".join(f"{size:,}" for size in settings["train_valid_test"])
    lines = [
        f"### {name} ({task.name}; train / held out / reported: {sizes})\n",
        line(["method", *names, "training s", "CPU s", "predictions/s", "remarks"]),
        line(["---", *["---:" for _ in names], "---:", "---:", "---:", "---"]),
    ]
    lines += [line([label(row, task), *cells(row, names), row["limits"]]) for row in done]
    lines += [f"\n{row['method']} failed: {row['failed']}" for row in rows if "failed" in row]
    if task.name in MISSING:
        lines.append(f"\nPeers: {MISSING[task.name]}.")
    threads, budget_s = settings["threads"], settings["budget_s"]
    return "\n".join(
        [*lines, f"\n{cpu_name()}, {threads} threads, at most {budget_s:g} s of training a row.\n"]
    )


def order(primary: str) -> Callable[[Json], float]:
    """A row's place: larger is better, and a row without the metric comes last."""

    def place(row: Json) -> float:
        metric = row["metrics"].get(primary)
        if metric is None:
            return float("-inf")
        return metric["value"] if metric["higher_is_better"] else -metric["value"]

    return place


def label(row: Json, task: Task[Any, Any]) -> str:
    return row["method"] if row["method"] in PEERS[task.name] else f"**malmoi {row['method']}**"


def cells(row: Json, names: Sequence[str]) -> list[str]:
    metrics = [row["metrics"].get(name) for name in names]
    values = [str(Metric(one["value"], tuple(one["interval"]))) if one else "n/a" for one in metrics]
    return [*values, *(f"{row[key]:,.1f}" for key in ("training_s", "training_cpu_s", "predictions_per_s"))]


def line(parts: Sequence[str]) -> str:
    return f"| {' | '.join(parts)} |"


if __name__ == "__main__":
    keep_heap()
    main()
