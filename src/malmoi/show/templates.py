"""HTML pages in one file each: the style is inside, nothing is fetched from anywhere, no script is needed."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from malmoi.show.charts import COLOURS
from malmoi.util.units import counted, human_bytes, human_count, human_seconds
from malmoi.util.version import VERSION


def render(template: str, values: Mapping[str, Any]) -> str:
    """A template of this package with `values` in it, escaped."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        loader=FunctionLoader(lambda name: (files("malmoi.show") / name).read_text(encoding="utf-8")),
    )  # fmt: skip
    environment.filters |= {
        "seconds": human_seconds, "bytes": human_bytes, "count": human_count, "visible": visible,
        "heat": heat, "one_line": one_line, "shortened": shortened, "latency": latency, "counted": counted,
    }  # fmt: skip
    page = environment.get_template(template)
    return page.render({**values, "version": VERSION, "colours": COLOURS})


def visible(piece: str) -> str:
    """A token's text with its white space made visible: a line end as a sign and a line end."""
    return piece.replace("\n", "\u23ce\n").replace("\t", "\u21e5")


def one_line(text: str) -> str:
    """A text without its line ends."""
    return " ".join(text.split())


def shortened(text: str, most: int = 400) -> str:
    """The first characters of a long text."""
    return text if len(text) <= most else f"{text[:most].rstrip()} \u2026"


def latency(seconds: float) -> str:
    """A short time in milliseconds."""
    return f"{1000 * seconds:.3g} ms" if seconds < 0.9995 else human_seconds(seconds)


def heat(loss: float) -> str:
    """A background for a loss: none for a sure prediction, red for a surprise of 8 nats or more."""
    return f"rgba(226, 68, 60, {min(1.0, loss / 8) * 0.75:.2f})"
