"""What a comparison found, as one value and as one HTML page."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from markupsafe import Markup

from malmoi.compare.contrast import Confusion, Contrast
from malmoi.compare.settings import ComparisonSettings, Material
from malmoi.compare.verdict import PER, SAME_COST, Row, Verdict, count_of_costs, show, show_cost
from malmoi.core.nouns import Metric
from malmoi.methods.use import WINNER
from malmoi.show.charts import COLOURS, MARKERS, Look, Points, measured_curves, quality_against_cost
from malmoi.show.templates import render
from malmoi.util.files import write_text

SNIPPET = """import malmoi

print(malmoi.load({folder}).predict({value}))"""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that the report tells."""

    settings: ComparisonSettings
    out: Path
    material: Material
    verdict: Verdict
    advice: str
    curve: dict[str, list[tuple[int, Metric]]]  # method -> training examples and the metric after them
    shots_curve: dict[str, list[tuple[int, Metric]]]  # method -> shots and the metric with them
    shots_notes: list[str]
    contrasts: list[Contrast]
    confusions: dict[str, Confusion]  # of every method, for tasks of kind `label`
    machine: str
    versions: dict[str, str]
    isolated: bool  # each method in processes of its own

    @property
    def rows(self) -> list[Row]:
        """Every method, best first, the failed ones last."""
        return [*self.verdict.ranking, *self.verdict.left_out]

    @property
    def winner_folder(self) -> Path:
        """The winner, ready to use (where there is one)."""
        return self.out / WINNER

    @property
    def cost_unit(self) -> str:
        """What costs are counted in."""
        return self.settings.currency if self.settings.price_per_hour else "s"

    @property
    def cost_count(self) -> int:
        """How many predictions the shown costs are of."""
        return count_of_costs(row.cost for row in self.rows if row.costs)

    @property
    def looks(self) -> dict[str, Look]:
        """The colour and marker of every method, the same in all plots."""
        return dict(
            zip(self.settings.methods, zip(cycle(COLOURS), cycle(MARKERS), strict=False), strict=False)
        )

    def cost(self, row: Row) -> str:
        """What `cost_count` predictions of a method cost."""
        return show_cost(row.cost, self.cost_count)


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Render `comparison` to one self-contained HTML file."""
    verdict, (command, snippet) = comparison.verdict, _usage(comparison)
    settings = comparison.settings.model_dump(mode="json")
    values = {
        "comparison": comparison, "verdict": verdict, "material": comparison.material,
        "settings": comparison.settings, "show": show, "shade": shade, "same_cost": SAME_COST,
        "margin": verdict.margin_words,
        "per": PER[comparison.cost_count], "command": command, "snippet": snippet,
        "columns": list(dict.fromkeys(name for row in verdict.ranking for name in row.metrics)),
        "picture": Markup(_picture(comparison)),
        "curves": Markup(_curves(comparison, comparison.curve, "training examples")),
        "shots_curves": Markup(_curves(comparison, comparison.shots_curve, "shots")),
        "shown_settings": {name: json.dumps(value, ensure_ascii=False) for name, value in settings.items()},
    }  # fmt: skip
    write_text(path, render("comparison.html", values))


def shade(count: int, total: int, right: bool) -> str:
    """The background of a cell of a confusion matrix: green where right, red where wrong."""
    return f"rgba({'53, 167, 124' if right else '226, 68, 60'}, {0.75 * count / max(1, total):.2f})"


def _picture(comparison: Comparison) -> str:
    verdict = comparison.verdict
    count = comparison.cost_count
    points = {row.name: (row.cost * count / 1000, row.metrics[verdict.metric]) for row in verdict.ranking}
    x_label = f"cost of {PER[count]} predictions ({comparison.cost_unit})".removesuffix(" ()")
    front = [row.name for row in verdict.front]
    looks, words = comparison.looks, verdict.words
    return quality_against_cost(points, looks, front, x_label=x_label, y_label=words) if points else ""


def _curves(comparison: Comparison, found: Mapping[str, Points], x_label: str) -> str:
    curves = {name: points for name, points in found.items() if len(points) > 1}
    looks, words = comparison.looks, comparison.verdict.words
    return measured_curves(curves, looks, x_label=x_label, y_label=words) if curves else ""


def _usage(comparison: Comparison) -> tuple[str, str]:
    """How to ask the winner, in a shell and in Python, with a short test input."""
    task, folder = comparison.material.task, str(comparison.winner_folder)
    values = [task.input_json(example.input) for example in comparison.material.test]
    value = min(values, key=lambda value: abs(len(str(value)) - 40))
    python = json.dumps(value, ensure_ascii=False)
    command = shlex.join(["malmoi", "predict", folder, value if isinstance(value, str) else python])
    return command, SNIPPET.format(folder=json.dumps(folder, ensure_ascii=False), value=python)
