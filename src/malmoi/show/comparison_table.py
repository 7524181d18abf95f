"""The comparison on a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from malmoi.compare.comparison import Comparison
from malmoi.compare.verdict import PER, Row, show
from malmoi.show.templates import latency
from malmoi.util.units import human_bytes, human_count, human_seconds

WIDE = 100  # columns of a terminal


def show_comparison(comparison: Comparison, width: int = WIDE) -> Group:
    """The table (the winner in bold), the advice and where everything is, for `console.print`.

    width: of the terminal; a narrow one leaves out memory and disk.
    """
    verdict = comparison.verdict
    unit = f"{PER[comparison.cost_count]} ({comparison.cost_unit})".removesuffix(" ()")
    numbers = (unit, "one", "per s", "training", *(("memory", "disk") if width >= WIDE else ()))
    table = Table("method", verdict.words, "than the best", box=None, pad_edge=False)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for row in comparison.rows:
        style = "bold" if row is verdict.winner else ""
        cells = (row.name, *_cells(row, comparison))[: 3 + len(numbers)]
        table.add_row(*map(Text, cells), style=style)
    ready = f"the winner is in {comparison.winner_folder}; " if verdict.winner else ""
    where = f"{ready}figures and errors side by side: {comparison.out / 'report.html'}"
    told = Text(f"\n{comparison.advice}", "bold green"), Text(where, "dim")
    return Group(table, *_shots(comparison), *told)


def _shots(comparison: Comparison) -> Iterator[RenderableType]:
    """A table of the metric by the number of shots, where that was measured."""
    if not comparison.shots_curve:
        return
    verdict = comparison.verdict
    table = Table(f"{verdict.words} with shots", box=None, pad_edge=False)
    for count in comparison.settings.shots_curve:
        table.add_column(str(count), justify="right")
    for name, points in comparison.shots_curve.items():
        found = {count: show(verdict.metric, metric) for count, metric in points}
        table.add_row(name, *(found.get(count, "failed") for count in comparison.settings.shots_curve))
    yield Text()
    yield table


def _chance(row: Row, comparison: Comparison) -> str:
    """Whether it may be as good as the best."""
    verdict = comparison.verdict
    return verdict.shortfall(row) or ("" if row is verdict.best else "maybe as good")


def _cells(row: Row, comparison: Comparison) -> list[str]:
    verdict, costs = comparison.verdict, row.costs
    if verdict.metric not in row.metrics:
        return ["", f"failed: {row.error}" if row.error else f"has no {verdict.words}"]
    return [
        verdict.quality(row), _chance(row, comparison),
        comparison.cost(row), latency(costs["latency_p50_s"]), human_count(costs["predictions_per_s"]),
        human_seconds(costs["train_seconds"]), human_bytes(costs["predict_peak_bytes"]),
        human_bytes(costs["disk_bytes"]),
    ]  # fmt: skip
