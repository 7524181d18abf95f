"""The tab to try the seven tasks in: any two models side by side, with how long each took."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import gradio as gr
from gradio.components import Component

from malmoi.core.errors import UserError
from malmoi.core.nouns import Answer, Entity, Question
from malmoi.engine.ask import Asker, Manner
from malmoi.serve.catalogue import Entry, LanguageEntry, TaskEntry
from malmoi.serve.page.examples import examples
from malmoi.serve.page.look import clickable, joined, named, note, panel
from malmoi.serve.worker import TOLD, Worker
from malmoi.tasks import TASKS, make_task
from malmoi.tasks.base import Task

NONE = "(no second model)"
Value = Any  # what a widget shows


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one model answered to an input, and the time that it took. probabilities: of labels, if known."""

    value: Any
    prediction: Any
    seconds: float
    probabilities: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class View:
    """One task on the page. boxes: (label, lines) to write in; keys: their names in JSON, if several."""

    title: str
    how: str
    boxes: tuple[tuple[str, int], ...]
    widget: Callable[[], Component]
    show: Callable[[Outcome], Value]
    keys: tuple[str, ...] = ()

    def raw(self, texts: Sequence[str]) -> Any:
        """What the task's `input_from` takes."""
        return dict(zip(self.keys, texts, strict=True)) if self.keys else texts[0]


def tasks_tab(catalogue: Mapping[str, Entry], worker: Worker, most_chars: int) -> None:
    """Build the tab, within gr.Blocks. most_chars: of one input."""
    panel(
        note(
            "Pick a task, write a text or click on an example, and press Run. Two models answer side by side."
        )
    )
    with gr.Tabs():
        for name, view in VIEWS.items():
            with gr.Tab(view.title, id=name, elem_id=f"task-{name}"):
                _task(name, view, choices(catalogue, name), worker, most_chars)


def choices(catalogue: Mapping[str, Entry], name: str) -> dict[str, Entry]:
    """The models that can do a task: fitted ones first, then language models that can be asked.

    A model without a chat template only completes; labels can be asked for where a fitted model knows them.
    """
    fitted = {key: e for key, e in catalogue.items() if isinstance(e, TaskEntry) and e.task.name == name}
    askable = fitted or TASKS[name].kind not in ("label", "tags")
    asked = {
        key: e
        for key, e in catalogue.items()
        if isinstance(e, LanguageEntry) and ((e.form and askable) or name == "completion")
    }
    return fitted | asked


def _task(name: str, view: View, models: Mapping[str, Entry], worker: Worker, most_chars: int) -> None:
    if not models:
        mend = f"Fit one (malmoi fit {name} --help) or serve a comparison's folder: malmoi serve DIR"
        panel(note(f"No model for this task is served. {mend}"))
        return
    panel(note(view.how))
    boxes = _boxes(view, examples(name), most_chars)
    names = list(models)
    other = names[1] if len(names) > 1 else NONE
    with gr.Row():
        first = gr.Dropdown(named(models), value=names[0], label="Model", filterable=False, min_width=260)
        second = gr.Dropdown(
            [(NONE, NONE), *named(models)], value=other, label="Beside it", filterable=False, min_width=260
        )
    run = gr.Button("Run", variant="primary", elem_classes="run")
    with gr.Row():
        _, *outputs = _side(view)
        column, *beside = _side(view, visible=other != NONE)
    bench = Bench(view, task_to_ask(name, models), models, worker, most_chars)
    asked, shown = [first, second, *boxes], [*outputs, *beside]
    run.click(bench.run, asked, shown, api_visibility="private", concurrency_limit=None)
    second.change(lambda it: gr.Column(visible=it != NONE), second, column, api_visibility="private")


def task_to_ask(name: str, models: Mapping[str, Entry]) -> Task[Any, Any]:
    """The task as language models are asked it: with the labels that a fitted method knows."""
    task = make_task(name)
    for entry in models.values():
        if isinstance(entry, TaskEntry) and entry.task.name == name and not task.labels:
            task.labels = entry.method.method.report.get("labels", ())
    return task


def _boxes(view: View, rows: list[list[str]], most_chars: int) -> list[gr.Textbox]:
    """What to write in, with the first example in it and the others to click on."""
    boxes = [
        gr.Textbox(text, label=label, lines=lines, max_lines=12, max_length=most_chars)
        for text, (label, lines) in zip(rows[0], view.boxes, strict=True)
    ]
    clickable(rows, boxes)
    return boxes


def _side(view: View, *, visible: bool = True) -> list[Any]:
    """One model's column: itself, the line with its time, the widget."""
    with gr.Column(min_width=280, visible=visible) as column:
        return [column, panel(note(""), elem_classes="took"), view.widget()]


