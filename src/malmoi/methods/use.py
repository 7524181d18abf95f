"""Fit, load, predict, evaluate: what the command line and `malmoi.load` do with methods."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from malmoi.core.errors import UserError
from malmoi.core.nouns import (
    Budget,
    Example,
    Examples,
    Finding,
    FitReport,
    Metric,
    Predictions,
    Say,
    Work,
    silent,
    with_note,
)
from malmoi.data.arrow import files_of
from malmoi.data.characters import composed
from malmoi.data.labelled import lines_about
from malmoi.hub.card import Card, DataFile, data_files, languages_of, load_call, this_machine
from malmoi.methods.base import Method
from malmoi.methods.folder import is_method, load_method, load_report, save_method, write_card
from malmoi.methods.registry import make_method
from malmoi.metrics.confidence import CALIBRATION_ERROR, LEAST, calibration_error
from malmoi.tasks.base import Task
from malmoi.tasks.checks import labels_in, refuse_too_few_labels, unseen_labels
from malmoi.util.files import is_free, parse_json
from malmoi.util.locks import hold
from malmoi.util.threads import processor_seconds
from malmoi.util.units import counted, human_seconds
from malmoi.util.version import VERSION

if TYPE_CHECKING:
    from malmoi.inside.sources import Source

SAMPLED = 50  # examples, to see their languages
# in the folder of a comparison: what was asked, and the method that it recommends
COMPARISON, RESULTS, WINNER = "comparison.json", "results.json", "winner"


@dataclass(frozen=True, slots=True)
class Fitted:
    """A saved method and how good it is on examples that nothing was chosen by (`note` says which)."""

    method: Method
    metrics: dict[str, Metric]
    num_examples: int
    note: str


class LoadedMethod:
    """What a user holds after `malmoi.load` of a fitted method's folder."""

    def __init__(self, folder: str | Path, *, device: str = "cpu") -> None:
        self.folder = method_folder(Path(folder))
        self.method = load_method(self.folder).to(device)
        self.report = load_report(self.folder)

    @property
    def task(self) -> Task[Any, Any]:
        """The task that it was fitted to."""
        return self.method.task

    def predict(self, inputs: Any, *, min_confidence: float | None = None) -> Any:
        """A prediction for one input, a text or what `Task.input_from` takes, or a list of them for several,
        in a list, tuple, array, series, data frame or iterator.

        min_confidence: None instead of an answer that is less probably right. Raises UserError where the
        method knows no confidence.
        """
        several = _several(inputs)
        if several is None:
            return self.predict([inputs], min_confidence=min_confidence)[0]
        values = [self.task.input_from(value) for value in several]
        if min_confidence is None:
            return answered(self.method, values, self.method.predict).values
        return confident(self.method, values, min_confidence).values

    def insides(self, text: str) -> tuple[Source, ...]:
        """What `malmoi.inside` can draw of its reading `text`, which may be the task's input as JSON.

        Raises UserError where it is no input of the task.
        """
        return self.method.insides(self.task.input_from(_object(text)))


def _several(inputs: Any) -> list[Any] | None:
    """The inputs where they are several; None of one."""
    if hasattr(inputs, "columns") and hasattr(inputs, "to_dict"):  # a data frame of pandas, by its rows
        return inputs.to_dict("records")
    if hasattr(inputs, "tolist"):  # numpy, pandas
        inputs = inputs.tolist()
    is_one = isinstance(inputs, str | bytes | Mapping) or not isinstance(inputs, Iterable)
    return None if is_one else list(inputs)


def answered(
    method: Method, inputs: Sequence[Any], predict: Callable[[Sequence[Any]], Predictions]
) -> Predictions:
    """What `predict` finds in the inputs as examples are read, with composed letters; places are those of the
    inputs as they are."""
    found = predict(composed(list(inputs)))
    pairs = zip(found.values, inputs, strict=True)
    return replace(found, values=[method.task.restored(answer, value) for answer, value in pairs])


