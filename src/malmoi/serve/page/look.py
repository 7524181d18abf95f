"""How the page looks: the system's fonts, our colours, light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import gradio as gr
from gradio.themes import Base, Default
from gradio.themes.utils.fonts import Font

from malmoi.serve.catalogue import Entry, TaskEntry

FONTS = (
    "system-ui", "-apple-system", "Segoe UI", "Apple SD Gothic Neo", "Malgun Gothic", "Noto Sans CJK KR",
    "Noto Sans KR", "NanumGothic", "sans-serif",
)  # fmt: skip
MONO = ("ui-monospace", "SFMono-Regular", "Consolas", "NanumGothicCoding", "monospace")
ICON = (  # SVG
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9">'
    '<rect width="9" height="9" rx="2" fill="#4c8df6"/>'
    '<path d="M2 6V3l2.5 2L7 3v3" stroke="#fff" fill="none"/></svg>'
)

CSS = """
.gradio-container { max-width: 72rem !important; width: 100% !important; margin: 0 auto !important; }
:root { --soft: #566070; } .dark { --soft: #a6b0be; }
.soft { color: var(--soft); font-size: .93rem; line-height: 1.5; }
.warn { color: #c2410c; } .dark .warn { color: #fdba74; }
.status { min-height: 1.5rem; font-variant-numeric: tabular-nums; }
.line-break { display: block !important; height: 0; }
.textfield { display: block !important; word-break: normal !important; overflow-wrap: anywhere;
  line-height: 1.9; }
.pictures figure { margin: 0 0 1.4rem; padding: .9rem 1.1rem 1.1rem; border-radius: .6rem;
  border: 1px solid var(--border-color-primary); background: var(--background-fill-primary); }
.pictures h3 { margin: 0 0 .2rem; font-size: 1.05rem; } .pictures figcaption { margin: 0 0 .6rem; }
.pictures .frame { overflow-x: auto; background: #fff; border-radius: .4rem; padding: .3rem; }
.pictures img { display: block; max-width: 100%; margin: 0 auto; }
@media (max-width: 40rem) { .pictures img { max-width: none; width: 44rem; } }
#conversation .icon-button-wrapper { display: none; }
.scroll { overflow-x: auto; }
table.results { border: 0 !important; border-collapse: collapse; width: 100%; font-size: .93rem; }
table.results th, table.results td { padding: .4rem .6rem !important; text-align: left; white-space: nowrap;
  border: 0 !important; border-bottom: 1px solid var(--border-color-primary) !important; }
table.results .number { text-align: right; font-variant-numeric: tabular-nums; }
table.results tr.winner td { background: color-mix(in srgb, #35a77c 16%, transparent); }
table.results small { color: var(--soft); }
.badge { background: #237a5a; color: #fff; border-radius: .3rem; padding: .05rem .4rem; font-size: .75rem; }
iframe.report { width: 100%; height: 46rem; border-radius: .6rem; background: #fff;
  border: 1px solid var(--border-color-primary); }
"""


def theme() -> Base:
    """A quiet theme that loads no font."""
    return Default(
        primary_hue="blue", neutral_hue="slate",
        font=[Font(name) for name in FONTS], font_mono=[Font(name) for name in MONO],
    )  # fmt: skip


def panel(content: str = "", *, sanitize: bool = True, **options: Any) -> gr.Markdown:
    """A place for our own HTML on one line, its texts from `safe`. (gr.HTML needs a policy with `eval`.)

    sanitize: False only for what holds nothing but constants and numbers.
    """
    return gr.Markdown(content, sanitize_html=sanitize, latex_delimiters=[], **options)


def safe(text: str) -> str:
    """Any text within `panel`: no HTML in it, and on one line, for Markdown would begin after a line end."""
    return escape(text).replace("\r", "").replace("\n", "&#10;")


def note(text: str, *, kind: str = "soft") -> str:
    """One line of plain text as HTML of a class."""
    return f'<div class="{kind} status">{safe(text)}</div>'


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
