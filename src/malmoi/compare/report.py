"""The report: one HTML file with everything in it, nothing fetched from anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

import malmoi
from malmoi.compare.plots import COLOURS, Curve, loss_curves
from malmoi.core import Result
from malmoi.inside.predictions import Prediction
from malmoi.inside.tokens import Cut
from malmoi.util.files import write_text
from malmoi.util.units import human_bytes, human_count, human_seconds


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
    steps: Sequence[tuple[str, float]]  # what took how many seconds
    next_commands: Sequence[str]


def write_report(report: Report, path: Path) -> None:
    """Render `report` to one self-contained HTML file."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "seconds": human_seconds, "bytes": human_bytes, "count": human_count, "visible": visible,
        "heat": heat, "one_line": one_line,
    }  # fmt: skip
    template = (files("malmoi.compare") / "report.html").read_text(encoding="utf-8")
    plot = loss_curves(report.curves, x_label="tokens read", y_label="bits per byte (validation)")
    page = environment.from_string(template).render(
        report=report, version=malmoi.__version__, colours=COLOURS, loss_plot=Markup(plot)
    )
    write_text(path, page)


def visible(piece: str) -> str:
    """A token's text with its white space made visible: a line end as a sign and a line end."""
    return piece.replace("\n", "\u23ce\n").replace("\t", "\u21e5")


def one_line(text: str) -> str:
    """A text without its line ends."""
    return " ".join(text.split())


def heat(loss: float) -> str:
    """A background for a loss: none for a sure prediction, red for a surprise of 8 nats or more."""
    return f"rgba(226, 68, 60, {min(1.0, loss / 8) * 0.75:.2f})"
