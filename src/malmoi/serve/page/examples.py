"""Examples to click on, from the sample world's part that no demo model was trained on."""

from __future__ import annotations

from functools import cache
from typing import Any, cast

from malmoi.core.nouns import Question
from malmoi.data.readers import Record
from malmoi.tasks import make_task
from malmoi.world import documents
from malmoi.world.labelled import labelled

MOST_DOCUMENTS = 60  # looked through; the kinds of documents vary
EACH = 2  # per language
CONTINUE_FROM = 0.4  # of a text, for completion


@cache
def examples(task: str) -> list[list[str]]:
    """Rows for the task's boxes: some English, some Korean ones."""
    return [row for language in ("en", "ko") for row in _of_language(task, language)[:EACH]]


def _of_language(task: str, language: Any) -> list[list[str]]:
    rows: dict[str, list[str]] = {}  # one of a document, so that they differ
    for document in documents(MOST_DOCUMENTS, split="test", language=language):
        for row in labelled(task, [document]):
            texts = _texts(task, row, document.text, language)
            rows.setdefault(document.text, texts)
        if len(rows) >= EACH:
            break
    return list(rows.values())


def _texts(task: str, row: dict[str, Any], text: str, language: str) -> list[str]:
    if task == "completion":
        words = text.split(" ")
        return [" ".join(words[: max(3, int(CONTINUE_FROM * len(words)))])]
    if task == "translation":
        return [row[language]]
    given = make_task(task).examples(Record(row, ""), lambda _: None)
    value = next(iter(given)).input
    if isinstance(value, Question):
        return [value.question, value.context]
    return [value if isinstance(value, str) else cast(str, value[-1].content)]
