"""The rows of a task's labelled examples, for cleaning."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from malmoi.core.errors import UserError
from malmoi.core.nouns import Answer, Example, Report, silent
from malmoi.data.cleaning_rules import TEST_FILE, Cleaning
from malmoi.data.cleaning_sources import PartFile, Row, part_sources
from malmoi.data.labelled import CONLL_EXTENSIONS, RECORD_EXTENSIONS, read_records
from malmoi.data.opening import extension
from malmoi.data.readers import find_files
from malmoi.tasks.base import Task
from malmoi.tasks.kinds import SPAN, TAGS

PLACED = (TAGS, SPAN)  # kinds whose targets are places in the input, which a changed text would move


def example_sources(task: Task[Any, Any], path: Path, tests: Sequence[Path]) -> list[PartFile]:
    """The files of labelled examples, in the order in which cleaning reads them.

    Raises UserError where there are none.
    """
    known = sorted({*RECORD_EXTENSIONS, *(CONLL_EXTENSIONS if task.kind is TAGS else ())})
    read = lambda file, report: example_rows(task, file, report)  # noqa: E731
    files = [file for test in tests for file in find_files(test, known)]
    kept_apart = [PartFile(file, TEST_FILE, "", read) for file in files]
    return [*kept_apart, *part_sources(path, find_files(path, known), read)]


def check_cleaning(task: Task[Any, Any], cleaning: Cleaning) -> None:
    """Raises UserError for what cannot be done to examples of this task."""
    if task.kind in PLACED and (cleaning.fix or cleaning.redact):
        raise UserError(
            f"`fix` and `redact` would change texts of {task.name} in which targets have their places; "
            "only `drop` works with it"
        )


def example_rows(task: Task[Any, Any], file: Path, report: Report) -> Iterator[Row]:
    """The rows of one file, as they stand there where each is one example or one conversation.

    Of other formats (tagged tokens, articles of SQuAD) each example is a row of its own.
    """
    by_place: dict[str, list[Example[Any, Any]]] = defaultdict(list)
    for example in task.read(file, report):
        by_place[example.source].append(example)
    whole = task.kind.is_text or all(len(examples) == 1 for examples in by_place.values())
    if whole and extension(file) in RECORD_EXTENSIONS:
        for record in read_records(file, silent, report_ids=False):
            if examples := by_place.pop(record.where, None):
                yield _row(task, record.values, examples)
    for examples in by_place.values():
        for example in examples:
            yield _row(task, task.row(example), [example])


def _row(task: Task[Any, Any], values: Mapping[str, Any], examples: Sequence[Example[Any, Any]]) -> Row:
    """Of one row's examples the last has the whole input, as the turns of a conversation do."""
    last, kind = examples[-1], task.kind
    given = task.key(last.input)
    labels = [label for example in examples for label in kind.labels(example.target)]
    text = f"{given}\n{last.target}" if kind.is_text else given
    label = "" if kind.is_text else json.dumps(_target(task, last), ensure_ascii=False, sort_keys=True)
    return Row(
        dict(values), last.source, text, text if kind.goes_on else given, label, labels=frozenset(labels)
    )


def _target(task: Task[Any, Any], example: Example[Any, Any]) -> Any:
    """What tells targets apart: an answer by its text, the labels of a set in any order."""
    if isinstance(example.target, Answer):
        return sorted(answer.text for answer in example.references)
    return sorted(example.target) if task.kind.is_set else task.to_json(example.target, example.input)
