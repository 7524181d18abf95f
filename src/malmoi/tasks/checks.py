"""What is wrong across examples that are each right by themselves."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from malmoi.core.errors import UserError
from malmoi.core.nouns import Answer, Example, Examples, Finding
from malmoi.data.characters import invisible, visible
from malmoi.data.opening import short
from malmoi.tasks.kinds import Kind
from malmoi.util.units import counted

LONG = 100_000  # characters
MOST_NAMES = 5  # in a line
FEW = 10  # below this, examples that are alike say nothing
LOOKED_AT = 1000  # examples
WRITTEN_FOR_NOTHING = frozenset(("nan", "NaN", "NAN", "null", "NULL", "None", "<NA>", "#N/A", "N/A", "NaT"))
MISSING = frozenset(name.casefold() for name in (*WRITTEN_FOR_NOTHING, "na", "nil", "undefined", "missing"))
_NUMBER = re.compile(r"[+-]?\d+([.]\d*)?", re.ASCII)
_LETTER = re.compile(r"[^\W\d_]")

Parts = Mapping[str, Examples]


def check_examples(parts: Parts, key: Callable[[Any], str], kind: Kind) -> list[Finding]:
    """Empty and constant targets, odd texts, conflicts, repeats, inputs in two parts, odd labels."""
    train = parts.get("train", ())
    found = [*_one_by_one(parts, key), *_repeats(parts, key, labelled=kind.fewest_labels > 0)]
    found += [*_too_few_labels(train, kind), *_same_targets(train, kind), *_numbers(train, key)]
    return [*found, *_labels(parts, kind), *_odd_labels(parts, kind)]


def _one_by_one(parts: Parts, key: Callable[[Any], str]) -> Iterator[Finding]:
    for example in (example for examples in parts.values() for example in examples):
        target = example.target.text if isinstance(example.target, Answer) else example.target
        if isinstance(target, str) and not target.strip():
            yield Finding("error", example.source, "the target is empty; drop the row or fill it")
        text = key(example.input)
        if text.strip() in WRITTEN_FOR_NOTHING:
            message = f"the text is {text.strip()!r}, which programs write for a missing value; drop the row"
            yield Finding("warning", example.source, message)
        if signs := invisible(text):
            message = f"the text holds invisible characters: {signs}; people do not see them, models do"
            yield Finding("warning", example.source, message)
        if len(text) > LONG:
            yield Finding("note", example.source, f"a text of {len(text):,} characters, much may be cut")


def _repeats(parts: Parts, key: Callable[[Any], str], *, labelled: bool) -> Iterator[Finding]:
    """Inputs that stand in an earlier part too, or have another label there or before."""
    first: dict[str, tuple[str, Example[Any, Any]]] = {}
    for part, example in ((part, example) for part, examples in parts.items() for example in examples):
        other, before = first.setdefault(key(example.input), (part, example))
        if other != part:
            yield Finding("warning", example.source, f"this {part} input is in {other} too: {before.source}")
        if labelled and before.target != example.target:
            yield Finding("warning", example.source, f"the same input as {before.source}, another label")
        elif other == part and before is not example and before.target == example.target:
            yield Finding("note", example.source, f"the same example as {before.source}; one is enough")


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


def _same_targets(train: Examples, kind: Kind) -> Iterator[Finding]:
    """Where one text is the answer to most inputs, all the same: often it is another column."""
    if kind.fewest_labels or kind.goes_on or len(train) < FEW:
        return
    texts = Counter(it.target.text if isinstance(it.target, Answer) else it.target for it in train)
    ((text, count),) = texts.most_common(1)
    if 2 * count > len(train):
        first = next(it for it in train if text in (it.target, getattr(it.target, "text", None)))
        share = f"{count:,} of {len(train):,} training examples have the same target, {short(text)!r}"
        yield Finding("warning", first.source, f"{share}; is it the right column?")


def _numbers(train: Examples, key: Callable[[Any], str]) -> Iterator[Finding]:
    """Where most of the text is numbers: often they are indices, from another column."""
    words = [word for example in train[:LOOKED_AT] for word in key(example.input).split()]
    numbers = [word for word in words if not _LETTER.search(word) and any(map(str.isdigit, word))]
    if len(words) >= FEW and 2 * len(numbers) > len(words):
        share = f"{len(numbers):,} of {len(words):,} words of the first inputs are numbers"
        named = " ".join(numbers[:MOST_NAMES])
        yield Finding("warning", train[0].source, f"{share}, {named!r}; is it the right column?")


def _odd_labels(parts: Parts, kind: Kind) -> Iterator[Finding]:
    """Labels that people cannot tell apart, or that stand for a missing value."""
    places: dict[str, list[str]] = defaultdict(list)
    for examples in parts.values():
        for label, found in _places(examples, kind).items():
            places[label] += found
    alike: dict[str, list[str]] = defaultdict(list)
    for label, found in places.items():
        alike[_seen_as(label)].append(label)
        if visible(label).casefold() in MISSING:
            message = f"the label {label!r} ({counted(len(found), 'example')}) often means no value"
            yield Finding("warning", found[0], f"{message}; drop these rows, or rename the label")
    for labels in filter(lambda it: len(it) > 1, alike.values()):
        write = ascii if len({visible(label) for label in labels}) < len(labels) else repr
        named = ", ".join(f"{write(label)} ({len(places[label]):,})" for label in labels)
        message = f"labels that look alike are different labels: {named}; write them in one way"
        yield Finding("warning", places[labels[-1]][0], message)


def _seen_as(label: str) -> str:
    """The same for labels that differ in case, width, invisible signs, separators, or as 1 and 1.0 do."""
    text = visible(label).casefold()
    if _NUMBER.fullmatch(text):
        return f"{float(text):g}"
    return re.sub(r"(?<=\w)[\s_-]+(?=\w)", " ", text)


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
