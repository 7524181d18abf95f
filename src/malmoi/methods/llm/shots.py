"""Solved examples to show a language model before it is asked ("shots").

Shape letters: N candidates, F features.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any, Generic, Literal, TypeVar

import numpy as np

from malmoi.core.errors import UserError
from malmoi.core.nouns import Entity, Example
from malmoi.data.readers import document_hash
from malmoi.methods.traditional.vectors import NgramView, Vectors
from malmoi.tasks.base import Task
from malmoi.tasks.kinds import entity_labels

X = TypeVar("X")
Y = TypeVar("Y")
How = Literal["random", "similar"]

SHOTS_FILE = "shots.jsonl"
LETTERS = (NgramView("char_wb", 2, 4),)
MOST_COMPARED = 20_000  # candidates for similarity, drawn by the seed


class Shots(Generic[X, Y]):
    """Chooses `count` examples to show for an input, never one with that very input.

    random: the same ones for every input, drawn by a hash of seed and input and balanced: a label (of
    entities, a set of labels) comes a second time only after every other one. similar: the nearest by TF-IDF
    of characters, the nearest last, where a model heeds it most (Liu et al. 2022). key: what tells inputs
    apart, as `Task.key`. `examples` are those that may ever be picked: `Shots` of them picks the same.
    Raises UserError where there is nothing to show.
    """

    def __init__(
        self, examples: Sequence[Example[X, Y]], count: int, how: How = "random", seed: int = 0,
        key: Callable[[X], str] = str,
    ) -> None:  # fmt: skip
        self.count, self.how, self._key = count, how, key
        found = {key(example.input): example for example in reversed(examples)} if count else {}
        if count and not found:
            raise UserError("there are no training examples to show a model; set shots to 0")
        drawn = sorted(found, key=lambda text: (document_hash(f"{seed} {text}"), text))
        if how == "similar":
            self._texts = drawn[:MOST_COMPARED]
            self._strata = [[found[text] for text in self._texts]]
            if self._texts:
                self._vectors = Vectors(LETTERS).fit(self._texts)
                self._rows_NF = self._vectors.rows(self._texts)
        else:
            self._strata = _strata((found[text] for text in drawn), count + 1)

    @property
    def examples(self) -> list[Example[X, Y]]:
        """The candidates."""
        return [example for stratum in self._strata for example in stratum]

    def pick(self, value: X) -> list[Example[X, Y]]:
        """What to show before `value`, in this order; fewer than `count` where there are no more."""
        if not self.count:
            return []
        asked = self._key(value)
        if self.how == "similar":
            return self._nearest(asked)
        free = [[one for one in stratum if self._key(one.input) != asked] for stratum in self._strata]
        return [one for layer in zip_longest(*free) for one in layer if one is not None][: self.count]

    def _nearest(self, asked: str) -> list[Example[X, Y]]:
        cosines_N = (self._rows_NF @ self._vectors.rows([asked]).T).toarray().ravel()
        order = (n for n in np.argsort(-cosines_N, kind="stable") if self._texts[n] != asked)
        picked = [self._strata[0][n] for n, _ in zip(order, range(self.count), strict=False)]
        return picked[::-1]


def _strata(examples: Iterable[Example[X, Y]], most: int) -> list[list[Example[X, Y]]]:
    """At most `most` examples of each of the first `most` labels, in their order."""
    found: defaultdict[Any, list[Example[X, Y]]] = defaultdict(list)
    for example in examples:
        found[_stratum(example.target)].append(example)
    return [stratum[:most] for stratum in list(found.values())[:most]]


def _stratum(target: Any) -> Any:
    """What is balanced: labels, sets of them, the kinds of entities; others are all different anyway."""
    has_entities = isinstance(target, tuple) and isinstance(next(iter(target), None), Entity)
    return tuple(entity_labels(target)) if has_entities else target


def shots_files(task: Task[Any, Any], shots: Shots[Any, Any]) -> dict[str, bytes]:
    """The candidates as JSON lines, for a method's folder."""
    rows = ([task.input_json(one.input), task.to_json(one.target, one.input)] for one in shots.examples)
    return {SHOTS_FILE: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()}


def read_shots(task: Task[Any, Any], files: Mapping[str, bytes]) -> list[Example[Any, Any]]:
    """The inverse of `shots_files`: `Shots` of them, with the same count, seed and key, picks the same."""
    rows = (json.loads(line) for line in files[SHOTS_FILE].decode().split("\n") if line)
    return [Example(task.input_from(value), task.from_json(target)) for value, target in rows]
