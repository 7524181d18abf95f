"""The report: one HTML file with everything in it, nothing fetched from anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from malmoi.core.nouns import Result
from malmoi.inside.predictions import Prediction
from malmoi.inside.tokens import Cut
from malmoi.show.charts import Curve, loss_curves
from malmoi.show.templates import one_line, render, visible
from malmoi.util.files import write_text

__all__ = ["Report", "one_line", "visible", "write_report"]


@dataclass(frozen=True, slots=True)
class TaskCell:
    """One method on one task: its quality, and the median time of one prediction."""

    method: str
    quality: str
    latency: str
    wins: bool


@dataclass(frozen=True, slots=True)
class TaskLine:
    """One task: the methods of each family, what the comparison advises, and where its own report is."""

    task: str
    metric: str
    cells: Mapping[str, Sequence[TaskCell]]
    advice: str
    link: str


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question to the same model before it was tuned (it completes) and after (it answers)."""

    question: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class OneModelLine:
    """One task: the best small model against the one model of all tasks, which is also told by language."""

    task: str
    metric: str
    small: str
    small_quality: str
    quality: str
    english: str
    korean: str


@dataclass(frozen=True, slots=True)
class Report:
    """What a demo found, in the order in which the page tells it."""

    title: str
    machine: str
    cuts: Mapping[str, Sequence[Cut]]  # language or text name -> the same text cut in several ways
    growth: Sequence[tuple[str, Sequence[str]]]  # moment of training -> the completion of every prompt
    prompts: Sequence[str]
    curves: Sequence[Curve]  # tokens seen, bits per byte
    results: Sequence[Result]
    sentence: Sequence[Prediction]
    row: Sequence[Prediction]
    tasks: Sequence[TaskLine]  # none where the text is the user's own, without labels
    exchanges: Sequence[Exchange]
    one_model: Sequence[OneModelLine]
    steps: Sequence[tuple[str, float]]  # what took how many seconds
    next_commands: Sequence[str]


def write_report(report: Report, path: Path) -> None:
    """Render `report` to one self-contained HTML file."""
    plot = loss_curves(report.curves, x_label="tokens read", y_label="bits per byte (validation)")
    write_text(path, render("report.html", {"report": report, "loss_plot": Markup(plot)}))
