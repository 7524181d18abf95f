"""The demo's second act: the seven tasks on the sample world, small methods of every family side by side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.markup import escape

from malmoi.compare.comparison import Comparison
from malmoi.compare.runner import run_comparison
from malmoi.compare.settings import ComparisonSettings
from malmoi.demo.material import WORLD_LICENCE
from malmoi.methods.registry import methods_for
from malmoi.show.comparison_report import REPORT, write_comparison
from malmoi.show.demo_report import TaskCell, TaskLine
from malmoi.show.terminal import console
from malmoi.tasks import make_task, sampled_tasks, write_samples
from malmoi.tasks.kinds import CONTINUATION, LABEL, SPAN, TAGS, TEXT, Kind
from malmoi.util.files import write_text
from malmoi.world import documents

DOCUMENTS, TEST_DOCUMENTS = 3000, 600  # of which a task takes as many rows as it needs
ROWS, QUICK_ROWS = 2000, 400
TEST_ROWS, QUICK_TEST_ROWS = 120, 40
MEASURE_S = 0.2
FAMILIES = ("traditional", "recurrent", "transformer", "prompted")
TITLES = {"prompted": "one model"}
ONE = "prompted"  # the method that asks the model tuned on all tasks
# What suits networks that have seconds to learn, by the kind of task.
SMALL: dict[Kind, dict[str, Any]] = {
    LABEL: {"vocab_size": 2048, "width": 64},
    TAGS: {"width": 64},
    SPAN: {"width": 64, "batch": 16},
    TEXT: {"vocab_size": 2048, "width": 128, "layers": 1, "beams": 2, "max_target": 64},
    CONTINUATION: {
        "vocab_size": 2048, "width": 128, "layers": 1, "lr": 0.02, "batch": 8, "max_new_tokens": 24,
        "context": 256,
    },
}  # fmt: skip


def compare_tasks(out: Path, one_model: Path, *, seconds: float, quick: bool) -> list[Comparison]:
    """Compare the methods of every task, each network with `seconds` to learn, and the one model.

    Reads out/examples/TASK (see `write_rows`), writes out/tasks/TASK, a comparison.
    """
    found: list[Comparison] = []
    for name in sampled_tasks():
        settings = _settings(name, out, one_model, seconds, quick)
        found.append(run_comparison(settings, out / "tasks" / name, isolated=False))
        write_comparison(found[-1])
        console.print(f"[bold]{name}[/] {escape(found[-1].advice)}")
    return found


def write_rows(out: Path, *, quick: bool) -> None:
    """out/examples/TASK, rows in the formats of users' files, English and Korean by turns.

    What is measured has combinations of facts that training never saw.
    """
    rows, test_rows = (QUICK_ROWS, QUICK_TEST_ROWS) if quick else (ROWS, TEST_ROWS)
    for task in sampled_tasks():
        folder = out / "examples" / task
        write_samples(folder / "train.jsonl", task, documents(DOCUMENTS), rows)
        write_samples(folder / "valid.jsonl", task, documents(TEST_DOCUMENTS, split="valid"), test_rows)
    write_text(out / "examples" / "LICENSE", WORLD_LICENCE)


def _settings(name: str, out: Path, one_model: Path, seconds: float, quick: bool) -> ComparisonSettings:
    task, folder = make_task(name), out / "examples" / name
    neural: dict[str, dict[str, Any]] = dict.fromkeys(("lstm", "transformer"), SMALL[task.kind])
    return ComparisonSettings(
        task=name, train=folder / "train.jsonl", valid=folder / "valid.jsonl",
        methods={method: neural.get(method, {}) for method in methods_for(task)} | {
            ONE: {"model": str(one_model), "shots": 0}
        },
        budget_seconds=seconds,
        measure_seconds=MEASURE_S, test_limit=QUICK_TEST_ROWS if quick else TEST_ROWS,
    )  # fmt: skip


def task_line(found: Comparison) -> TaskLine:
    """What the reports show of one task."""
    verdict, link = found.verdict, f"tasks/{found.settings.task}/{REPORT}"
    cells = {TITLES.get(family, family): list(_cells(found, family)) for family in FAMILIES}
    return TaskLine(found.settings.task, verdict.words, cells, found.advice, link)


def _cells(found: Comparison, family: str) -> Iterator[TaskCell]:
    """The methods of one family, best first."""
    verdict = found.verdict
    for row in verdict.ranking:
        if row.family == family:
            latency = f"{1000 * row.costs['latency_p50_s']:.2g} ms"
            yield TaskCell(row.name, verdict.quality(row), latency, row is verdict.winner)
    for row in verdict.left_out:
        if row.family == family:
            yield TaskCell(row.name, "failed" if row.error else "n/a", "", False)
