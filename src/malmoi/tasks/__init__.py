"""The tasks: what their data look like, how to ask, how to read an answer, how to score it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from malmoi.core.errors import UserError, nearest
from malmoi.core.nouns import Example, Messages
from malmoi.tasks.base import Task
from malmoi.tasks.chat import Chat
from malmoi.tasks.classification import Classification
from malmoi.tasks.completion import Completion
from malmoi.tasks.multi_label import MultiLabel
from malmoi.tasks.ner import NamedEntities
from malmoi.tasks.question_answering import QuestionAnswering
from malmoi.tasks.summarization import Summarization
from malmoi.tasks.translation import Translation
from malmoi.util.files import new_file
from malmoi.world import Document, Split

SMALL_TALK = "small-talk"  # the folder of talks without a text, beside those of the tasks
_ALL = (
    Classification, MultiLabel, NamedEntities, Translation, Completion, Summarization, QuestionAnswering,
    Chat,
)  # fmt: skip
TASKS: dict[str, type[Task[Any, Any]]] = {task.name: task for task in _ALL}


def make_task(name: str, fields: Mapping[str, str] | None = None) -> Task[Any, Any]:
    """A task by name. Raises UserError, with the nearest valid name, for an unknown task or field."""
    if name not in TASKS:
        raise UserError(f"no task {name!r}; {nearest(name, TASKS)}")
    return TASKS[name](dict(fields or {}))


def sampled_tasks() -> list[str]:
    """The names of the tasks that the sample world has rows for, to teach and to show."""
    return [name for name, task in TASKS.items() if task.taught and task.samples is not Task.samples]


def write_samples(path: Path, task: str, documents: Iterable[Document], most: int | None = None) -> int:
    """Write a task's rows of documents (at most `most`) as JSON lines; returns how many."""
    made = make_task(task)
    rows = (row for document in documents for row in made.samples(document))
    return write_json_lines(path, islice(rows, most))


def write_rows(
    folder: Path, split: Split, documents_of: Callable[[str], Iterable[Document]],
    most_of: Callable[[str], int], talks: Iterable[Messages],
) -> None:  # fmt: skip
    """FOLDER/TASK/SPLIT.jsonl for every task that the sample world has rows for, and for small talk.

    documents_of, most_of: what a task's rows are of, and how many there are at most; talks: without a text,
    as rows of the task chat.
    """
    for task in sampled_tasks():
        write_samples(folder / task / f"{split}.jsonl", task, documents_of(task), most_of(task))
    rows = (Chat().row(Example(talk[:-1], talk[-1].content)) for talk in talks)
    write_json_lines(folder / SMALL_TALK / f"{split}.jsonl", rows)


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows, a line each; returns how many."""
    count = 0
    with new_file(path) as part, part.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count
