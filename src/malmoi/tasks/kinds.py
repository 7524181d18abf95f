"""What a kind of task is: what goes in, what comes out, how a reply is held to it. One row for each kind.

    kind           input X                 target Y
    label          str                     str, one of a fixed set
    labels         str                     tuple[str, ...] of a fixed set, sorted; () where none fits
    tags           str                     tuple[Entity, ...], sorted, not overlapping
    span           Question                Answer, a part of its context
    text           str or Message tuple    str
    continuation   str (may be empty)      str, how the text goes on

What higher layers have for a kind (a network, a grammar, a view) is a table there, by the kind.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

from malmoi.core.nouns import Answer, Entity, Question

# What a text is to its input: nothing in particular, the same more briefly, the same in other words in about
# that order, what the other side says next.
Relation = Literal["any", "briefer", "parallel", "reply"]


@dataclass(frozen=True, slots=True)
class Box:
    """What a person writes (a part of) an input in. key: its name in an input of several parts, as JSON."""

    label: str
    lines: int
    key: str = ""


def entity_labels(entities: Sequence[Entity]) -> list[str]:
    """Each label once, sorted."""
    return sorted({entity.label for entity in entities})


def marked(text: str, entities: Sequence[Entity]) -> list[tuple[str, str | None]]:
    """The pieces of a text, with the label of those that are entities."""
    pieces: list[tuple[str, str | None]] = []
    place = 0
    for entity in sorted(entities):
        pieces += [(text[place : entity.start], None), (text[entity.start : entity.end], entity.label)]
        place = entity.end
    return [piece for piece in [*pieces, (text[place:], None)] if piece[0]]


def joined_entities(
    windows: Sequence[tuple[int, int]], found: Sequence[Sequence[Entity]]
) -> tuple[Entity, ...]:
    """The entities of a text that was read in overlapping windows, each from the one in which it has most
    around it: where two overlap, the first is right up to the middle of what both hold."""
    middles = [(a[1] + b[0]) / 2 for a, b in pairwise(windows)]
    begins, ends = (-math.inf, *middles), (*middles, math.inf)
    joined: list[Entity] = []
    for entities, begin, end in zip(found, begins, ends, strict=True):
        for entity in entities:
            is_here = begin <= (entity.start + entity.end) / 2 < end
            if is_here and (not joined or entity.start >= joined[-1].end):
                joined.append(entity)
    return tuple(joined)


def moved(entities: Sequence[Entity], by: int) -> tuple[Entity, ...]:
    """The same so many characters later."""
    return tuple(replace(one, start=one.start + by, end=one.end + by) for one in entities)


def closed(reply: str) -> str:
    """A JSON list that was cut, ended after its last whole object."""
    return f"{reply[: reply.rfind('}') + 1]}]"


def usual_answer(targets: Sequence[str]) -> dict[str, str]:
    """The most frequent target, by how to call it."""
    ((usual, _),) = Counter(targets).most_common(1)
    return {_quoted(usual): usual}


def usual_labels(targets: Sequence[tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """The most frequent set, as many of the most frequent labels as have the best micro F1, and all labels,
    each by how to call it."""
    counts = Counter(label for target in targets for label in target).most_common()
    total, right, best, size = sum(count for _, count in counts), 0, 0.0, 0
    for number, (_, count) in enumerate(counts, 1):
        right += count
        if (value := 2 * right / (number * len(targets) + total)) > best:
            best, size = value, number
    sets = [Counter(targets).most_common(1)[0][0]]
    sets += [tuple(sorted(label for label, _ in some)) for some in (counts[:size], counts)]
    return {_quoted(", ".join(labels)) if labels else "no label": labels for labels in sets}


def _quoted(text: str) -> str:
    return f'"{text}"' if len(text) <= 40 else f'"{text[:39]}…"'


def _of_set(found: Sequence[str], labels: Collection[str]) -> tuple[str, ...]:
    return tuple(label for label in found if label in labels) if labels else tuple(found)


def _of_labels(entities: Sequence[Entity], labels: Collection[str]) -> Sequence[Entity]:
    return tuple(entity for entity in entities if entity.label in labels) if labels else entities


def _entities_within(entities: Sequence[Entity], text: str) -> Sequence[Entity]:
    return tuple(entity for entity in entities if entity.start >= 0 and entity.end <= len(text))


def _answer_within(answer: Answer, value: Question) -> Answer | None:
    return answer if answer.text in value.context else None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Kind:
    """What the tasks of one kind have in common.

    reply_tokens: at most, where no examples say how long replies are. labels: those in a target.
    fewest_labels: to learn from; 0: there is no label set. labelled: what an example without any label lacks.
    is_choice: a target is one of the labels. is_set: it is a set of them, each with a probability of its own.
    is_text: it is a text, which a model can give a likelihood to. goes_on: it goes on from the input, so
    nothing is asked, and it has no end. pipeline: the model hub's word for it. boxes, result: what an input
    is written in, and what a prediction is called, where the task says nothing else.

    usable(target, labels) is what counts of a target that was read in a reply; closed(reply) ends a reply
    that was cut; within(target, input) is what of a target still stands in an input that was cut. None:
    nothing. blind(targets): what to answer without looking at the input, by how to call it.
    """

    name: str
    reply_tokens: int
    pipeline: str
    result: str
    boxes: tuple[Box, ...] = (Box("Text", 4),)
    labels: Callable[[Any], list[str]] = lambda _: []
    fewest_labels: int = 0
    labelled: str = "a label"
    is_choice: bool = False
    is_set: bool = False
    is_text: bool = False
    goes_on: bool = False
    usable: Callable[[Any, Collection[str]], Any | None] = lambda target, _: target
    closed: Callable[[str], str] | None = None
    within: Callable[[Any, Any], Any | None] = lambda target, _: target
    blind: Callable[[Sequence[Any]], Mapping[str, Any]] = lambda _: {}

    @property
    def has_context(self) -> bool:
        """Whether an input is a question about a text."""
        return any(box.key == "context" for box in self.boxes)

    @property
    def example(self) -> Any:
        """An input as JSON, for commands and cards to show."""
        return {box.key: "..." for box in self.boxes} if self.boxes[0].key else "..."


LABEL = Kind(
    name="label", reply_tokens=16, pipeline="text-classification", result="Labels",
    labels=lambda label: [label], fewest_labels=2, is_choice=True, blind=usual_answer,
)  # fmt: skip
LABELS = Kind(
    name="labels", reply_tokens=128, pipeline="text-classification", result="Labels", labels=list,
    fewest_labels=1, is_set=True, usable=_of_set, blind=usual_labels,
)  # fmt: skip
TAGS = Kind(
    name="tags", reply_tokens=512, pipeline="token-classification", result="Entities", labels=entity_labels,
    fewest_labels=1, labelled="an entity", usable=_of_labels, closed=closed, within=_entities_within,
)  # fmt: skip
SPAN = Kind(
    name="span", reply_tokens=64, pipeline="question-answering", result="Answer in the text",
    boxes=(Box("Question", 1, "question"), Box("Text", 5, "context")), within=_answer_within,
    usable=lambda answer, _: answer if answer.start >= 0 else None,
)  # fmt: skip
TEXT = Kind(
    name="text", reply_tokens=512, pipeline="text-generation", result="Reply", is_text=True,
    blind=usual_answer,
)  # fmt: skip
CONTINUATION = Kind(
    name="continuation", reply_tokens=256, pipeline="text-generation", is_text=True, goes_on=True,
    blind=usual_answer, boxes=(Box("Beginning of a text", 3),),
    result="The text; what the model adds is blue",
)  # fmt: skip

EVERY_KIND = frozenset({LABEL, LABELS, TAGS, SPAN, TEXT, CONTINUATION})
