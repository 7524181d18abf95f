"""Summarization: a document becomes a short text."""

# ruff: noqa: ARG002  (a method of every task takes the same arguments)
from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from malmoi.core.nouns import Example, Report
from malmoi.data.opening import Record
from malmoi.metrics.overlap import rouge
from malmoi.tasks.base import Examples, Found, Nats, Scores, Task
from malmoi.tasks.kinds import TEXT
from malmoi.world import Document


class Summarization(Task[str, str]):
    """A summary may be a list of several that are as right."""

    name = "summarization"
    relation = "briefer"
    pipeline = "summarization"
    result = "Summary"
    about = "The text in a sentence."
    kind = TEXT
    primary = "rouge_l"
    roles: ClassVar = {
        "document": ("text", "article", "source", "input", "dialogue", "본문", "원문", "문서"),
        "summary": ("summaries", "highlights", "target", "abstract", "title", "output", "요약", "요약문"),
    }
    wordings = (
        (
            "Summarize this text briefly. Reply with the summary only.\n\n{input}",
            "{input}\n\nWhat is this about, in a sentence?",
            "Sum up the following.\n\n{input}",
        ),
        (
            "다음 글을 짧게 요약하세요. 요약만 쓰세요.\n\n{input}",
            "{input}\n\n한 문장으로 말하면 어떤 내용인가요?",
            "다음 내용을 간추려 주세요.\n\n{input}",
        ),
    )

    def examples(self, record: Record, report: Report) -> Iterator[Example[str, str]]:
        """One example."""
        found = self.value(record.values, "summary")
        several = found if isinstance(found, list) and found else [found]
        first, *others = (self.text({"summary": one}, "summary").strip() for one in several)
        yield Example(self.text(record.values, "document"), first, record.where, tuple(others))

    def row(self, example: Example[str, str]) -> dict[str, Any]:
        """Document and summary, a list where there are several."""
        found = list(example.references) if example.others else example.target
        return {self.named("document"): example.input, self.named("summary"): found}

    def samples(self, document: Document) -> Iterator[dict[str, Any]]:
        """Text and summary."""
        yield {"document": document.text, "summary": document.summary}

    def statistics(self, predictions: Found, examples: Examples, log_likelihoods: Nats = None) -> Scores:
        """rouge_l, rouge_1 and rouge_2."""
        return rouge(predictions, [example.references for example in examples])
