"""Riddles of the town: facts about people and things, and conclusions that each need two of them.

Somebody is linked to a place, a job or a day, and so is a thing; who the link is shared with follows. To draw
a conclusion a reader has to look up what it has just looked up, which a model learns far later than to copy,
and only from many riddles.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from random import Random

from malmoi.world.names import Split, TermPool
from malmoi.world.patterns import LEVELS, Language, Term, Writer
from malmoi.world.vocabulary import pools

MOST_PEOPLE = 5

_Pattern = tuple[str, str]  # in English and in Korean


@dataclass(frozen=True, slots=True)
class _Kind:
    """What is said of a person a and of a thing x, each linked to p, and what follows from the two."""

    link: str
    thing: str
    of_person: _Pattern
    of_thing: _Pattern
    conclusion: _Pattern


_KINDS: Mapping[str, _Kind] = {
    "home": _Kind(
        "place", "thing",
        ("{a} lives {p:at}.", "{a:은} {p}에 <산다|삽니다|살아요>."),
        ("There is {x:a} {p:at}.", "{p}에는 {x:이} 있<다|습니다|어요>."),
        ("So {a} lives close to the {x}.", "그래서 {a}의 집 가까이에는 {x:이} 있<다|습니다|어요>."),
    ),
    "work": _Kind(
        "job", "thing",
        ("{a} is the {p} of the town.", "{a:은} 마을의 {p:이다}."),
        ("The {p} lost {x:a}.", "{p:은} {x:을} 잃어버렸~."),
        ("So {a} is looking for the {x}.", "그래서 {a:은} {x:을} 찾고 있<다|습니다|어요>."),
    ),
    "day": _Kind(
        "date", "dish",
        ("{a} came to eat on {p}.", "{a:은} {p}에 밥을 먹으러 왔~."),
        ("There was {x} on {p}.", "{p}에는 {x:이} 나왔~."),
        ("So {a} ate {x}.", "그래서 {a:은} {x:을} 먹었~."),
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Riddle:
    """Facts of some people in a drawn order. What is linked to the n-th person is the n-th thing."""

    kind: str
    language: Language
    level: str
    terms: Mapping[str, Term]
    facts: tuple[str, ...]  # patterns

    @property
    def people(self) -> int:
        """How many there are."""
        return len(self.facts) // 2

    def text(self, *conclusions: tuple[int, int]) -> str:
        """The facts, and for each of these numbers of a person and a thing that the two belong together."""
        writer = Writer(self.language, self.terms, self.level)
        pattern = _KINDS[self.kind].conclusion[self.language == "ko"]
        drawn = (_of(pattern, person, thing) for person, thing in conclusions)
        for one in chain(self.facts, drawn):
            writer.write(one, separator=" ")
        return writer.text()


def riddle(random: Random, split: Split, language: Language, people: int = 2) -> Riddle:
    """A riddle about that many people, no two of whose facts are alike."""
    name = random.choice(list(_KINDS))
    kind, side = _KINDS[name], language == "ko"
    terms: dict[str, Term] = {}
    for slot, pool in (("a", "person"), ("p", kind.link), ("x", kind.thing)):
        drawn = _different(pools()[pool], random, split, people)
        terms |= {f"{slot}{number}": term for number, term in enumerate(drawn)}
    facts = [
        _of(pattern, number, number)
        for pattern in (kind.of_person[side], kind.of_thing[side])
        for number in random.sample(range(people), people)
    ]
    return Riddle(name, language, random.choice(LEVELS), terms, tuple(facts))


def solved_riddles(count: int, *, seed: int) -> Iterator[str]:
    """Riddles of the train split with everything that follows, English and Korean by turns."""
    for number in range(count):
        random = Random(f"riddle-{seed}-{number}")
        one = riddle(random, "train", "ko" if number % 2 else "en", random.randint(2, MOST_PEOPLE))
        yield one.text(*((person, person) for person in random.sample(range(one.people), one.people)))


def _of(pattern: str, person: int, thing: int) -> str:
    """The pattern about this person and this thing; the link is the person's."""
    number = {"a": person, "p": person, "x": thing}
    return re.sub(r"(?<={)\w", lambda match: f"{match[0]}{number[match[0]]}", pattern)


def _different(pool: TermPool, random: Random, split: Split, count: int) -> list[Term]:
    found: list[Term] = []
    while len(found) < count:
        term = pool.draw(random, split)
        if not any({*term.en.split()} & {*other.en.split()} for other in found):
            found.append(term)
    return found
