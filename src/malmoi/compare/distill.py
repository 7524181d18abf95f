"""Distillation: a teacher labels what nobody has labelled, and a small student learns from it.

The student learns the teacher's answers, not its probabilities, so that teacher and student may be of any
kind (Kim & Rush 2016, sequence-level distillation). Afterwards both are measured side by side.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PositiveFloat

from malmoi.compare.comparison import Comparison, sentence
from malmoi.compare.runner import keep_apart, run_comparison
from malmoi.compare.settings import ComparisonSettings, check_currency
from malmoi.core.config import StrictModel
from malmoi.core.errors import UserError
from malmoi.core.nouns import BadRow, Example, Examples, Json, Say, silent
from malmoi.data.opening import Record
from malmoi.methods.base import Method, unsure_of_set
from malmoi.methods.named import answering
from malmoi.methods.registry import make_method, settled_options
from malmoi.methods.use import RESULTS, load
from malmoi.tasks import Task, make_task
from malmoi.tasks.inputs import read_inputs
from malmoi.util.files import is_free, parse_json, read_json, write_json, write_text
from malmoi.util.locks import hold
from malmoi.util.units import counted

RECORD, ANSWERS, LABELLED, TRAIN, TEST = (
    "distill.json", "answers.jsonl", "labelled.jsonl", "train.jsonl", "test.jsonl",
)  # fmt: skip
REPORT, STUDENT = "comparison", "student"  # folders
CHUNK = 64  # inputs labelled between two writes
SAY_EVERY_S = 10.0


class DistillSettings(StrictModel):
    """One distillation.

    teacher: the folder of a fitted method, of a comparison or of a language model, or "remote". labels: what
    a teacher that is asked in words may choose from, where no labelled examples say it. train, test:
    examples labelled by people, to learn from as well and to measure on. keep_above: leave out labels that
    the teacher is less sure of.
    """

    task: str
    teacher: str
    student: str
    unlabelled: Path
    train: Path | None = None
    test: Path | None = None
    teacher_options: dict[str, Any] = Field(default_factory=dict)
    student_options: dict[str, Any] = Field(default_factory=dict)
    labels: tuple[str, ...] = ()
    keep_above: Annotated[float | None, Field(ge=0, le=1)] = None
    fields: dict[str, str] = Field(default_factory=dict)
    budget_seconds: PositiveFloat | None = None
    price_per_hour: PositiveFloat | None = None
    currency: str = ""
    licence: str | None = None
    measure_seconds: PositiveFloat = 10.0
    seed: int = 0
    allow_skips: bool = False


@dataclass(frozen=True, slots=True)
class Distilled:
    """What came of it. sentence: what the student has kept and what it costs."""

    comparison: Comparison
    sentence: str
    num_labelled: int
    student: Path  # ready to use, where it did not fail


@dataclass(frozen=True, slots=True)
class _Material:
    """Inputs to label, examples labelled by people to learn from, and to measure on (none: by agreement)."""

    inputs: list[Any]
    people: Examples
    test: Examples
    notes: list[str]


def parse_options(settings: Mapping[str, Any]) -> dict[str, Json]:
    """The options of "teacher" and of "student", of teacher.OPTION and student.OPTION. Raises UserError."""
    found: dict[str, Json] = {"teacher": {}, "student": {}}
    for name, value in settings.items():
        who, _, option = name.partition(".")
        if who not in found or not option:
            raise UserError(f"`set` {name} is not teacher.OPTION=VALUE or student.OPTION=VALUE")
        found[who][option] = value
    return found


def distill(settings: DistillSettings, out: Path, say: Say = silent, isolated: bool = True) -> Distilled:
    """Label, learn, compare; everything goes into `out`, and it goes on where it stopped.

    isolated: see `malmoi.compare.runner:run_comparison`. Raises UserError for data, a teacher or options that
    cannot be, and for a folder that holds something else or that another process writes.
    """
    with hold(out):
        return _distill(settings, out, say, isolated)


def _distill(settings: DistillSettings, out: Path, say: Say, isolated: bool) -> Distilled:
    check_currency(settings.currency, settings.price_per_hour)
    task = make_task(settings.task, settings.fields)
    make_method(settings.student, task, settings.student_options)
    material = _gather(task, settings, say)
    teacher, report, origin = answering(
        "teacher", settings.teacher, task.with_labels(settings.labels), settings.teacher_options,
        material.people,
    )  # fmt: skip
    if settings.keep_above is not None and teacher.probabilities(material.inputs[:1]) is None:
        raise UserError(f"`keep_above`: {teacher.name} gives no probabilities for {task.name}; leave it out")
    _claim(out, _record(settings, teacher, origin, material.inputs))
    answers = _answers(out / ANSWERS, teacher, material.inputs, say)
    rows, notes = _rows(task, material.inputs, answers, settings.keep_above)
    _write_rows(out / LABELLED, rows)
    if material.people:
        _write_rows(out / TRAIN, [*map(task.row, material.people), *rows])
    if material.test and not settings.test:
        _write_rows(out / TEST, map(task.row, material.test))
    say(f"{counted(len(rows), 'example')} labelled by {teacher.name}: {out / LABELLED}")
    wanted, name = _comparison(settings, teacher, material, out), _name(teacher)
    found = run_comparison(wanted, out / REPORT, say, isolated, {name: (teacher, report)})
    verdict = sentence(found, name, settings.student, by_people=bool(material.test))
    return _finished(found, verdict, [*material.notes, *notes], len(rows), settings.student, out)


# ---- what there is


def _gather(task: Task[Any, Any], settings: DistillSettings, say: Say) -> _Material:
    """Without `test` a part of `train` is held out; what people have labelled is not labelled again."""
    inputs = read_inputs(task, settings.unlabelled, allow_skips=settings.allow_skips, say=say)
    paths = {"train": settings.train, "test": settings.test}
    parts = load(task, paths, allow_skips=settings.allow_skips, say=say)
    people, test, notes = list(parts.get("train", ())), list(parts.get("test", ())), list[str]()
    if people and not test:
        splits = task.split(people, seed=settings.seed)
        people, test = splits.train + splits.valid, splits.test
        notes.append(f"report: {len(test):,} of the examples labelled by people, held out by hash")
        if settings.teacher != "remote":
            notes.append("a teacher that has learned from these very examples looks better than it is")
    asked = {task.key(example.input) for example in test}
    people = [example for example in people if task.key(example.input) not in asked]
    known = asked | {task.key(example.input) for example in people}
    new = [value for value in inputs if task.key(value) not in known]
    if not new:
        raise UserError(f"people have labelled every input of {settings.unlabelled}; nothing is left to do")
    if dropped := len(inputs) - len(new):
        notes.append(f"labelled by people already: {counted(dropped, 'input')}")
    return _Material(new, people, test, notes)


def _name(teacher: Method) -> str:
    return f"{teacher.name}:teacher"


def _options(teacher: Method) -> Json:
    return teacher.options.model_dump(mode="json", exclude_unset=True)


# ---- what it labels


def _record(settings: DistillSettings, teacher: Method, origin: Any, inputs: Sequence[Any]) -> Json:
    """What labels depend on."""
    options = settled_options(teacher.name, _options(teacher))
    keys = repr([teacher.task.key(value) for value in inputs])
    return {
        "task": settings.task,
        "teacher": {"name": teacher.name, "options": options, "origin": origin},
        "unlabelled": {"inputs": len(inputs), "sha256": hashlib.sha256(keys.encode()).hexdigest()},
    }


def _claim(out: Path, record: Json) -> None:
    """Raises UserError where `out` holds something else."""
    record = json.loads(json.dumps(record))  # lists for tuples, as they are read
    if (out / RECORD).exists():
        old = read_json(out / RECORD)
        if changed := [name for name in record if record[name] != old.get(name)]:
            raise UserError(f"{out} was made with other {', '.join(changed)}; choose another `out`")
    elif not is_free(out):
        raise UserError(f"{out} holds something else than a distillation; choose another `out`")
    write_json(out / RECORD, record)


def _answers(path: Path, teacher: Method, inputs: Sequence[Any], say: Say) -> list[Json]:
    """{"answer": JSON, "sure": the teacher's probability or null} of each input, in order.

    They are appended as they come; a line that an interruption has cut is asked for again, as is an answer
    that did not come. A student that has learned without it learns anew.
    """
    known = _whole_lines(path)
    if known:
        say(f"{len(known):,} of {len(inputs):,} inputs were labelled before")
    found = _asked_again(teacher, inputs, known, say)
    if found != known:
        shutil.rmtree(path.parent / REPORT, ignore_errors=True)
    _write_rows(path, found)
    said_s = time.monotonic()
    with path.open("a", encoding="utf-8") as file:
        while len(found) < len(inputs):
            new = _labels(teacher, inputs[len(found) : len(found) + CHUNK])
            found += new
            file.write(_lines(new))
            file.flush()
            if time.monotonic() - said_s > SAY_EVERY_S:
                said_s = time.monotonic()
                say(f"labelled {len(found):,} of {len(inputs):,}")
    return found


def _asked_again(teacher: Method, inputs: Sequence[Any], found: list[Json], say: Say) -> list[Json]:
    """The answers, those that did not come asked for once more."""
    missing = [at for at, answer in enumerate(found) if answer["answer"] is None]
    try:
        answers = _labels(teacher, [inputs[at] for at in missing]) if missing else []
    except UserError as error:
        say(f"{len(missing):,} inputs still have no answer: {error}")
        return found
    new = dict(zip(missing, answers, strict=True))
    return [new.get(at, answer) for at, answer in enumerate(found)]


def _whole_lines(path: Path) -> list[Json]:
    found: list[Json] = []
    for line in path.read_text(encoding="utf-8").split("\n") if path.exists() else ():
        try:
            found += [parse_json(line)] if line else []
        except ValueError:
            break
    return found


def _labels(teacher: Method, inputs: Sequence[Any]) -> list[Json]:
    shares, task = teacher.probabilities(inputs), teacher.task
    if shares is not None and not task.kind.is_set:
        best = [max(share.items(), key=lambda item: item[1]) for share in shares]
        return [{"answer": label, "sure": probability} for label, probability in best]
    # of a set as sure as of the label that is the least sure
    sure = [1 - unsure_of_set(share.values()) / 2 for share in shares] if shares else [None] * len(inputs)
    answers = zip(inputs, teacher.predict(inputs).values, sure, strict=True)
    return [{"answer": task.to_json(target, value), "sure": least} for value, target, least in answers]


def _rows(
    task: Task[Any, Any], inputs: Sequence[Any], answers: Sequence[Json], keep_above: float | None
) -> tuple[list[Json], list[str]]:
    """The rows that a student can learn from, and what became of the others. Raises UserError for none."""
    pairs = zip(inputs, answers, strict=True)
    sure = [pair for pair in pairs if keep_above is None or pair[1]["sure"] > keep_above]
    rows = [row for value, answer in sure if (row := _row(task, value, answer))]
    notes = [f"labelled by the teacher: {len(rows):,} of {len(answers):,} inputs"]
    if unsure := len(answers) - len(sure):
        notes.append(
            f"left out: {counted(unsure, 'input')} with the teacher not more than {keep_above:.0%} sure"
        )
    if unusable := len(sure) - len(rows):
        notes.append(f"left out: {counted(unusable, 'input')} that the teacher has no usable answer to")
    if not rows:
        raise UserError(f"the teacher labelled nothing that could be learned from; {'; '.join(notes[1:])}")
    return rows, notes


def _row(task: Task[Any, Any], value: Any, answer: Json) -> Json | None:
    """The row, where the task can read it back."""
    target = task.from_json(answer["answer"])
    if target is None or (isinstance(target, str) and not target.strip()):
        return None
    row = task.row(Example(value, target))
    try:
        return row if list(task.examples(Record(row, ""), lambda _: None)) else None
    except BadRow:
        return None


def _write_rows(path: Path, rows: Iterable[Json]) -> None:
    write_text(path, _lines(rows))


def _lines(rows: Iterable[Json]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


# ---- what is kept


def _comparison(
    settings: DistillSettings, teacher: Method, material: _Material, out: Path
) -> ComparisonSettings:
    return ComparisonSettings(
        task=settings.task, fields=settings.fields, train=out / (TRAIN if material.people else LABELLED),
        test=settings.test or (out / TEST if material.test else None),
        methods={_name(teacher): _options(teacher), settings.student: settings.student_options},
        budget_seconds=settings.budget_seconds, price_per_hour=settings.price_per_hour,
        currency=settings.currency, licence=settings.licence, seed=settings.seed,
        allow_skips=settings.allow_skips, measure_seconds=settings.measure_seconds,
    )  # fmt: skip


def _finished(
    found: Comparison, verdict: str, notes: list[str], num_labelled: int, student: str, out: Path
) -> Distilled:
    """The advice begins with what was kept; the student's folder is ready to use."""
    material = replace(found.material, notes=[*notes, *found.material.notes])
    found = replace(found, advice=f"{verdict} {found.advice}", material=material)
    results = found.out / RESULTS
    write_json(results, read_json(results) | {"advice": found.advice, "notes": material.notes})
    row = next(row for row in found.rows if row.name == student)
    shutil.rmtree(out / STUDENT, ignore_errors=True)
    if not row.error:
        keep_apart(found, row, out / STUDENT)
    return Distilled(found, verdict, num_labelled, out / STUDENT)
