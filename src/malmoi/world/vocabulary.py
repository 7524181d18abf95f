"""The words of the town: people, places, companies, dates and things, drawn apart for each split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from random import Random
from typing import Any, Literal

import yaml

from malmoi.world.patterns import Term

Split = Literal["train", "valid", "test"]
UNSEEN_SHARE = 0.3  # of the names in valid and test documents, this share never occurs in train

PLACES = ("place", "water", "street", "town")  # pools of a LOC; every other pool of names is an ORG's
WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
WEEKDAYS_KO = ["월요일", "화요일", "수요일", "목요일", "금요일", "토요일", "일요일"]
MONTHS = [
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
    "November", "December",
]  # fmt: skip


def load_yaml(name: str) -> Any:
    """A YAML file of this folder; the C parser reads it ten times faster where it is built in."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    text = files(__package__ or "malmoi.world").joinpath(name).read_text(encoding="utf-8")
    return yaml.load(text, Loader=loader)


def read_terms(block: str, label: str = "") -> tuple[Term, ...]:
    """Lines `English = Korean ; extra` as terms."""
    terms: list[Term] = []
    for line in filter(None, map(str.strip, block.splitlines())):
        words, _, extra = line.partition(" ; ")
        en, ko = words.split(" = ")
        terms.append(Term(en.strip(), ko.strip(), label, extra=extra.strip()))
    return tuple(terms)


@dataclass(frozen=True)
class Pool:
    """Terms that a slot can take: those of train, and those that only valid or only test may add."""

    train: Sequence[Term]
    valid: Sequence[Term] = ()
    test: Sequence[Term] = ()

    def draw(self, rng: Random, split: Split) -> Term:
        unseen = self.valid if split == "valid" else self.test if split == "test" else ()
        pool = unseen if unseen and rng.random() < UNSEEN_SHARE else self.train
        return pool[int(rng.random() * len(pool))]


def _people(given: dict[str, str], family: dict[str, str]) -> Pool:
    """Full names in the order of each name's own language: Mina Han is 한미나, Tom Bell is 톰 벨."""

    def full(first: Term, last: Term) -> Term:
        sex, order = first.extra.split(" ; ")
        ko = f"{last.ko}{first.ko}" if order == "k" else f"{first.ko} {last.ko}"
        return Term(f"{first.en} {last.en}", ko, "PER", first.en, first.ko, sex)

    def people(given_split: str, family_split: str) -> list[Term]:
        firsts, lasts = read_terms(given[given_split]), read_terms(family[family_split])
        return [full(first, last) for first in firsts for last in lasts if first.extra.endswith(last.extra)]

    unseen = {split: people(split, split) + people(split, "train") for split in ("valid", "test")}
    return Pool(people("train", "train"), unseen["valid"], unseen["test"])


def _dates() -> Pool:
    days = [Term(en, ko, "DATE") for en, ko in zip(WEEKDAYS, WEEKDAYS_KO, strict=True)]
    months = [
        Term(f"{day} {month}", f"{number}월 {day}일", "DATE")
        for number, month in enumerate(MONTHS, 1)
        for day in range(1, 29)
    ]
    return Pool(days * 40 + months)  # weekdays a little less than half of the time


@lru_cache(maxsize=1)
def pools() -> dict[str, Pool]:
    """Every pool of the town by name."""
    names: dict[str, Any] = load_yaml("names.yaml")
    found = {"person": _people(names.pop("given"), names.pop("family")), "date": _dates()}
    for name, block in names.items():
        label = "LOC" if name in PLACES else "ORG"
        parts = {"train": block} if isinstance(block, str) else block
        found[name] = Pool(**{split: read_terms(text, label) for split, text in parts.items()})
    words: dict[str, str] = load_yaml("words.yaml")
    return found | {name: Pool(read_terms(block)) for name, block in words.items()}
