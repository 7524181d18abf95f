"""How the page looks: the system's fonts, our colours, light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
from gradio.themes import Base, Default
from gradio.themes.utils.fonts import Font

from malmoi.serve.catalogue import Entry, TaskEntry
from malmoi.show.palette import BLUE, MONO_FONTS, PAGE_FONTS
from malmoi.show.templates import piece, render

ICON = (  # SVG
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9">'
    f'<rect width="9" height="9" rx="2" fill="{BLUE}"/>'
    '<path d="M2 6V3l2.5 2L7 3v3" stroke="white" fill="none"/></svg>'
)

CSS = render("served.css", {})


def theme() -> Base:
    """A quiet theme that loads no font."""
    return Default(
        primary_hue="blue", neutral_hue="slate", font=[Font(name) for name in PAGE_FONTS],
        font_mono=[Font(name) for name in MONO_FONTS],
    )  # fmt: skip


def panel(content: str = "", *, sanitize: bool = True, **options: Any) -> gr.Markdown:
    """A place for our own HTML, from `malmoi.show.templates:piece`. (gr.HTML needs a policy with `eval`.)

    sanitize: False only for what holds nothing but constants and numbers.
    """
    return gr.Markdown(content, sanitize_html=sanitize, latex_delimiters=[], **options)


def note(text: str, *, kind: str = "soft") -> str:
    """One line of plain text as HTML of a class."""
    return piece("note", text=text, kind=kind)


def named(entries: Mapping[str, Entry]) -> list[tuple[str, str]]:
    """The choices of a model picker: what is shown, and the name."""
    return [
        (f"{name} (method {e.method.method.name})" if isinstance(e, TaskEntry) else name, name)
        for name, e in entries.items()
    ]


def joined(parts: Sequence[str]) -> str:
    """The parts that there are, on one line."""
    return " \u00b7 ".join(part for part in parts if part)


def clickable(rows: Sequence[Sequence[str]], boxes: Sequence[gr.Textbox]) -> None:
    """Examples that fill the boxes when they are clicked on, a row of texts each.

    gr.Examples would ask past the queue, at an address that the page's policy shuts.
    """
    samples = [list(row) for row in rows]
    shown = gr.Dataset(components=[*boxes], samples=samples, label="For example", elem_classes="examples")

    def chosen(row: Sequence[str]) -> Any:
        return row[0] if len(boxes) == 1 else list(row)

    shown.click(
        chosen, shown, [*boxes], api_visibility="private", concurrency_limit=None, show_progress="hidden"
    )
