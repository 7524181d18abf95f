"""Classification: a text gets one label of a fixed set."""

# ruff: noqa: ARG002  (a method of every task takes the same arguments)
from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from malmoi.core.nouns import BadRow, Example, Report
from malmoi.data.arrow import local
from malmoi.data.labelled import attempts, class_folders, read_class_folders
from malmoi.data.opening import Record, short
from malmoi.metrics.statistics import accuracy, balanced_accuracy, macro_f1
from malmoi.tasks.base import Examples, Found, Nats, Scores, Task
from malmoi.tasks.kinds import LABEL
from malmoi.util.scripts import SPACELESS
from malmoi.world import Document


class Classification(Task[str, str]):
    """A label may be a number or true/false in the file; it is a text from then on."""

    name = "classification"
    about = "Which label fits the text, and how sure the model is."
    kind = LABEL
    primary, balanced = "accuracy", "macro_f1"
    roles: ClassVar = {
        "text": (
            "sentence", "document", "review", "content", "utterance", "comment", "input",
            "문장", "텍스트", "본문", "내용", "리뷰", "댓글", "발화",
        ),
        "label": (
            "class", "category", "sentiment", "intent", "target", "output",
            "라벨", "레이블", "분류", "감정", "감성", "카테고리", "의도", "정답",
        ),
    }  # fmt: skip
    wordings = (
        (
            "Classify this text. Reply with exactly one of: {labels}\n\nText: {input}\nLabel:",
            "{input}\n\nWhich of these labels fits this text: {labels}?",
            "Choose the right label ({labels}) for the following.\n\n{input}",
        ),
        (
            "이 글을 분류하세요. 다음 중에서 하나만 골라 그대로 쓰세요: {labels}\n\n글: {input}\n분류:",
            "{input}\n\n이 글은 다음 중 무엇에 해당하나요: {labels}?",
            "다음 글에 맞는 것을 고르세요 ({labels}).\n\n{input}",
        ),
    )

    def read(self, path: Path, report: Report) -> list[Example[str, str]]:
        """A file or folder of rows, or a folder with a folder of .txt files for each label."""
        if files := class_folders(local(path)):
            rows = read_class_folders(files, report)
            return list(attempts(rows, lambda row: self.grouped(row, report), report))
        return super().read(path, report)

    def examples(self, record: Record, report: Report) -> Iterator[Example[str, str]]:
        """One example."""
        value = self.value(record.values, "label")
        if isinstance(value, list):
            raise BadRow(f'"label" must be one label, found {short(value)}; for several use multi-label')
        yield Example(self.text(record.values, "text"), label_text(value), record.where)

    def parse(self, reply: str, value: str) -> str | None:
        """The label that the reply is, else the one label named in it."""
        plain = reply.strip()
        if not self.labels or plain in self.labels:
            return plain or None
        named = named_labels(plain, self.labels)
        return named[0] if len(named) == 1 else None

    def samples(self, document: Document) -> Iterator[dict[str, Any]]:
        """The sentiment of a document that has one."""
        if document.sentiment:
            yield {"text": document.text, "label": document.sentiment}

    def statistics(self, predictions: Found, examples: Examples, log_likelihoods: Nats = None) -> Scores:
        """accuracy, macro_f1 and balanced_accuracy."""
        targets = [example.target for example in examples]
        found = {"accuracy": accuracy, "macro_f1": macro_f1, "balanced_accuracy": balanced_accuracy}
        return {name: metric(predictions, targets) for name, metric in found.items()}


def label_text(value: Any) -> str:
    """A label as a text. Raises BadRow for what is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    label = json.dumps(value) if isinstance(value, bool | int) else value
    if not isinstance(label, str) or not label.strip():
        raise BadRow(f'"label" must be a text or a whole number, found {short(value) or "an empty one"}')
    return label.strip()


def named_labels(text: str, labels: Sequence[str]) -> list[str]:
    """The labels that stand in a text, less those that stand in another one that does."""
    named = [label for label in labels if _names(text, label)]
    return [label for label in named if not any(label != one and _names(one, label) for one in named)]


def _names(text: str, label: str) -> bool:
    """Whether `label` stands in `text` as a word, a Korean one with any ending; where words have no spaces
    between them, anywhere."""
    before = "" if re.match(f"[{SPACELESS}]", label) else r"(?<!\w)"
    return re.search(rf"{before}{re.escape(label)}(?![A-Za-z0-9_])", text, re.IGNORECASE) is not None
