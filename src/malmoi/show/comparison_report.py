"""A comparison for people: the page, and the table on a terminal."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from itertools import cycle

from markupsafe import Markup
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from malmoi.compare.comparison import Comparison, label_scores
from malmoi.compare.verdict import OVERLAP, PER, SAME_COST, MethodRow, one_latency, show, timed_beside
from malmoi.metrics.adequacy import ADEQUACY
from malmoi.show.charts import Look, Points, confidence_curves, measured_curves, quality_against_cost
from malmoi.show.palette import COLOURS, GREEN, HOT, MARKERS, veil
from malmoi.show.templates import render
from malmoi.show.terminal import console
from malmoi.util.files import write_text
from malmoi.util.units import human_bytes, human_count, human_seconds

REPORT = "report.html"
WIDE, WIDER = 100, 112  # columns of a terminal
SNIPPET = """import malmoi

print(malmoi.load({folder}).predict({value}))"""


def present(comparison: Comparison) -> None:
    """Write the page, and print the table on the terminal."""
    write_comparison(comparison)
    console.print(show_comparison(comparison, console.width))


# ---- the page


def write_comparison(comparison: Comparison) -> None:
    """Write report.html, one self-contained file, into the comparison's folder."""
    verdict, (command, snippet) = comparison.verdict, _usage(comparison)
    settings = comparison.settings.model_dump(mode="json")
    values = {
        "comparison": comparison, "verdict": verdict, "material": comparison.material,
        "adequacy": ADEQUACY if adequacy_shown(comparison) else "",
        "settings": comparison.settings, "show": show, "shade": shade, "same_cost": SAME_COST,
        "one_latency": one_latency,
        "margin": verdict.margin_words,
        "per": PER[comparison.cost_count], "command": command, "snippet": snippet,
        "columns": list(dict.fromkeys(name for row in verdict.ranking for name in row.metrics)),
        "picture": Markup(_picture(comparison)),
        "confidence": Markup(_confidence(comparison)),
        "by_label": label_scores(verdict, comparison.material),
        "curves": Markup(_curves(comparison, comparison.curve, "training examples")),
        "shots_curves": Markup(_curves(comparison, comparison.shots_curve, "shots")),
        "shown_settings": {name: json.dumps(value, ensure_ascii=False) for name, value in settings.items()},
    }  # fmt: skip
    write_text(comparison.out / REPORT, render("comparison.html", values))


def shade(count: int, total: int, right: bool) -> str:
    """The background of a cell of a confusion matrix: green where right, red where wrong."""
    return veil(GREEN if right else HOT, 0.75 * count / max(1, total))


def looks_of(comparison: Comparison) -> dict[str, Look]:
    """The colour and marker of every method, the same in all plots."""
    looks = zip(cycle(COLOURS), cycle(MARKERS), strict=False)
    return dict(zip(comparison.settings.methods, looks, strict=False))


def _picture(comparison: Comparison) -> str:
    verdict = comparison.verdict
    count = comparison.cost_count
    points = {row.name: (row.cost * count / 1000, row.metrics[verdict.metric]) for row in verdict.ranking}
    x_label = f"cost of {PER[count]} predictions ({comparison.cost_unit})".removesuffix(" ()")
    front = [row.name for row in verdict.front]
    looks, words = looks_of(comparison), verdict.words
    return quality_against_cost(points, looks, front, x_label=x_label, y_label=words) if points else ""


def _curves(comparison: Comparison, found: Mapping[str, Points], x_label: str) -> str:
    curves = {name: points for name, points in found.items() if len(points) > 1}
    looks, words = looks_of(comparison), comparison.verdict.words
    return measured_curves(curves, looks, x_label=x_label, y_label=words) if curves else ""


def _confidence(comparison: Comparison) -> str:
    is_right, test = comparison.material.task.is_right, comparison.material.test
    found = {
        row.name: (row.confidences, [*map(is_right, row.predictions, test)])
        for row in comparison.verdict.ranking if row.confidences
    }  # fmt: skip
    return confidence_curves(found, looks_of(comparison)) if found else ""