def confident(method: Method, inputs: Sequence[Any], least: float | None = None) -> Predictions:
    """Answers with their confidence; with `least` only those that have so much of it.

    Raises UserError for a `least` outside 0 to 1, or where the method knows no confidence.
    """
    found = answered(method, inputs, method.predict_with_confidence)
    if least is None:
        return found
    if not 0 <= least <= 1:
        raise UserError(f"a confidence of {least:g} cannot be; give one from 0 to 1, such as 0.9")
    if found.confidences is None:
        raise UserError(
            f"{method.name} does not know how sure it is of its answers; leave the confidence out, or fit it "
            f"to {method.task.name} again with at least {LEAST} examples held out"
        )
    return found.at_least(least)


def _object(text: str) -> Any:
    """The JSON object that `text` is; else the text itself."""
    try:
        found = parse_json(text)
    except ValueError:
        return text
    return found if isinstance(found, dict) else text


def method_folder(folder: Path) -> Path:
    """The folder itself, or the winner's where it is the folder of a comparison.

    Raises UserError for a comparison without one.
    """
    if is_method(folder) or not (folder / COMPARISON).exists():
        return folder
    if not is_method(folder / WINNER):
        raise UserError(f"{folder} is a comparison without a winner; name one of {folder / 'methods'}/*")
    return folder / WINNER


def fit_method(
    task: Task[Any, Any], name: str, train: Path, valid: Path | None, out: Path, *,
    options: Mapping[str, Any], budget_seconds: float | None, allow_skips: bool, say: Say,
    licence: str | None = None,
) -> Fitted:  # fmt: skip
    """Fit a method to files, save it as `out` and measure it.

    With `valid`, choices are made on a part held out of `train` and the method is measured on `valid`;
    without it, two parts are held out. licence: of the data, for the card. Raises UserError before any work
    where `out` holds something or another process writes it.
    """
    first = int(os.environ.get("RANK", "0")) == 0  # of the processes, where `torchrun` has started several
    say = say if first else silent
    with hold(out) if first else nullcontext():
        if not is_free(out):
            raise UserError(f"{out} exists; choose another `out`")
        make_method(name, task, options)  # what is wrong with the options is said before the data are read
        parts = load(task, {"train": train, "valid": valid}, allow_skips=allow_skips, say=say)
        splits = task.split(parts["train"], parts.get("valid"))
        refuse_too_few_labels(splits.train, task.kind)
        task, why = task.for_training(splits.train)
        notes = [*splits.notes, *filter(None, [why])]
        for note in notes:
            say(note)
        method = make_method(name, task, options)
        method.load_libraries()
        start_s, start_cpu_s = time.perf_counter(), processor_seconds()
        unfinished = out.with_name(f"{out.name}.unfinished")
        report = method.fit(splits.train, splits.valid, Work(Budget(budget_seconds), say, unfinished))
        seconds, cpu_s = time.perf_counter() - start_s, processor_seconds() - start_cpu_s
        learned = learned_from(report, splits.train, splits.valid)
        report = completed(report, method, learned)
        say(f"fitted to {counted(len(learned), 'example')} in {human_seconds(seconds)}")
        if report.note:
            say(report.note)
        if first:
            # before anything else can fail
            save_method(out, method, report)
            shutil.rmtree(unfinished, ignore_errors=True)
        metrics = evaluate(method, splits.test, splits.train)
        note = notes[0] if notes else ""
        card = method_card(
            method, metrics, learned, measured_on=counted(len(splits.test), "other example"), folder=out,
            data=task_files((train, valid), licence), seconds=seconds, cpu_s=cpu_s,
            notes=[*notes, *filter(None, [report.note])],
        )  # fmt: skip
        if first:
            write_card(out, card.render())
        return Fitted(method, metrics, len(splits.test), note)


