"""A picture with its explanation, the look that all of them share, and the page that has them all inside.

Text in a picture may be Korean: every figure is made inside `drawing`, which lists fonts that have Hangul
behind matplotlib's own.
"""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names
from matplotlib.layout_engine import ConstrainedLayoutEngine

from malmoi.show import palette
from malmoi.show.palette import HANGUL_FONTS, INK, LINE, PAPER, SOFT
from malmoi.show.templates import render
from malmoi.util.files import write_bytes, write_text

SHARE = LinearSegmentedColormap.from_list("share", palette.SHARE)  # 0..1
SIGNED = LinearSegmentedColormap.from_list("signed", palette.SIGNED)
SURPRISE = LinearSegmentedColormap.from_list("surprise", palette.SURPRISE)
INDEX = "index.html"
DOTS_PER_INCH = 110
_BYTE = r"\x"
_BYTES = re.compile(r"(?:\\x[0-9a-f]{2})+")  # how `Tokenizer.token_text` writes a part of a character


@dataclass(frozen=True, slots=True)
class Picture:
    """name: for a file. explanation: what is seen and how to read it, in plain sentences."""

    name: str
    title: str
    explanation: str
    figure: Figure

    def png(self) -> bytes:
        """The figure as a PNG file's content."""
        content = io.BytesIO()
        with drawing():
            FigureCanvasAgg(self.figure).print_png(content)
        return content.getvalue()


def data_uri(png: bytes) -> str:
    """A PNG file's content as the source of an <img>, so that nothing is fetched."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def write_pictures(folder: Path, pictures: Sequence[Picture], *, title: str, text: str) -> Path:
    """Write each picture as NAME.png and all of them into index.html, whose path is returned.

    Pictures of the same names are replaced, nothing else in the folder is touched.
    """
    shown: list[tuple[Picture, str]] = []
    for picture in pictures:
        png = picture.png()
        write_bytes(folder / f"{picture.name}.png", png)
        shown.append((picture, data_uri(png)))
    write_text(folder / INDEX, render("gallery.html", {"title": title, "text": text, "pictures": shown}))
    return folder / INDEX


@cache
def fonts() -> list[str]:
    """The installed fonts that are used, in order: a letter is drawn by the first that has it."""
    installed = set(get_font_names())
    return ["DejaVu Sans", *(name for name in HANGUL_FONTS if name in installed)]


@contextmanager
def drawing() -> Iterator[None]:
    """The settings under which figures are made and drawn."""
    style: Any = {
        "font.family": fonts(), "font.size": 10.0, "text.color": INK, "axes.edgecolor": LINE,
        "axes.labelcolor": SOFT, "xtick.color": INK, "ytick.color": INK, "axes.unicode_minus": False,
        "figure.dpi": DOTS_PER_INCH, "text.parse_math": False,
    }  # fmt: skip
    with mpl.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # no font has every letter: it is drawn as a box
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure; inches."""
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    return Figure(figsize=(width, height), layout=layout, facecolor=PAPER)


def bare(axes: Axes) -> Axes:
    """Without the lines to the right and above."""
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def label_tokens(axes: Axes, tokens: Sequence[str], *, x: bool = True, y: bool = False) -> None:
    """One token a place along an axis, those of x upright."""
    size = 9.5 if len(tokens) <= 30 else 8.0
    names, places = [shown(token) for token in tokens], range(len(tokens))
    if x:
        axes.set_xticks(places, names, rotation=90, fontsize=size)
    if y:
        axes.set_yticks(places, names, fontsize=size)
    axes.tick_params(length=0)


def shown(token: str, most: int = 14) -> str:
    """A token on one line (of a long one the beginning): white space visible, bytes as ‹eb b9›."""
    text = token.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "␣")
    text = printable(text)
    text = _BYTES.sub(lambda found: f"‹{found[0][2:].replace(_BYTE, ' ')}›", text)
    return text if len(text) <= most else text[: most - 1] + "…"


def printable(text: str) -> str:
    """The text with a dot for every control character."""
    return "".join(letter if letter.isprintable() else "·" for letter in text)


def ink_on(shade: float) -> str:
    """A text colour that is legible on SHARE's colour of `shade`."""
    return PAPER if shade > 0.5 else INK
