"""Labelled examples into a part to learn from, a part to choose by, and a part to report on, without leaks.

What is held out is a function of the inputs and the seed: inputs are ordered by label and hash and evenly
drawn from, so that every part has about the same mixture of labels and equal inputs lie on one side. Of sets
of labels the rarest one comes first, as in iterative stratification (Sechidis et al. 2011), then the next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from malmoi.core.errors import UserError
from malmoi.core.nouns import Example, Examples
from malmoi.data.readers import document_hash
from malmoi.util.units import counted

FEWEST = 10  # different inputs that can be split at all
HELD_OUT = 0.1
FEW_HELD = 100  # up to a fifth of the examples
MOST_VALID = 5_000  # more would make choices no better

Key = Callable[[Any], str]
OfExample = Callable[[Example[Any, Any]], str]
Labels = Callable[[Any], Sequence[str]]  # of a target


@dataclass(frozen=True, slots=True)
class Splits:
    """train: learn from it. valid: choose by it (when to stop, constants). test: report on it, once."""

    train: list[Example[Any, Any]]
    valid: list[Example[Any, Any]]
    test: list[Example[Any, Any]]
    notes: tuple[str, ...]


def split_examples(
    train: Examples, valid: Examples | None = None, test: Examples | None = None, *, key: Key,
    group: OfExample | None = None, labels: Labels | None = None, seed: int = 0,
) -> Splits:  # fmt: skip
    """The three parts, whichever were given; the notes say what serves for what.

    A `valid` without a `test` becomes the test, for it was kept apart. What is missing is held out of
    `train`: a tenth of it, of few examples a fifth.
    Inputs with the same key(input) are the same. Examples of one group(example), by default the key, stay
    together (the turns of one conversation, the sentences of one document), where there are enough groups.
    One example of each label stays in `train` (of each that is the rarest one of a set). Raises UserError
    where there are fewer than 10 different inputs, or groups of the user's.
    """
    notes: list[str] = []
    if test is None and valid is not None:
        test, valid = valid, None
        notes.append(f"report: the {counted(len(test), 'validation example')}")
    if valid is None and (num_inputs := len({key(example.input) for example in train})) < FEWEST:
        raise UserError(
            f"only {counted(num_inputs, 'different input')}, too few to hold some out; give {FEWEST} or more"
        )
    # a tenth, but of little data more, for five examples say nothing
    num_held = max(1, round(HELD_OUT * len(train)), min(FEW_HELD, len(train) // 5))
    alone: OfExample = lambda example: key(example.input)  # noqa: E731
    by = group or alone
    if test is None:
        train, test = _cut(train, num_held, alone, by, labels, seed)
        notes.append(f"report: {len(test):,} of the training examples, {_held_out(train, test)}")
    elif both := {one.group for one in test if one.group} & {one.group for one in train}:
        notes.append(f"report: shares {counted(len(both), 'group')} with the training examples")
    train, dropped = _without(train, {key(example.input) for example in test}, key)
    if dropped:
        notes.append(f"dropped from training: {counted(dropped, 'example')} whose input is in the report")
    if valid is None:
        train, valid = _cut(train, min(num_held, MOST_VALID), alone, by, labels, seed)
        notes.append(f"choices: {len(valid):,} of the training examples, held out by hash")
    return Splits(list(train), list(valid), list(test), tuple(notes))


def _held_out(train: Examples, test: Examples) -> str:
    """How, and what that means for the figures."""
    if any(example.group for example in test):
        return f"held out by whole groups ({len({example.group for example in test}):,} of them)"
    here, there = ({example.document for example in part} - {""} for part in (test, train))
    how = "by hash" if not here or here & there else f"by whole documents ({len(here):,} of them)"
    return (
        f"held out {how}: texts of the same sources; of new ones figures are often lower "
        "(`group` COLUMN holds out whole documents, authors or products)"
    )


def _without(examples: Examples, known: set[str], key: Key) -> tuple[Examples, int]:
    kept = [example for example in examples if key(example.input) not in known]
    if not kept:
        raise UserError("every training example is also in the test set; give other examples to train on")
    return kept, len(examples) - len(kept)


def _cut(
    examples: Examples, num_held: int, alone: OfExample, group: OfExample, labels: Labels | None, seed: int
) -> tuple[Examples, Examples]:
    """(the rest, about `num_held` examples), both in the order of `examples`."""
    strata = _strata(examples, group, labels)
    if len(strata) < FEWEST and group is not alone:
        if any(example.group for example in examples):
            fix = "give a file to test on, or leave out `group`"
            raise UserError(f"only {counted(len(strata), 'group')}, too few to hold some out; {fix}")
        return _cut(examples, num_held, alone, alone, labels, seed)
    held = _drawn(strata, max(1, round(num_held * len(strata) / len(examples))), seed)
    parts: tuple[list[Example[Any, Any]], list[Example[Any, Any]]] = ([], [])
    for example in examples:
        parts[group(example) in held].append(example)
    return parts


def _strata(examples: Examples, group: OfExample, labels: Labels | None) -> dict[str, tuple[str, ...]]:
    """Of each group the labels of its first example, the rarest first."""
    first: dict[str, Sequence[str]] = {}
    for example in examples:
        first.setdefault(group(example), labels(example.target) if labels else ())
    counts = Counter(label for found in first.values() for label in found)
    return {
        name: tuple(sorted(found, key=lambda label: (counts[label], label))) for name, found in first.items()
    }


def _drawn(strata: dict[str, tuple[str, ...]], count: int, seed: int) -> set[str]:
    """About `count` groups, evenly over the strata, never the only or first one of its first label."""
    ordered = sorted(strata, key=lambda name: (strata[name], document_hash(f"{seed} {name}")))
    pairs = pairwise(ordered)
    free = [name for before, name in pairs if strata[before][:1] == strata[name][:1]] or ordered[1:]
    if not free:
        raise UserError("too few different inputs are left to hold some out; give more training examples")
    count = min(count, len(free))
    return {free[(2 * at + 1) * len(free) // (2 * count)] for at in range(count)}


def folded(text: str) -> str:
    """The same for texts that differ in case and spacing at most."""
    return " ".join(text.lower().split())


def fold_numbers(examples: Examples, key: OfExample, labels: Labels, count: int) -> list[int]:
    """For each example one of `count` folds: every fold has about the same mixture of labels.

    Examples with the same key lie in one fold, and those of a label with `count` keys or more in every one
    (of sets: of a label that is the rarest one of so many).
    """
    strata = _strata(examples, key, labels)
    ordered = sorted(strata, key=lambda name: (strata[name], document_hash(name)))
    fold = {name: at % count for at, name in enumerate(ordered)}
    return [fold[key(example)] for example in examples]