def learned_from(report: FitReport, train: Examples, valid: Examples) -> Examples:
    """The examples that the report says a method has learned from; those of `train` where it does not say."""
    return [*train, *valid] if report.facts.get("learned_from", {}).get("valid") else train


def completed(report: FitReport, method: Method, learned: Examples) -> FitReport:
    """The report with the labels that the method was fitted to, for `unseen`, and what it did not read."""
    inputs, targets = [example.input for example in learned], [example.target for example in learned]
    cut = method.cut_note(inputs, targets)
    facts = with_note(report.facts, cut and f"of what it learned from, {cut}")
    if not method.task.kind.fewest_labels:
        return FitReport(facts)
    return FitReport(facts | {"labels": labels_in(learned, method.task.kind)})


def unseen(saved: LoadedMethod, examples: Examples) -> Iterable[str]:
    """A warning where examples have labels that the method was not fitted to."""
    known = saved.report.facts.get("labels")
    return () if known is None else unseen_labels(known, examples, saved.method.task.kind, "these data")


def load(
    task: Task[Any, Any], paths: Mapping[str, Path | None], *, allow_skips: bool, say: Say
) -> dict[str, Examples]:
    """The examples of each part that has a file; `say` hears what was skipped or looks wrong."""
    findings: list[Finding] = []
    parts: dict[str, Examples] = {
        part: task.load(path, allow_skips=allow_skips, report=findings.append)
        for part, path in paths.items() if path
    }  # fmt: skip
    for line in lines_about(findings + task.check(parts), task.name):
        say(line)
    return parts


def evaluate(method: Method, examples: Examples, train: Examples = ()) -> dict[str, Metric]:
    """The task's metrics of a method's predictions; train: what it learned from."""
    inputs = [example.input for example in examples]
    likelihoods = None
    if method.task.kind.is_text:
        likelihoods = method.log_likelihood(inputs, [example.target for example in examples])
    found = method.predict_with_confidence(inputs)
    metrics = method.task.score(found.values, examples, likelihoods, train)
    if found.confidences is None:
        return metrics
    right = [*map(method.task.is_right, found.values, examples)]
    return metrics | {CALIBRATION_ERROR: calibration_error(found.confidences, right).metric()}


def task_files(paths: Iterable[Path | None], licence: str | None = None) -> tuple[DataFile, ...]:
    """Every file that the paths of a task's examples stand for."""
    found = {str(file): file for path in paths if path for file in files_of(path)}
    return data_files(found, licence)


def method_card(
    method: Method, metrics: Mapping[str, Metric], train: Sequence[Example[Any, Any]], *, measured_on: str,
    data: tuple[DataFile, ...], folder: Path, seconds: float | None, cpu_s: float | None = None,
    notes: Sequence[str] = (),
) -> Card:  # fmt: skip
    """What README.md of a fitted method's folder says. train: what it has learned from."""
    task, example = method.task, json.dumps(method.task.kind.example)
    settings = method.options.model_dump(mode="json", exclude_none=True)
    base = settings.get("model") if method.needs_model else None
    texts = (json.dumps(task.row(one), ensure_ascii=False, default=str) for one in train[:SAMPLED])
    limits = [f"It does {task.name}, and is as good as measured on texts like those it was fitted to."]
    limits += ["Its answers are made token by token and can be wrong with confidence."] * bool(base)
    return Card(
        f"{method.name} for {task.name}",
        f"A {method.family} model for {task.name}, fitted by malmoi {VERSION} to "
        f"{counted(len(train), 'example')}.",
        task.pipeline or task.kind.pipeline, languages_of(texts), base=Path(base).name if base else "",
        tags=(method.name,), data=data, settings=settings, results=metrics, measured_on=measured_on,
        notes=tuple(notes), limits=tuple(limits), seconds=seconds, cpu_s=cpu_s,
        machine=this_machine(),
        use=("import malmoi", "", f"print({load_call(folder)}.predict({example}))"),
    )  # fmt: skip
