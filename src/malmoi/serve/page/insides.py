"""The tab that shows what happens to a text inside of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr
from torch import nn

from malmoi.core.errors import UserError
from malmoi.inside.attention import depth
from malmoi.serve.catalogue import Entry, TaskEntry
from malmoi.serve.page.look import clickable, named, note, panel
from malmoi.serve.worker import REPORTED, Worker
from malmoi.show.gallery import pictures_of
from malmoi.show.picture import data_uri
from malmoi.show.templates import piece

MOST_CHARACTERS = 2000
CHOOSE = "0: one that shows something."
EXAMPLES = ("The little bridge on Kettle Street was closed.", "토요일에 배 열한 척이 버들연못에서 떠났다.")


def inside_tab(catalogue: Mapping[str, Entry], worker: Worker) -> None:
    """Build the tab, within gr.Blocks."""
    panel(note("Write a sentence and see how the model reads it: its tokens, its guesses, where it looks."))
    names = list(catalogue)
    layers, heads = depth(network(catalogue[names[0]]))
    with gr.Row():
        model = gr.Dropdown(named(catalogue), value=names[0], label="Model", filterable=False, min_width=260)
        layer = _slider(layers, label="Layer", info=CHOOSE)
        head = _slider(heads, label="Head of attention", info=CHOOSE)
    text = gr.Textbox(
        EXAMPLES[0], label="Text", lines=2, max_lines=6, max_length=MOST_CHARACTERS, elem_id="inside-text"
    )
    run = gr.Button("Show the inside", variant="primary", elem_id="inside-run")
    clickable([[example] for example in EXAMPLES], [text])
    shown = panel(elem_id="inside-pictures")

    async def show(name: str, text: str | None, layer: float, head: float) -> str:
        try:
            if not text or not text.strip():
                raise UserError("write a text first")
            if len(text) > MOST_CHARACTERS:
                raise UserError(f"{len(text):,} characters; give at most {MOST_CHARACTERS:,}")
            return await worker.call(drawn, catalogue[name], text, int(layer) or None, int(head) or None)
        except REPORTED as error:
            return note(str(error), kind="warn")

    def sliders(name: str) -> tuple[gr.Slider, gr.Slider]:
        layers, heads = depth(network(catalogue[name]))
        return _slider(layers), _slider(heads)

    asked = [model, text, layer, head]
    asking = [run.click, text.submit, layer.release, head.release]
    gr.on(asking, show, asked, shown, api_visibility="private", concurrency_limit=None)
    model.change(sliders, model, [layer, head], api_visibility="private")


def _slider(most: int, **options: Any) -> gr.Slider:
    """From 0 (the picture's own choice) to `most`; hidden where there is no choice."""
    return gr.Slider(0, max(1, most), 0, step=1, visible=most > 1, min_width=260, **options)


def network(entry: Entry) -> nn.Module | None:
    """What has layers to look into, if anything."""
    if isinstance(entry, TaskEntry):
        return entry.method.method.network
    scorer = entry.engine.scorer
    return scorer if isinstance(scorer, nn.Module) else None


def drawn(entry: Entry, text: str, layer: int | None, head: int | None) -> str:
    """All pictures with their explanations as HTML. Raises UserError. On the worker's thread."""
    model = entry.method if isinstance(entry, TaskEntry) else entry.model
    pictures = pictures_of(model, text, layer=layer, head=head)
    return piece("pictures", pictures=[(picture, data_uri(picture.png())) for picture in pictures])
