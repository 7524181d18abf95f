"""HTML from templates, escaped: pages in one file each, and parts of the served page.

The style is inside a page, nothing is fetched from anywhere, no script is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from malmoi.show import palette
from malmoi.util.units import counted, human_bytes, human_count, human_seconds, latency
from malmoi.util.version import VERSION

_STYLE = {
    "light": palette.variables(palette.BOTH | palette.LIGHT), "dark": palette.variables(palette.DARK),
    "fonts": palette.font_family(palette.PAGE_FONTS),
}  # fmt: skip


def render(template: str, values: Mapping[str, Any]) -> str:
    """A page of this package with `values` in it."""
    return _environment(on_one_line=False).get_template(template).render(values)


def piece(name: str, **values: Any) -> str:
    """A part of the served page, on one line whatever the texts in it: Markdown would begin after a line end.

    It is shown as Markdown because gradio's own HTML needs a policy with `eval`.
    """
    macro = getattr(_environment(on_one_line=True).get_template("pieces.html").module, name)
    return str(macro(**values)).replace("\n", "")


@cache
def _environment(*, on_one_line: bool) -> Environment:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=_without_line_ends if on_one_line else None,
        loader=FunctionLoader(lambda name: (files("malmoi.show") / name).read_text(encoding="utf-8")),
    )  # fmt: skip
    environment.filters |= {
        "seconds": human_seconds, "bytes": human_bytes, "count": human_count, "visible": visible,
        "heat": heat, "one_line": one_line, "shortened": shortened, "latency": latency, "counted": counted,
    }  # fmt: skip
    environment.globals |= {"version": VERSION, "style": {name: Markup(it) for name, it in _STYLE.items()}}
    return environment


def _without_line_ends(value: Any) -> Markup:
    """Escaped, with signs that stand for line ends."""
    return Markup(str(escape(value)).replace("\r", "").replace("\n", "&#10;"))


def visible(piece: str) -> str:
    """A token's text with its white space made visible: a line end as a sign and a line end."""
    return piece.replace("\n", "\u23ce\n").replace("\t", "\u21e5")


def one_line(text: str) -> str:
    """A text without its line ends."""
    return " ".join(text.split())


def shortened(text: str, most: int = 400) -> str:
    """The first characters of a long text."""
    return text if len(text) <= most else f"{text[:most].rstrip()} \u2026"


def heat(loss: float) -> str:
    """A background for a loss: none for a sure prediction, red for a surprise of 8 nats or more."""
    return palette.veil(palette.HOT, min(1.0, loss / 8) * 0.75)
