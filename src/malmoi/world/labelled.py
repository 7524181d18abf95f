"""The sample world as labelled rows of the seven tasks, in the formats that users' files have."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from malmoi.util.files import write_text
from malmoi.world.document import Document

Row = dict[str, Any]


def _classification(document: Document) -> Iterator[Row]:
    if document.sentiment:
        yield {"text": document.text, "label": document.sentiment}


def _ner(document: Document) -> Iterator[Row]:
    yield {"text": document.text, "entities": [asdict(span) for span in document.entities]}


def _translation(document: Document) -> Iterator[Row]:
    names = ("en", "ko") if document.language == "en" else ("ko", "en")
    for pair in document.sentence_pairs:
        row = dict(zip(names, pair, strict=True))
        yield {"en": row["en"], "ko": row["ko"]}


def _completion(document: Document) -> Iterator[Row]:
    yield {"text": document.retold()}


def _summarization(document: Document) -> Iterator[Row]:
    yield {"document": document.text, "summary": document.summary}


def _question_answering(document: Document) -> Iterator[Row]:
    for asked in document.questions:
        answer = {"text": asked.answer, "answer_start": asked.start}
        yield {"question": asked.question, "context": document.text, "answers": [answer]}


def _chat(document: Document) -> Iterator[Row]:
    yield {"messages": [asdict(turn) for turn in document.dialogue]}


_ROWS: dict[str, Callable[[Document], Iterator[Row]]] = {
    "classification": _classification,
    "ner": _ner,
    "translation": _translation,
    "completion": _completion,
    "summarization": _summarization,
    "question-answering": _question_answering,
    "chat": _chat,
}


def labelled(task: str, documents: Iterable[Document]) -> Iterator[Row]:
    """The rows that documents give for one task, as its JSON lines have them (see docs/formats.md)."""
    for document in documents:
        yield from _ROWS[task](document)


def write_labelled(path: Path, task: str, documents: Iterable[Document], most: int | None = None) -> int:
    """Write the rows (at most `most`) as JSON lines; returns how many."""
    rows = [row for row, _ in zip(labelled(task, documents), range(most or 1 << 62), strict=False)]
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return len(rows)