@dataclass(frozen=True, slots=True)
class Bench:
    """What a task's Run button does."""

    view: View
    task: Task[Any, Any]
    models: Mapping[str, Entry]
    worker: Worker
    most_chars: int

    async def run(self, first: str, second: str, *texts: str | None) -> list[Any]:
        """(a line, the widget's value) of each model, one after the other: neither slows the other."""
        return [*await self._one(first, texts), *await self._one(second, texts)]

    async def _one(self, name: str, texts: Sequence[str | None]) -> tuple[str, Any]:
        if name == NONE:
            return note(""), None
        try:
            if not all(text and text.strip() for text in texts):
                raise UserError("write something first, or click on an example")
            if (count := sum(len(text or "") for text in texts)) > self.most_chars:
                raise UserError(f"{count:,} characters; give at most {self.most_chars:,}")
            outcome = await self._outcome(self.models[name], self.view.raw([text or "" for text in texts]))
        except TOLD as error:
            return note(f"{name}: {error}", kind="warn"), None
        took = f"{name} \u00b7 {_ms(outcome.seconds)}"
        if outcome.prediction is None:
            return note(joined([took, "no answer that can be read"]), kind="warn"), None
        return note(took), self.view.show(outcome)

    async def _outcome(self, entry: Entry, raw: Any) -> Outcome:
        if isinstance(entry, TaskEntry):
            return await self.worker.call(_predict, entry, raw)
        value = self.task.input_from(raw)
        asker = await asyncio.to_thread(self._asker, entry)  # others must not wait for it
        if self.task.kind == "label":
            return await self.worker.call(_judge, asker, value)
        asked = await asyncio.to_thread(asker.ask, value)
        start = perf_counter()
        async with aclosing(self.worker.stream(entry.engine, asked.ids, asker.sampling(asked))) as events:
            reply = "".join([event.text async for event in events])
        return Outcome(value, asker.read(reply, value), perf_counter() - start)

    def _asker(self, entry: LanguageEntry) -> Asker:
        """As the method `prompted` asks where it has no examples."""
        return Asker(entry.engine, self.task, Manner.as_it_is(self.task, (), entry.engine))


def _predict(entry: TaskEntry, raw: Any) -> Outcome:
    """On the worker's thread. The time is that of the prediction alone."""
    method = entry.method.method
    value = entry.task.input_from(raw)
    start = perf_counter()
    (prediction,) = method.predict([value])
    seconds = perf_counter() - start
    found = method.probabilities([value]) if entry.task.kind == "label" else None
    return Outcome(value, prediction, seconds, found[0] if found else None)


def _judge(asker: Asker, value: Any) -> Outcome:
    """A language model's label, on the worker's thread."""
    start = perf_counter()
    (found,) = asker.label_probabilities([value])
    return Outcome(value, max(found, key=found.__getitem__), perf_counter() - start, found)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"


# ---- what the widgets show


def label_value(outcome: Outcome) -> Value:
    """The confidence of each label, or the label alone."""
    return dict(outcome.probabilities) if outcome.probabilities else outcome.prediction


def entity_value(outcome: Outcome) -> Value:
    """The whole text, cut at the entities."""
    return marked(outcome.value, outcome.prediction)


def answer_value(outcome: Outcome) -> Value:
    """The context with the answer marked; an answer that is not in it stands before."""
    value: Question = outcome.value
    answer: Answer = outcome.prediction
    start = answer.start if answer.start >= 0 else value.context.find(answer.text)
    if start < 0:
        return [(answer.text, "not in the text"), ("\n" + value.context, None)]
    return marked(value.context, [Entity(start, start + len(answer.text), "answer")])


def continued_value(outcome: Outcome) -> Value:
    """The text and how it goes on."""
    return [(outcome.value, None), (outcome.prediction, "added")]


def text_value(outcome: Outcome) -> Value:
    """The prediction, which is a text."""
    return outcome.prediction


def marked(text: str, entities: Sequence[Entity]) -> list[tuple[str, str | None]]:
    """The pieces of a text with the label of those that are entities."""
    pieces: list[tuple[str, str | None]] = []
    place = 0
    for entity in sorted(entities):
        pieces += [(text[place : entity.start], None), (text[entity.start : entity.end], entity.label)]
        place = entity.end
    return [piece for piece in [*pieces, (text[place:], None)] if piece[0]]


def _highlighted(label: str, colours: dict[str, str], *, inline: bool = True) -> Callable[[], Component]:
    return lambda: gr.HighlightedText(label=label, color_map=colours, show_inline_category=inline)


def _text(label: str) -> Callable[[], Component]:
    return lambda: gr.Textbox(label=label, lines=3, max_lines=14, interactive=False, buttons=["copy"])


_ENTITIES = {"PER": "blue", "LOC": "green", "ORG": "orange", "DATE": "purple", "MISC": "red"}
VIEWS: dict[str, View] = {
    "classification": View(
        "Classification", "Which label fits the text, and how sure the model is.", (("Text", 4),),
        lambda: gr.Label(label="Labels", num_top_classes=8), label_value,
    ),
    "ner": View(
        "Named entities", "The names in the text: people, places, organizations, dates.", (("Text", 4),),
        _highlighted("Entities", _ENTITIES), entity_value,
    ),
    "question-answering": View(
        "Question answering", "The part of the text that answers the question.",
        (("Question", 1), ("Text", 5)),
        _highlighted("Answer in the text", {"answer": "green", "not in the text": "red"}), answer_value,
        keys=("question", "context"),
    ),
    "translation": View(
        "Translation", "The text in the other language: English or Korean.", (("Text", 3),),
        _text("Translation"), text_value,
    ),
    "summarization": View(
        "Summarization", "The text in a sentence.", (("Text", 6),), _text("Summary"), text_value
    ),
    "completion": View(
        "Completion", "How the text goes on.", (("Beginning of a text", 3),),
        _highlighted("The text; what the model adds is blue", {"added": "blue"}, inline=False),
        continued_value,
    ),
    "chat": View("Chat", "One reply to one message.", (("Message", 4),), _text("Reply"), text_value),
}  # fmt: skip
