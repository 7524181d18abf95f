"""Multi-label classification: a text gets any number of labels of a fixed set, or none."""

# ruff: noqa: ARG002  (a method of every task takes the same arguments)
from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

from malmoi.core.nouns import BadRow, Example, Report
from malmoi.data.opening import Record, short
from malmoi.metrics.statistics import label_set_scores
from malmoi.tasks.base import Examples, Found, Nats, Scores, Task
from malmoi.tasks.classification import Classification, label_text, named_labels
from malmoi.tasks.kinds import LABELS
from malmoi.world import Document

BETWEEN = "|"  # labels in one cell
NOTHING = "none"  # the reply of an empty set
_NOTHING = re.compile(r"\W*(none|no labels?|없음|없습니다)\W*", re.IGNORECASE)
_TEXT = r'"(?:[^"\\]|\\.)*"'
_LIST = re.compile(rf"\[\s*(?:\]|(?:{_TEXT}\s*,?\s*)+)", re.DOTALL)
_PARTS = re.compile(r"[,|\n]")

LabelSet = tuple[str, ...]


class MultiLabel(Task[str, LabelSet]):
    """Labels are a list, or a text with `|` between them; an empty list or cell is the empty set."""

    name = "multi-label"
    title = "Multi-label"
    about = "Every label that fits the text, or none, and how sure the model is of each."
    kind = LABELS
    primary, balanced = "micro_f1", "macro_f1"
    taught = False
    roles: ClassVar = {
        "text": Classification.roles["text"],
        "labels": (
            "label",
            "tags",
            "topics",
            "categories",
            "classes",
            "emotions",
            "genres",
            "target",
            "output",
        ),
    }
    wordings = (
        (
            "Which of these labels fit this text: {labels}? Reply with a JSON list of all that fit, such as "
            '["...", "..."], or none.\n\nText: {input}\nLabels:',
            "{input}\n\nGive every label that fits this text, as a JSON list, or none. Labels: {labels}",
            "Tag the following text with all that apply ({labels}), as a JSON list, or none.\n\n{input}",
        ),
        (
            '이 글에 맞는 것을 모두 골라 JSON 목록(["...", "..."])으로 답하고, 없으면 none이라고 쓰세요: '
            "{labels}\n\n글: {input}\n분류:",
            "{input}\n\n이 글에 해당하는 것을 모두 JSON 목록으로, 없으면 none으로 답하세요: {labels}",
            "다음 글에 맞는 것을 모두 JSON 목록으로, 없으면 none으로 답하세요 ({labels}).\n\n{input}",
        ),
    )

    def examples(self, record: Record, report: Report) -> Iterator[Example[str, LabelSet]]:
        """One example."""
        labels = _labels(self.value(record.values, "labels"))
        yield Example(self.text(record.values, "text"), labels, record.where)

    def row(self, example: Example[str, LabelSet]) -> dict[str, Any]:
        """Text and labels, as a list: a label may hold a `|`."""
        return {self.named("text"): example.input, self.named("labels"): list(example.target)}

    def to_json(self, target: LabelSet | None, value: str) -> Any:
        """A list."""
        return None if target is None else list(target)

    def from_json(self, value: Any) -> LabelSet | None:
        """The inverse of `to_json`."""
        return None if value is None else tuple(value)

    def answer(self, target: LabelSet, value: str) -> str:
        """A JSON list; of no label, NOTHING."""
        return json.dumps(target, ensure_ascii=False) if target else NOTHING

    def parse(self, reply: str, value: str) -> LabelSet | None:
        """The first list of texts in a reply, which may have been cut; () where it says that none fits; else
        the labels that it names. Labels that the task does not know are left out."""
        if found := _LIST.search(reply):
            return self._known(_texts(found[0]))
        if _NOTHING.fullmatch(reply):
            return ()
        if self.labels:
            return _sorted(named_labels(reply, self.labels)) or None
        return _sorted(part.strip() for part in _PARTS.split(reply)) or None

    def _known(self, found: Sequence[str]) -> LabelSet:
        """Those of the task's labels, whatever their case; all where it has none."""
        folded = {label.casefold(): label for label in self.labels}
        known = [one if one in self.labels else folded.get(one.strip().casefold(), "") for one in found]
        return _sorted(known if self.labels else found)

    def samples(self, document: Document) -> Iterator[dict[str, Any]]:
        """Which kinds of names the text has."""
        yield {"text": document.text, "labels": sorted({span.label for span in document.entities})}

    def statistics(self, predictions: Found, examples: Examples, log_likelihoods: Nats = None) -> Scores:
        """micro_f1, macro_f1 and exact_match."""
        return label_set_scores(predictions, [example.target for example in examples])


def _sorted(labels: Iterable[str]) -> LabelSet:
    return tuple(sorted({label for label in labels if label}))


def _labels(value: Any) -> LabelSet:
    """The labels of a cell or list. Raises BadRow."""
    if isinstance(value, str):
        text = value.strip()
        if not text.startswith("[") or not text.endswith("]"):
            return _sorted(part.strip() for part in text.split(BETWEEN))
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            raise BadRow(f'"labels" must be a JSON list or a{BETWEEN}b, found {short(text)}') from None
    if not isinstance(value, list):
        raise BadRow(f'"labels" must be a list or a text such as a{BETWEEN}b, found {short(value)}')
    return _sorted(map(label_text, value))


def _texts(found: str) -> list[str]:
    """The texts of a JSON list, whether or not it ends; one with a wrong escape is left out."""
    texts: list[str] = []
    for text in re.findall(_TEXT, found, re.DOTALL):
        try:
            texts.append(json.loads(text, strict=False))
        except ValueError:
            continue
    return texts
