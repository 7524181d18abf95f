"""Completion: how a text goes on."""

# ruff: noqa: ARG002  (a method of every task takes the same arguments)
from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from malmoi.core.nouns import Example, Report
from malmoi.data.opening import Record, extension
from malmoi.data.readers import TEXT_EXTENSIONS, document_hash, find_files, read_rows
from malmoi.metrics.overlap import chrf
from malmoi.metrics.statistics import bits_per_byte, word_perplexity
from malmoi.tasks.base import GROUP, Examples, Found, Nats, Scores, Task
from malmoi.tasks.kinds import CONTINUATION
from malmoi.world import Document

MOST = 2_000  # characters of a piece
TRIED = 0.4  # of a text, to try how it goes on
MOST_INPUT = 300  # characters of its beginning that are the input
_SEAMS = [re.compile(seam) for seam in (r"\n\s*\n", r"\n", r"[.!?…。][\"'”’)]*\s+", r"\s+")]


class Completion(Task[str, str]):
    """Documents in any text format; input + target is a piece of one, exactly."""

    name = "completion"
    about = "How the text goes on."
    kind = CONTINUATION
    primary = "bits_per_byte"
    roles: ClassVar = {"text": ()}
    wordings = (
        (
            "Continue this text. Reply with the continuation only.\n\n{input}",
            "How does this text go on?\n\n{input}",
            "Write on from here: {input}",
        ),
        (
            "다음 글을 이어서 쓰세요. 이어지는 글만 쓰세요.\n\n{input}",
            "이 글은 어떻게 이어지나요?\n\n{input}",
            "여기서부터 계속 써 주세요: {input}",
        ),
    )

    def read(self, path: Path, report: Report) -> list[Example[str, str]]:
        """The pieces of all documents, in order."""
        if GROUP in self.fields:
            return super().read(path, report)
        field, of_file = self.fields.get("text", "text"), dict[str, str]()
        found: list[Example[str, str]] = []
        for row in read_rows(find_files(path), errors=None, field=field, report=report):
            file, document = row.where.rpartition(":")[0], _document(row.text)
            if extension(Path(file)) in TEXT_EXTENSIONS:  # one document, of which a row may be a part
                document = of_file.setdefault(file, document)
            found += (_example(piece, row.where, document) for piece in pieces_of(row.text))
        return found

    def examples(self, record: Record, report: Report) -> Iterator[Example[str, str]]:
        """The pieces of one text."""
        text = self.text(record.values, "text")
        return (_example(piece, record.where, _document(text)) for piece in pieces_of(text))

    def row(self, example: Example[str, str]) -> dict[str, Any]:
        """The whole text, which is cut anew when it is read."""
        return {self.named("text"): example.input + example.target}

    def parse(self, reply: str, value: str) -> str | None:
        """The reply, as it is."""
        return reply

    def samples(self, document: Document) -> Iterator[dict[str, Any]]:
        """The text, and more about it in other forms."""
        yield {"text": document.with_views()}

    def tries(self, document: Document) -> Iterator[str]:
        """How the text begins."""
        words = document.text.split(" ")
        yield " ".join(words[: max(3, int(TRIED * len(words)))])

    def statistics(self, predictions: Found, examples: Examples, log_likelihoods: Nats = None) -> Scores:
        """bits_per_byte and word_perplexity; without log-likelihoods only chrF of the predictions."""
        if log_likelihoods is None:
            return {"chrf": chrf(predictions, [example.references for example in examples])}
        targets = [example.target for example in examples]
        return {
            "bits_per_byte": bits_per_byte(log_likelihoods, targets),
            "word_perplexity": word_perplexity(log_likelihoods, targets),
        }


def pieces_of(text: str) -> Iterator[str]:
    """Pieces of at most MOST characters and about equal size, cut between paragraphs where possible."""
    text = text.strip()
    while text:
        num_left = -(-len(text) // MOST)
        cut = _cut(text, -(-len(text) // num_left)) if num_left > 1 else len(text)
        yield text[:cut].rstrip()
        text = text[cut:].lstrip()


def _cut(text: str, limit: int) -> int:
    """Where to cut before `limit`: after the last blank line, else line, sentence, space, else there."""
    for seam in _SEAMS:
        if ends := [found.end() for found in seam.finditer(text, limit // 2, limit)]:
            return ends[-1]
    return limit


def _document(text: str) -> str:
    """What stands for it: the same wherever its file lies."""
    return f"{document_hash(text):x}"


def _example(piece: str, where: str, document: str) -> Example[str, str]:
    """The first quarter of a piece, cut before a space, and the rest."""
    most = min(MOST_INPUT, len(piece) // 4)
    space = piece.rfind(" ", 1, most + 1)
    cut = space if space > 0 else most
    return Example(piece[:cut], piece[cut:], where, document=document)
