"""What is wrong across examples that are each right by themselves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from malmoi.core.errors import UserError
from malmoi.core.nouns import Answer, Example, Examples, Finding
from malmoi.tasks.kinds import Kind
from malmoi.util.units import counted

LONG = 100_000  # characters
MOST_NAMES = 5  # in a line

Parts = Mapping[str, Examples]


def check_examples(parts: Parts, key: Callable[[Any], str], kind: Kind) -> list[Finding]:
    """Empty targets, very long inputs, conflicts, inputs in two parts, rare and unseen labels."""
    found = [*_one_by_one(parts, key), *_repeats(parts, key, labelled=kind.fewest_labels > 0)]
    return [*found, *_too_few_labels(parts.get("train", ()), kind), *_labels(parts, kind)]


def _one_by_one(parts: Parts, key: Callable[[Any], str]) -> Iterator[Finding]:
    for example in (example for examples in parts.values() for example in examples):
        target = example.target.text if isinstance(example.target, Answer) else example.target
        if isinstance(target, str) and not target.strip():
            yield Finding("error", example.source, "the target is empty; drop the row or fill it")
        if (length := len(key(example.input))) > LONG:
            yield Finding("note", example.source, f"a text of {length:,} characters, much of it may be cut")


def _repeats(parts: Parts, key: Callable[[Any], str], *, labelled: bool) -> Iterator[Finding]:
    """Inputs that stand in an earlier part too, or have another label there or before."""
    first: dict[str, tuple[str, Example[Any, Any]]] = {}
    for part, example in ((part, example) for part, examples in parts.items() for example in examples):
        other, before = first.setdefault(key(example.input), (part, example))
        if other != part:
            yield Finding("warning", example.source, f"this {part} input is in {other} too: {before.source}")
        if labelled and before.target != example.target:
            yield Finding("warning", example.source, f"the same input as {before.source}, another label")


def refuse_too_few_labels(train: Examples, kind: Kind) -> None:
    """Raises UserError for training examples of which nothing can be learned."""
    for finding in _too_few_labels(train, kind):
        raise UserError(finding.message)


def labels_in(examples: Examples, kind: Kind) -> list[str]:
    """All labels in the examples' targets, sorted; none where a task of that kind has no label set."""
    return sorted(_places(examples, kind))


def two_or_more(labels: Iterable[str]) -> list[str]:
    """The labels, sorted, each once. Raises UserError where there is nothing to choose between."""
    found = sorted(set(labels))
    if len(found) < 2:
        known = f"only the label {found[0]!r}" if found else "no label"
        raise UserError(f"there is {known}; give examples of at least two")
    return found


def unseen_labels(known: Collection[str], examples: Examples, kind: Kind, use: str) -> Iterator[str]:
    """A warning where examples have labels that are not `known`; use: what they are for, in words."""
    unseen = [labels for one in examples if (labels := set(labels_in([one], kind)).difference(known))]
    if names := sorted(set().union(*unseen)):
        named = ", ".join(map(repr, names[:MOST_NAMES])) + (", ..." if len(names) > MOST_NAMES else "")
        share = f"{len(unseen):,} of {counted(len(examples), 'example')}"
        yield f"warning: training never saw {counted(len(names), 'label')} of {use}: {named} ({share})"


def _too_few_labels(examples: Examples, kind: Kind) -> Iterator[Finding]:
    """Training examples of which nothing can be learned."""
    labels = labels_in(examples, kind)
    if examples and len(labels) < kind.fewest_labels:
        message = (
            f"all training examples have the label {labels[0]!r}; give some of another one" if labels
            else f"no training example has {kind.labelled}; give some that have"
        )  # fmt: skip
        yield Finding("error", examples[0].source, message)


def _labels(parts: Parts, kind: Kind) -> Iterator[Finding]:
    places = {part: _places(examples, kind) for part, examples in parts.items()}
    train = places.get("train", {})
    for part, labels in places.items():
        for label, (place, *more) in labels.items():
            if part == "train" and not more:
                yield Finding("warning", place, f"the only training example with the label {label!r}")
            elif train and label not in train:
                yield Finding("warning", place, f"the label {label!r} of {part} is not in train")


def _places(examples: Examples, kind: Kind) -> dict[str, list[str]]:
    """Where each label stands."""
    places: dict[str, list[str]] = defaultdict(list)
    for example in examples:
        for label in kind.labels(example.target):
            places[label].append(example.source)
    return places
