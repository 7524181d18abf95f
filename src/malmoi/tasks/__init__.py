"""The seven tasks: what their data look like, how to ask, how to read an answer, how to score it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from malmoi.core.errors import UserError, nearest
from malmoi.tasks.base import Task
from malmoi.tasks.chat import Chat
from malmoi.tasks.classification import Classification
from malmoi.tasks.completion import Completion
from malmoi.tasks.ner import NamedEntities
from malmoi.tasks.question_answering import QuestionAnswering
from malmoi.tasks.summarization import Summarization
from malmoi.tasks.translation import Translation

_ALL = (Classification, NamedEntities, Translation, Completion, Summarization, QuestionAnswering, Chat)
TASKS: dict[str, type[Task[Any, Any]]] = {task.name: task for task in _ALL}


def make_task(name: str, fields: Mapping[str, str] | None = None) -> Task[Any, Any]:
    """A task by name. Raises UserError, with the nearest valid name, for an unknown task or field."""
    if name not in TASKS:
        raise UserError(f"no task {name!r}; {nearest(name, TASKS)}")
    return TASKS[name](fields)