def _usage(comparison: Comparison) -> tuple[str, str]:
    """How to ask the winner, in a shell and in Python, with a short test input."""
    task, folder = comparison.material.task, str(comparison.winner_folder)
    values = [task.input_json(example.input) for example in comparison.material.test]
    value = min(values, key=lambda value: abs(len(str(value)) - 40))
    python = json.dumps(value, ensure_ascii=False)
    command = shlex.join(["malmoi", "predict", folder, value if isinstance(value, str) else python])
    return command, SNIPPET.format(folder=json.dumps(folder, ensure_ascii=False), value=python)


# ---- the terminal


def show_comparison(comparison: Comparison, width: int = WIDE) -> Group:
    """The table (the winner in bold), the advice and where everything is, for `console.print`.

    width: of the terminal; a narrow one leaves out memory and disk, and the time of all cores together.
    """
    verdict = comparison.verdict
    unit = f"{PER[comparison.cost_count]} ({comparison.cost_unit})".removesuffix(" ()")
    numbers = (unit, "one", "per s", "training", *(("memory", "disk") if width >= WIDE else ()))
    numbers += ("its cores",) if width >= WIDER else ()
    measures = (verdict.words, *([ADEQUACY] if adequacy_shown(comparison) else []))
    table = Table("method", *measures, "beside the best", box=None, pad_edge=False)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for row in comparison.rows:
        style = "bold" if row is verdict.winner else ""
        cells = (row.name, *_cells(row, comparison))[: 2 + len(measures) + len(numbers)]
        table.add_row(*map(Text, cells), style=style)
    if (least := verdict.floor.metrics.get(verdict.metric)) is not None:
        cells = (verdict.floor.name, show(verdict.metric, least), *[""] * (len(measures) - 1))
        table.add_row(*cells, "without learning", style="dim")
    busiest = max((row.costs for row in comparison.rows), key=lambda costs: costs.get("busy_cores", 0.0))
    ready = f"the winner is in {comparison.winner_folder}; " if verdict.winner else ""
    where = f"{ready}figures and errors side by side: {comparison.out / REPORT}"
    spreads = [Text(f"{row.name}: {row.spread}", "dim") for row in comparison.rows if row.spread]
    advice = Text(f"\n{comparison.advice}", "bold green"), Text(where, "dim")
    stars = [Text(line, "dim")] if (line := timed_beside(busiest)) else []
    return Group(table, *stars, *spreads, *_shots(comparison), *_preferences(comparison), *advice)


def _preferences(comparison: Comparison) -> Iterator[RenderableType]:
    """A table of what the judge prefers, where there was one."""
    if (judged := comparison.judgement) is None:
        return
    table = Table("judged", "wins", "95%", "won", "lost", "ties", "order decided", box=None, pad_edge=False)
    for one in judged.preferences:
        low, high = one.wins.interval or (0.0, 1.0)
        cells = (f"{one.wins.value:.1%}", f"{low:.1%} to {high:.1%}", one.won, one.lost, one.ties)
        table.add_row(f"{one.name} against {one.against}", *map(str, cells), str(one.inconsistent))
    yield Text()
    yield table


def adequacy_shown(comparison: Comparison) -> bool:
    """Whether there is a column of it beside that of the metric."""
    return comparison.verdict.metric in OVERLAP and comparison.material.adequacy is not None


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


def _cells(row: MethodRow, comparison: Comparison) -> list[str]:
    verdict, costs = comparison.verdict, row.costs
    if verdict.metric not in row.metrics:
        return ["", f"failed: {row.error}" if row.error else f"has no {verdict.words}"]
    adequacy = [show(ADEQUACY, row.metrics[ADEQUACY])] if adequacy_shown(comparison) else []
    return [
        verdict.quality(row), *adequacy, verdict.standing(row),
        comparison.cost(row), one_latency(costs), human_count(costs["predictions_per_s"]),
        human_seconds(costs["train_seconds"]), human_bytes(costs["predict_peak_bytes"]),
        human_bytes(costs["disk_bytes"]), human_seconds(costs.get("train_cpu_seconds", 0.0)),
    ]  # fmt: skip
