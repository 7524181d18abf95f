"""Plots: what can happen in the town, as beats in two languages, and the choices that make one telling.

A plot in `plots_*.yaml` has roles (slot: pool), beats, headlines, summaries and questions. A block is pairs
of lines, English then the same in Korean. A beat's title ends with `?` when it may be left out, with `/` when
it begins a new line, and names after `@` the outcomes (joined by `+`) that it belongs to. Reviews have
`opinions`, graded -2..2 for each aspect, and their outcome is the sentiment.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any, Literal, TypeAlias

from malmoi.world.patterns import LEVELS, Term
from malmoi.world.vocabulary import Pool, Split, load_yaml, pools, read_terms

FILES = ("plots_home", "plots_town", "plots_work", "plots_play", "plots_reviews", "plots_letters")
OPTIONAL_SHARE = 0.6  # how often an optional beat is used
HASH_BUCKETS = 10  # of combinations of key facts: one for valid, one for test, the others for train

# Strengths of the opinions that a review of each score gives, in order.
OPINION_PLANS: dict[int, tuple[tuple[int, ...], ...]] = {
    5: ((2, 2, 1), (2, 1, 2), (1, 2, 2), (2, 2, 1, 2)),
    4: ((1, 1, 1), (2, -1, 1), (-1, 1, 2), (1, 2, -1, 1)),
    3: ((2, -2), (-1, 1), (1, 1, -2), (-1, -1, 2), (1, -1, 2, -2), (-2, 2, -1, 1)),
    2: ((-1, -1, -1), (1, -2, -1), (-2, 1, -1), (-1, -2, 1, -1)),
    1: ((-2, -2, -1), (-2, -1, -2), (-1, -2, -2), (-2, -2, -1, -2)),
}

Sentiment = Literal["positive", "negative", "mixed"]
# The sentiment that a score stands for.
SENTIMENTS: dict[int, Sentiment] = {1: "negative", 2: "negative", 3: "mixed", 4: "positive", 5: "positive"}

Pair: TypeAlias = tuple[str, str]  # a pattern in English and in Korean


@dataclass(frozen=True, slots=True)
class Beat:
    """One step of a plot: a choice of patterns, and when and where they are used."""

    pairs: tuple[Pair, ...]
    optional: bool
    separator: str
    outcomes: frozenset[str]  # empty: every outcome

    def fits(self, outcome: str) -> bool:
        return not self.outcomes or outcome in self.outcomes


@dataclass(frozen=True, slots=True)
class Ask:
    """A question for one fact with the answer as a full sentence, each in both languages."""

    slot: str
    question: Pair
    answer: Pair


@dataclass(frozen=True, slots=True)
class Step:
    """One sentence that a telling has settled on, for both languages."""

    pair: Pair
    choice: int  # among the pattern's [alternatives]
    separator: str = " "


@dataclass(frozen=True, slots=True)
class Plot:
    """One kind of document: who and what it needs, and all the ways to tell it."""

    name: str
    roles: Mapping[str, Pool]
    key: tuple[str, ...]  # the facts whose combinations are held out
    outcomes: Mapping[str, int]  # outcome -> weight
    beats: Mapping[str, Beat]
    headlines: tuple[Beat, ...]
    summaries: tuple[Beat, ...]
    questions: tuple[Beat, ...]
    opinions: tuple[Mapping[int, tuple[Pair, ...]], ...]  # per aspect: strength -> patterns
    levels: tuple[str, ...]  # Korean speech levels that suit the plot
    honorific: bool  # Korean names take 씨 (never in the plain level)
    short_names: bool


@dataclass(frozen=True, slots=True)
class Telling:
    """One plot with its facts and every choice made; the same in both languages."""

    plot: Plot
    facts: Mapping[str, Term]
    level: str
    steps: tuple[Step, ...]
    headline: Step
    summary: Step
    asks: tuple[Ask, ...]
    score: int | None


def read_pairs(block: str) -> tuple[Pair, ...]:
    """The pairs of lines of a block; blank lines between them are for the eye only."""
    lines = [line.strip() for line in block.splitlines() if line.strip()]
    assert len(lines) % 2 == 0, f"an odd number of lines, from: {lines[:1]}"
    return tuple(zip(lines[::2], lines[1::2], strict=True))


def _beat(title: str, block: str) -> Beat:
    outcomes = re.sub("[?/]", "", title).partition("@")[2]
    separator = "\n" if "/" in title else " "
    return Beat(read_pairs(block), "?" in title, separator, frozenset(outcomes.split("+")) - {""})


def _plot(name: str, spec: dict[str, Any]) -> Plot:
    own = {pool: Pool(read_terms(block)) for pool, block in spec.pop("pools", {}).items()}
    known = pools() | own
    roles = {slot: known[pool] for slot, pool in spec.pop("roles").items()}

    def views(word: str) -> tuple[Beat, ...]:
        titles = [title for title in spec if title.startswith(word)]
        return tuple(_beat(title, spec.pop(title)) for title in titles)

    opinions = spec.pop("opinions", {})
    plot = Plot(
        name=name,
        roles=roles | {"town": known["town"]},
        key=tuple(spec.pop("key")),
        outcomes=spec.pop("outcomes", {"": 1}),
        beats={title: _beat(title, block) for title, block in spec.pop("beats").items()},
        headlines=views("headline"),
        summaries=views("summary"),
        questions=views("questions"),
        opinions=tuple({n: read_pairs(text) for n, text in aspect.items()} for aspect in opinions.values()),
        levels=tuple(spec.pop("levels", LEVELS)),
        honorific=spec.pop("honorific", True),
        short_names=spec.pop("short_names", False),
    )
    assert not spec, f"{name}: unknown keys {list(spec)}"
    return plot


@lru_cache(maxsize=1)
def plots() -> tuple[Plot, ...]:
    """Every plot of the town, read once."""
    return tuple(_plot(name, spec) for file in FILES for name, spec in load_yaml(f"{file}.yaml").items())


@lru_cache(maxsize=1)
def talk() -> dict[str, tuple[Pair, ...]]:
    """Connectives and the turns of dialogues that every plot may use."""
    return {name: read_pairs(block) for name, block in load_yaml("talk.yaml").items()}


def split_of(name: str, facts: Mapping[str, Term], key: Sequence[str]) -> Split:
    """The one split that may have this combination of key facts."""
    text = "|".join([name, *(facts[slot].en for slot in key)])
    held_out: dict[int, Split] = {0: "valid", 1: "test"}
    return held_out.get(zlib.crc32(text.encode()) % HASH_BUCKETS, "train")


def _words(term: Term) -> set[str]:
    """What no two facts of a document may share: people differ in both names."""
    return set(term.en.split()) if term.label == "PER" else {term.en}


def draw_facts(plot: Plot, split: Split, rng: Random) -> dict[str, Term]:
    """Facts for every role, no two alike, in a combination that belongs to `split`."""
    while True:
        facts: dict[str, Term] = {}
        used: set[str] = set()
        for slot, pool in plot.roles.items():
            term = pool.draw(rng, split)
            while used & _words(term):
                term = pool.draw(rng, split)
            used |= _words(term)
            facts[slot] = term
        if split_of(plot.name, facts, plot.key) == split:
            return facts


def pick(pairs: Sequence[Pair], rng: Random, separator: str = " ") -> Step:
    """One of the pairs, and a choice among its alternatives."""
    return Step(pairs[int(rng.random() * len(pairs))], rng.getrandbits(16), separator)


def _view(beats: Sequence[Beat], outcome: str, rng: Random) -> Step:
    return pick([pair for beat in beats if beat.fits(outcome) for pair in beat.pairs], rng)


def _opinions(plot: Plot, score: int, rng: Random) -> list[Step]:
    strengths = rng.choice(OPINION_PLANS[score])
    steps: list[Step] = []
    before, link = 0, ("", "")
    for strength, aspect in zip(strengths, rng.sample(plot.opinions, len(strengths)), strict=True):
        step = pick(aspect[strength], rng)
        if before:
            links = talk()["and" if strength * before > 0 else "but"]
            link = rng.choice([other for other in links if other != link])
            en, ko = (
                text if word == "_" else f"{word} {text}" for word, text in zip(link, step.pair, strict=True)
            )
            step = Step((en, ko), step.choice)
        steps.append(step)
        before = strength
    return steps


def plan(plot: Plot, split: Split, rng: Random) -> Telling:
    """Draw the facts and make every choice of one telling."""
    facts = draw_facts(plot, split, rng)
    score = rng.randint(1, 5) if plot.opinions else None
    outcome = SENTIMENTS[score] if score else rng.choices(*zip(*plot.outcomes.items(), strict=True))[0]
    steps: list[Step] = []
    for title, beat in plot.beats.items():
        if not beat.fits(outcome) or (beat.optional and rng.random() > OPTIONAL_SHARE):
            continue
        if title == "opinions":
            assert score is not None
            steps += _opinions(plot, score, rng)
        else:
            steps.append(pick(beat.pairs, rng, beat.separator))
    asks: list[Ask] = []
    for beat in plot.questions:
        for english, korean in beat.pairs if beat.fits(outcome) else ():
            (slot, ask, answer), (_, ask_ko, answer_ko) = english.split(" | "), korean.split(" | ")
            asks.append(Ask(slot, (ask, ask_ko), (answer, answer_ko)))
    headline, summary = _view(plot.headlines, outcome, rng), _view(plot.summaries, outcome, rng)
    return Telling(plot, facts, rng.choice(plot.levels), tuple(steps), headline, summary, tuple(asks), score)
