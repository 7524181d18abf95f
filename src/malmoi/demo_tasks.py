"""The demo's second act: the seven tasks on the sample world, small methods of every family side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from malmoi.compare.comparison import Comparison
from malmoi.compare.report import TaskCell, TaskLine
from malmoi.compare.run import run_comparison
from malmoi.compare.settings import ComparisonSettings
from malmoi.compare.verdict import Row
from malmoi.console import console
from malmoi.data.world import documents
from malmoi.data.world.labelled import write_labelled
from malmoi.methods.registry import methods_for
from malmoi.tasks import TASKS, make_task

DOCUMENTS, TEST_DOCUMENTS = 3000, 600  # of which a task takes as many rows as it needs
ROWS, QUICK_ROWS = 2000, 400
TEST_ROWS, QUICK_TEST_ROWS = 120, 40
MEASURE_S = 0.2
FAMILIES = ("traditional", "recurrent", "transformer")
# What suits networks that have seconds to learn, by the kind of task.
SMALL: dict[str, dict[str, Any]] = {
    "label": {"vocab_size": 2048, "width": 64},
    "tags": {"width": 64},
    "span": {"width": 64, "batch": 16},
    "text": {"vocab_size": 2048, "width": 128, "layers": 1, "beams": 2, "max_target": 64},
    "continuation": {
        "vocab_size": 2048,
        "width": 128,
        "layers": 1,
        "lr": 0.02,
        "batch": 8,
        "max_new_tokens": 24,
        "context": 256,
    },
}  # fmt: skip


def compare_tasks(out: Path, *, seconds: float, quick: bool, say: Callable[[str], None]) -> list[TaskLine]:
    """Compare the methods of every task, each network with so many seconds to learn.

    Writes out/examples/TASK, the rows in the formats of users' files, and out/tasks/TASK, a comparison.
    """
    lines = []
    for name in TASKS:
        _write_rows(out / "examples" / name, name, quick=quick)
        found = run_comparison(_settings(name, out, seconds, quick), out / "tasks" / name, isolated=False)
        lines.append(_line(found, f"tasks/{name}/report.html"))
        say(f"[bold]{name}[/] {escape(found.advice)}")
    return lines


def show_tasks(lines: Sequence[TaskLine]) -> None:
    """One table: a line for each task, a column for each family, the recommended method in bold."""
    table = Table("task", *FAMILIES, box=None, pad_edge=False)
    for line in lines:
        name = f"{line.task}\n[dim]by {line.metric}[/]"
        table.add_row(name, *(_shown(line, family) for family in FAMILIES))
    console.print(table)


def _write_rows(folder: Path, task: str, *, quick: bool) -> None:
    """English and Korean by turns; what is measured tells combinations that training never saw."""
    rows, test_rows = (QUICK_ROWS, QUICK_TEST_ROWS) if quick else (ROWS, TEST_ROWS)
    write_labelled(folder / "train.jsonl", task, documents(DOCUMENTS), rows)
    write_labelled(folder / "valid.jsonl", task, documents(TEST_DOCUMENTS, split="valid"), test_rows)


def _settings(name: str, out: Path, seconds: float, quick: bool) -> ComparisonSettings:
    task, folder = make_task(name), out / "examples" / name
    neural: dict[str, dict[str, Any]] = dict.fromkeys(("lstm", "transformer"), SMALL[task.kind])
    return ComparisonSettings(
        task=name, train=folder / "train.jsonl", valid=folder / "valid.jsonl",
        methods={method: neural.get(method, {}) for method in methods_for(task)}, budget_seconds=seconds,
        measure_seconds=MEASURE_S, test_limit=QUICK_TEST_ROWS if quick else TEST_ROWS,
    )  # fmt: skip


def _line(found: Comparison, link: str) -> TaskLine:
    verdict = found.verdict
    cells = {family: list(_cells(found, family)) for family in FAMILIES}
    return TaskLine(found.settings.task, verdict.words, cells, found.advice, link)


def _cells(found: Comparison, family: str) -> Iterator[TaskCell]:
    """The methods of one family, best first."""
    verdict = found.verdict
    for row in verdict.ranking:
        if row.family == family:
            yield TaskCell(row.name, verdict.quality(row), _speed(row), row is verdict.winner)
    for row in verdict.left_out:
        if row.family == family:
            yield TaskCell(row.name, "failed" if row.error else "n/a", "", False)


def _speed(row: Row) -> str:
    return f"{1000 * row.costs['latency_p50_s']:.2g} ms"


def _shown(line: TaskLine, family: str) -> str:
    style = {True: "bold green", False: "default"}
    return "\n".join(f"[{style[cell.wins]}]{cell.method} {cell.quality}[/]" for cell in line.cells[family])
