"""The world's word lists and document kinds, read once from the YAML files beside this one."""

from __future__ import annotations

import random
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from malmoi.data.world.grammar import Pattern, Word, patterns

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same safe loader in C, where it was built
_NAMES_PER_HELD_OUT = 5  # in lists marked `split`
_HASH_BUCKETS = 10  # of fact combinations: one valid, one test, eight train


@dataclass(frozen=True, slots=True)
class Part:
    """One step of a document: a choice of patterns, told with some chance and under a condition."""

    say: tuple[Pattern, ...]
    chance: float
    when: tuple[tuple[str, frozenset[str]], ...]  # (fact, values that it may have)
    line: bool  # starts a new line
    opinions: bool  # stands for the opinions that make the score

    def holds(self, facts: Mapping[str, Word]) -> bool:
        return all(facts[slot].surface[0] in values for slot, values in self.when)


@dataclass(frozen=True, slots=True)
class Ask:
    """How to ask for one fact, and how to answer in a full sentence."""

    slot: str
    ask: tuple[Pattern, ...]
    say: tuple[Pattern, ...]
    part: Part  # its condition


@dataclass(frozen=True, slots=True)
class Kind:
    name: str
    weight: int
    slots: tuple[tuple[str, str], ...]  # (fact, category)
    branches: tuple[tuple[str, tuple[Word, ...]], ...]
    article: tuple[Part, ...]
    headline: tuple[Part, ...]
    summary: tuple[Part, ...]
    questions: tuple[Ask, ...]
    opinions: tuple[Mapping[int, tuple[Pattern, ...]], ...]  # per aspect: strength (-2..2) -> patterns


@dataclass(frozen=True, slots=True)
class World:
    constants: Mapping[str, Word]
    categories: Mapping[str, Mapping[str, tuple[Word, ...]]]  # category -> split -> its own words
    kinds: tuple[Kind, ...]
    weights: tuple[int, ...]
    talk: Mapping[str, tuple[Pattern, ...]]  # connectives, asides and turns that every kind may use
    stories: Mapping[str, str]


def _read(name: str) -> dict[str, Any]:
    text = (files("malmoi.data.world") / f"{name}.yaml").read_text(encoding="utf-8")
    return yaml.load(text, Loader=_LOADER)


def _rows(block: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")] for line in block.splitlines() if line.strip()]


def _split_of(index: int) -> str:
    group, place = divmod(index, _NAMES_PER_HELD_OUT)
    return "train" if place < _NAMES_PER_HELD_OUT - 1 else ("valid", "test")[group % 2]


def _category(spec: Mapping[str, Any], parts: Mapping[str, list[list[str]]]) -> dict[str, tuple[Word, ...]]:
    label = spec.get("label", "")
    if "words" in spec:
        words = [Word((en, ko), (en, ko), label) for en, ko in _rows(spec["words"])]
    else:
        words = []
        for index, (en, ko, *sex) in enumerate(parts[spec["first"]]):
            split = _split_of(index) if spec.get("split") else "train"
            for last in parts[spec["last"]]:
                surface = (spec["en"].format(en, last[0]), spec["ko"].format(ko, last[1]))
                words.append(Word(surface, (en, ko), label, split, sex[0] if sex else ""))
    return {name: tuple(w for w in words if w.split == name) for name in ("train", "valid", "test")}


def _part(spec: str | Mapping[str, Any], talk: Mapping[str, tuple[Pattern, ...]]) -> Part:
    spec = {"say": spec} if isinstance(spec, str) else spec
    conditions = [item.split("=") for item in spec["if"].split(" & ")] if "if" in spec else []
    when = tuple((slot.strip(), frozenset(values.strip().split("/"))) for slot, values in conditions)
    say = talk[spec["use"]] if "use" in spec else patterns(spec.get("say", ""))
    return Part(say, spec.get("maybe", 1.0), when, spec.get("line", False), spec.get("opinions", False))


def _kind(name: str, spec: Mapping[str, Any], talk: Mapping[str, tuple[Pattern, ...]]) -> Kind:
    branches = {
        slot: tuple(Word((value, value)) for value in values)
        for slot, values in spec.get("branches", {}).items()
    }
    questions = [
        Ask(q["slot"], patterns(q["ask"]), patterns(q["say"]), _part(q | {"say": ""}, talk))
        for q in spec["questions"]
    ]
    return Kind(
        name,
        spec.get("weight", 1),
        tuple(spec["facts"].items()),
        tuple(branches.items()),
        tuple(_part(part, talk) for part in spec["article"]),
        tuple(_part(part, talk) for part in spec["headline"]),
        tuple(_part(part, talk) for part in spec["summary"]),
        tuple(questions),
        tuple(
            {strength: patterns(block) for strength, block in aspect.items()}
            for aspect in spec.get("opinions", {}).values()
        ),
    )


@cache
def load() -> World:
    """Read every file of the world; later calls return the same object."""
    words, talk_file = _read("words"), _read("talk")
    talk = {name: patterns(block) for name, block in talk_file["patterns"].items()}
    parts = {name: _rows(block[0]) for name, block in words["parts"].items()}
    parts["day_of_month"] = [[str(day), str(day)] for day in range(1, 29)]
    specs = {name: spec for file in talk_file["kind_files"] for name, spec in _read(file).items()}
    kinds = tuple(_kind(name, spec, talk) for name, spec in specs.items())
    constants = {
        name: Word(tuple(_rows(spec["words"])[0]), label=spec["label"])  # type: ignore[arg-type]
        for name, spec in words["constants"].items()
    }
    return World(
        constants,
        {name: _category(spec, parts) for name, spec in words["categories"].items()},
        kinds,
        tuple(kind.weight for kind in kinds),
        talk,
        talk_file["stories"],
    )


def fingerprint(kind: Kind, facts: Mapping[str, Word]) -> int:
    """A number for the combination of facts, the same in both languages."""
    key = "|".join([kind.name, *(facts[slot].surface[0] for slot in facts if slot not in load().constants)])
    return zlib.crc32(key.encode())


def split_of(kind: Kind, facts: Mapping[str, Word]) -> str:
    """The one split that may tell these facts: that of a held-out name, else by the combination's hash."""
    held_out = {word.split for word in facts.values()} - {"train"}
    if held_out:
        return held_out.pop() if len(held_out) == 1 else "none"
    return {0: "valid", 1: "test"}.get(fingerprint(kind, facts) % _HASH_BUCKETS, "train")


def draw_facts(kind: Kind, split: str, rng: random.Random) -> dict[str, Word]:
    """Random facts whose combination belongs to `split`; half of valid and test use a held-out name."""
    novel = split != "train" and rng.random() < 0.5
    while True:
        facts = _draw(kind, split if novel else "train", rng)
        if split_of(kind, facts) == split:
            return facts


def _draw(kind: Kind, names_from: str, rng: random.Random) -> dict[str, Word]:
    world = load()
    facts = dict(world.constants)
    for slot, values in kind.branches:
        facts[slot] = rng.choice(values)
    used: set[str] = set()
    for slot, category in kind.slots:
        own = world.categories[category]
        held_out = own[names_from] if names_from != "train" and rng.random() < 0.5 else ()
        word = rng.choice(held_out or own["train"])
        while word.short[0] in used:  # two people, or two places, never share a name
            word = rng.choice(own["train"])
        used.add(word.short[0])
        facts[slot] = word
    return facts
