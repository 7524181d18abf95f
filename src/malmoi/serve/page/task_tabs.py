"""The tab to try the tasks in: any two models side by side, with how long each took."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import islice, zip_longest
from time import perf_counter
from typing import Any, get_args

import gradio as gr
from gradio.components import Component

from malmoi.core.errors import UserError
from malmoi.core.nouns import Answer, Entity, Question
from malmoi.engine.ask import Asker, AskSettings
from malmoi.methods.use import answered
from malmoi.serve.catalogue import Entry, LanguageEntry, TaskEntry
from malmoi.serve.page.look import clickable, joined, named, note, panel
from malmoi.serve.worker import REPORTED, Worker
from malmoi.tasks import TASKS, make_task
from malmoi.tasks.base import Task
from malmoi.tasks.kinds import CONTINUATION, LABEL, LABELS, SPAN, TAGS, TEXT, Box, Kind, marked
from malmoi.world import Language, documents

MOST_DOCUMENTS = 60  # looked through for examples; the kinds of documents vary
EACH = 2  # examples per language
MOST_LABELS = 8  # that are shown with their probabilities
NONE = "(no second model)"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one model answered to an input, and the time that it took. probabilities: of labels, if known;
    confidence: how probable it is that it is right, if that is known."""

    value: Any
    prediction: Any
    seconds: float
    probabilities: Mapping[str, float] | None = None
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """How a prediction is shown: a widget with a label, and its value."""

    widget: Callable[[str], Component]
    show: Callable[[Outcome], Any]


def tasks_tab(catalogue: Mapping[str, Entry], worker: Worker, most_chars: int) -> None:
    """Build the tab, within gr.Blocks. most_chars: of one input."""
    panel(
        note(
            "Pick a task, write a text or click on an example, and press Run. Two models answer side by side."
        )
    )
    with gr.Tabs():
        for name in TASKS:
            task = make_task(name)
            with gr.Tab(title(task), id=name, elem_id=f"task-{name}"):
                _task(task, choices(catalogue, task), worker, most_chars)


def title(task: Task[Any, Any]) -> str:
    """What a task's tab is called."""
    return task.title or task.name.replace("-", " ").capitalize()


def boxes(task: Task[Any, Any]) -> tuple[Box, ...]:
    """What an input of a task is written in."""
    return task.boxes or task.kind.boxes


def choices(catalogue: Mapping[str, Entry], task: Task[Any, Any]) -> dict[str, Entry]:
    """The models that can do a task: fitted ones first, then language models that can be asked.

    A model without a chat template only completes; labels can be asked for where a fitted model knows them.
    """
    fitted = {key: e for key, e in catalogue.items() if isinstance(e, TaskEntry) and e.task.name == task.name}
    askable = fitted or not task.kind.fewest_labels
    asked = {
        key: e
        for key, e in catalogue.items()
        if isinstance(e, LanguageEntry) and ((e.form and askable) or task.kind.goes_on)
    }
    return fitted | asked


def _task(task: Task[Any, Any], models: Mapping[str, Entry], worker: Worker, most_chars: int) -> None:
    if not models:
        fix = f"Fit one (malmoi fit {task.name} --help) or serve a comparison's folder: malmoi serve DIR"
        panel(note(f"No model for this task is served. {fix}"))
        return
    if task.about:
        panel(note(task.about))
    inputs = _inputs(task, most_chars)
    names = list(models)
    other = names[1] if len(names) > 1 else NONE
    with gr.Row():
        first = gr.Dropdown(named(models), value=names[0], label="Model", filterable=False, min_width=260)
        second = gr.Dropdown(
            [(NONE, NONE), *named(models)], value=other, label="Beside it", filterable=False, min_width=260
        )
    run = gr.Button("Run", variant="primary", elem_classes="run")
    with gr.Row():
        _, *outputs = _side(task)
        column, *beside = _side(task, visible=other != NONE)
    bench = Bench(task_to_ask(task, models), models, worker, most_chars)
    asked, shown = [first, second, *inputs], [*outputs, *beside]
    run.click(bench.run, asked, shown, api_visibility="private", concurrency_limit=None)
    second.change(lambda it: gr.Column(visible=it != NONE), second, column, api_visibility="private")


def task_to_ask(task: Task[Any, Any], models: Mapping[str, Entry]) -> Task[Any, Any]:
    """The task as language models are asked it: with the labels that a fitted method knows."""
    fitted = (e.method for e in models.values() if isinstance(e, TaskEntry) and e.task.name == task.name)
    return task.with_labels(next(filter(None, (saved.report.facts.get("labels") for saved in fitted)), ()))


def examples(task: Task[Any, Any]) -> list[list[str]]:
    """Rows for the boxes of a task, English and Korean ones, of documents that no demo model has learned."""
    return [row for language in get_args(Language) for row in islice(_rows(task, language), EACH)]


def _rows(task: Task[Any, Any], language: Language) -> Iterator[list[str]]:
    """One of a document, so that they differ."""
    for document in documents(MOST_DOCUMENTS, split="test", language=language):
        for value in islice(task.tries(document), 1):
            yield list(value.values()) if isinstance(value, dict) else [value]


def _inputs(task: Task[Any, Any], most_chars: int) -> list[gr.Textbox]:
    """What to write in, with the first example in it and the others to click on."""
    rows = examples(task)
    found = [
        gr.Textbox(text, label=box.label, lines=box.lines, max_lines=12, max_length=most_chars)
        for text, box in zip_longest(rows[0] if rows else (), boxes(task))
    ]
    if rows:
        clickable(rows, found)
    return found


def _side(task: Task[Any, Any], *, visible: bool = True) -> list[Any]:
    """One model's column: itself, the line with its time, the widget."""
    with gr.Column(min_width=280, visible=visible) as column:
        widget = VIEWS[task.kind].widget(task.result or task.kind.result)
        return [column, panel(note(""), elem_classes="took"), widget]


@dataclass(frozen=True, slots=True)
class Bench:
    """What a task's Run button does."""

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
            outcome = await self._outcome(self.models[name], asked(self.task, [text or "" for text in texts]))
        except REPORTED as error:
            return note(f"{name}: {error}", kind="warn"), None
        took = f"{name} \u00b7 {_ms(outcome.seconds)}"
        if outcome.prediction is None:
            return note(joined([took, "no answer that can be read"]), kind="warn"), None
        known = outcome.confidence is not None and not self.task.kind.is_choice
        sure = f"right with a probability of {outcome.confidence:.0%}" if known else ""
        return note(joined([took, sure])), VIEWS[self.task.kind].show(outcome)

    async def _outcome(self, entry: Entry, raw: Any) -> Outcome:
        if isinstance(entry, TaskEntry):
            return await self.worker.call(_predict, entry, raw)
        value = self.task.input_from(raw)
        asker = await asyncio.to_thread(self._asker, entry)  # others must not wait for it
        if self.task.kind.is_choice:
            return await self.worker.call(_judge, asker, value)
        asked, *others = await asyncio.to_thread(asker.windows, value)
        start = perf_counter()
        if others:
            (found,) = await self.worker.call(asker.answers, [value])
            return Outcome(value, found, perf_counter() - start)
        async with aclosing(self.worker.stream(entry.engine, asked.ids, asker.sampling(asked))) as events:
            reply = "".join([event.text async for event in events])
        return Outcome(value, asker.read(reply, value), perf_counter() - start)

    def _asker(self, entry: LanguageEntry) -> Asker:
        """As the method `prompted` asks where it has no examples."""
        return Asker(entry.engine, self.task, AskSettings.as_it_is(self.task, (), entry.engine))


def asked(task: Task[Any, Any], texts: Sequence[str]) -> Any:
    """What `Task.input_from` takes, of the texts in a task's boxes."""
    keys = [box.key for box in boxes(task)]
    return dict(zip(keys, texts, strict=True)) if all(keys) else texts[0]


def _predict(entry: TaskEntry, raw: Any) -> Outcome:
    """On the worker's thread. The time is that of the prediction alone."""
    method = entry.method.method
    value = entry.task.input_from(raw)
    start = perf_counter()
    (prediction,) = answered(method, [value], method.predict).values
    seconds = perf_counter() - start
    [shares] = method.probabilities([value]) or [None]
    [sure] = method.confidences([value], [prediction]) or [None]
    return Outcome(value, prediction, seconds, shares, sure)


def _judge(asker: Asker, value: Any) -> Outcome:
    """A language model's label, on the worker's thread."""
    start = perf_counter()
    (found,) = asker.label_probabilities([value])
    return Outcome(value, max(found, key=found.__getitem__), perf_counter() - start, found)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"


# ---- what the widgets show


def answer_value(outcome: Outcome) -> Any:
    """The context with the answer marked; an answer that is not in it stands before."""
    value: Question = outcome.value
    answer: Answer = outcome.prediction
    start = answer.start if answer.start >= 0 else value.context.find(answer.text)
    if start < 0:
        return [(answer.text, "not in the text"), ("\n" + value.context, None)]
    return marked(value.context, [Entity(start, start + len(answer.text), "answer")])


def chosen_labels(outcome: Outcome) -> list[tuple[str, str | None]]:
    """The labels that fit, then the most probable of the others."""
    shares, chosen = outcome.probabilities or {}, list(outcome.prediction)
    others = sorted(shares.keys() - set(chosen), key=lambda label: -shares[label])
    shown = [*chosen, *others[: max(0, MOST_LABELS - len(chosen))]]
    named = {label: f"{label} {shares[label]:.0%}" if label in shares else label for label in shown}
    found = [(name, "fits" if label in chosen else None) for label, name in named.items()]
    return found if chosen else [("(no label)", None), *found]


def _highlighted(colours: dict[str, str], *, inline: bool = True) -> Callable[[str], Component]:
    return lambda label: gr.HighlightedText(label=label, color_map=colours, show_inline_category=inline)


def _text(label: str) -> Component:
    return gr.Textbox(label=label, lines=3, max_lines=14, interactive=False, buttons=["copy"])


_ENTITIES = {"PER": "blue", "LOC": "green", "ORG": "orange", "DATE": "purple", "MISC": "red"}
VIEWS: dict[Kind, Shown] = {
    LABEL: Shown(
        lambda label: gr.Label(label=label, num_top_classes=8),
        lambda it: dict(it.probabilities) if it.probabilities else it.prediction,
    ),
    LABELS: Shown(_highlighted({"fits": "green"}), chosen_labels),
    TAGS: Shown(_highlighted(_ENTITIES), lambda it: marked(it.value, it.prediction)),
    SPAN: Shown(_highlighted({"answer": "green", "not in the text": "red"}), answer_value),
    TEXT: Shown(_text, lambda it: it.prediction),
    CONTINUATION: Shown(
        _highlighted({"added": "blue"}, inline=False), lambda it: [(it.value, None), (it.prediction, "added")]
    ),
}
