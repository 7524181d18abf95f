"""Plots: what can happen in the town, as beats in two languages, and the choices that make one telling.

A plot in `plots_*.yaml` has roles (slot: pool), beats, headlines, summaries and questions. A block is pairs
of lines, English then the same in Korean. A beat's title ends with `?` when it may be left out, with `/` when
it begins a new line, with `*` when its place among its neighbors with a `*` is drawn, and names after `@` the
outcomes (joined by `+`) that it belongs to. Reviews have `opinions`, graded -2..2 for each aspect, and their
outcome is the sentiment. `numbers` are drawn (`12..40`) or computed (`had - sold`); `sums` are questions
whose answer need not stand in the text, since the numbers in it give it.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from operator import add, le, mul, sub
from random import Random
from typing import Any, Literal, TypeAlias

from malmoi.world.names import Pool, Split, TermPool, read_terms
from malmoi.world.patterns import LEVELS, Language, Term, named_in
from malmoi.world.vocabulary import load_yaml, pools

FILES = (
    "plots_home", "plots_town", "plots_work", "plots_play", "plots_reviews", "plots_letters", "plots_numbers",
    "plots_days", "plots_talks",
)  # fmt: skip
PLAIN_FILES = ("plots_plain",)
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
    movable: bool
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
    roles: Mapping[str, TermPool]
    numbers: Mapping[str, str]  # slot -> `from..to` or a sum of slots before it
    key: tuple[str, ...]  # the facts whose combinations are held out
    outcomes: Mapping[str, int]  # outcome -> weight
    beats: Mapping[str, Beat]
    headlines: tuple[Beat, ...]
    summaries: tuple[Beat, ...]
    questions: tuple[Beat, ...]
    sums: tuple[Beat, ...]
    opinions: tuple[Mapping[int, tuple[Pair, ...]], ...]  # per aspect: strength -> patterns
    levels: tuple[str, ...]  # Korean speech levels that suit the plot
    honorific: bool  # Korean names take 씨 (never in the plain level)
    short_names: bool
    plain: bool  # a few sentences of the simplest kind
    alone: bool  # somebody speaks to the reader

    @property
    def joins(self) -> bool:
        """Whether others may stand beside it on a page: it is told by and to nobody in particular."""
        return not (self.alone or self.opinions or self.plain or any("/" in it for it in self.beats))


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
    sums: tuple[Ask, ...]
    score: int | None


def in_language(pair: Pair, language: Language) -> str:
    """A pair's text in the language."""
    return pair[language == "ko"]


def read_pairs(block: str) -> tuple[Pair, ...]:
    """The pairs of lines of a block; blank lines between them are for the eye only."""
    lines = [line.strip() for line in block.splitlines() if line.strip()]
    assert len(lines) % 2 == 0, f"an odd number of lines, from: {lines[:1]}"
    return tuple(zip(lines[::2], lines[1::2], strict=True))


def _beat(title: str, block: str) -> Beat:
    outcomes = frozenset(re.sub("[?/*]", "", title).partition("@")[2].split("+")) - {""}
    return Beat(read_pairs(block), "?" in title, "\n" if "/" in title else " ", "*" in title, outcomes)


def _plot(name: str, spec: dict[str, Any], plain: bool) -> Plot:
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
        numbers={slot: str(rule) for slot, rule in spec.pop("numbers", {}).items()},
        key=tuple(spec.pop("key")),
        outcomes=spec.pop("outcomes", {"": 1}),
        beats={title: _beat(title, block) for title, block in spec.pop("beats").items()},
        headlines=views("headline"),
        summaries=views("summary"),
        questions=views("questions"),
        sums=views("sums"),
        opinions=tuple({n: read_pairs(text) for n, text in aspect.items()} for aspect in opinions.values()),
        levels=tuple(spec.pop("levels", LEVELS)),
        honorific=spec.pop("honorific", True),
        short_names=spec.pop("short_names", False),
        plain=plain,
        alone=spec.pop("alone", False),
    )
    assert not spec, f"{name}: unknown keys {list(spec)}"
    return plot


def plots(*, plain: bool = False) -> tuple[Plot, ...]:
    """Every plot of the town; plain: those of the plain documents."""
    return _read_plots(plain)


@cache
def _read_plots(plain: bool) -> tuple[Plot, ...]:
    files = [load_yaml(f"{file}.yaml") for file in (PLAIN_FILES if plain else FILES)]
    return tuple(_plot(name, spec, plain) for file in files for name, spec in file.items())


@cache
def talk() -> dict[str, tuple[Pair, ...]]:
    """Connectives and the turns of dialogues that every plot may use."""
    return {name: read_pairs(block) for name, block in load_yaml("talk.yaml").items()}


def about(pair: Pair, slot: str) -> Pair:
    """What talk.yaml says of {who}, of the one in this slot."""
    en, ko = (text.replace("{who", f"{{{slot}") for text in pair)
    return en, ko


def split_of(name: str, facts: Mapping[str, Term], key: Sequence[str]) -> Split:
    """The one split that may have this combination of key facts."""
    text = "|".join([name, *(facts[slot].en for slot in key)])
    held_out: dict[int, Split] = {0: "valid", 1: "test"}
    return held_out.get(zlib.crc32(text.encode()) % HASH_BUCKETS, "train")


def _words(term: Term) -> set[str]:
    """What no two facts of a document may share: people differ in both names."""
    return set(term.en.split()) if term.label == "PER" else {term.en}


def draw_facts(
    plot: Plot, split: Split, rng: Random, given: Mapping[str, Term] | None = None
) -> dict[str, Term]:
    """Facts for every role, no two alike, in a combination that belongs to `split`; some may be given."""
    keys = {slot: plot.roles[slot] for slot in plot.key}
    while True:
        facts = draw_terms(keys, split, rng, given)
        if split_of(plot.name, facts, plot.key) == split:
            break
    facts = draw_terms(plot.roles, split, rng, facts)
    return facts | {slot: Term(str(n), str(n)) for slot, n in draw_numbers(plot.numbers, rng).items()}


def draw_terms(
    roles: Mapping[str, TermPool], split: Split, rng: Random, given: Mapping[str, Term] | None = None
) -> dict[str, Term]:
    """A term for every role that is not given, no two alike."""
    facts = dict(given or {})
    used = {word for term in facts.values() for word in _words(term)}
    for slot, pool in roles.items():
        if slot not in facts:
            term = pool.draw(rng, split)
            while used & _words(term):
                term = pool.draw(rng, split)
            used |= _words(term)
            facts[slot] = term
    return facts


_OPERATORS: dict[str, Callable[[int, int], int]] = {"+": add, "-": sub, "*": mul}


def draw_numbers(rules: Mapping[str, str], rng: Random) -> dict[str, int]:
    """Numbers by their rules, no two alike and none below 2. A rule is read from left to right."""
    while rules:
        found: dict[str, int] = {}
        for slot, rule in rules.items():
            least, dots, most = rule.partition("..")
            found[slot] = rng.randint(int(least), int(most)) if dots else _computed(rule, found)
        if len(set(found.values())) == len(found) and min(found.values()) > 1:
            return found
    return {}


def _computed(rule: str, known: Mapping[str, int]) -> int:
    first, *rest = rule.split()
    value = _number(first, known)
    for operator, word in zip(rest[::2], rest[1::2], strict=True):
        value = _OPERATORS[operator](value, _number(word, known))
    return value


def _number(word: str, known: Mapping[str, int]) -> int:
    return int(word) if word.isdecimal() else known[word]


def pick(pairs: Sequence[Pair], rng: Random, separator: str = " ") -> Step:
    """One of the pairs, and a choice among its alternatives."""
    return Step(pairs[int(rng.random() * len(pairs))], rng.getrandbits(16), separator)


def _named(steps: Iterable[Step], side: int) -> frozenset[str]:
    return frozenset[str]().union(*(named_in(step.pair[side]) for step in steps))


def _view(beats: Sequence[Beat], outcome: str, steps: Sequence[Step], rng: Random) -> Step:
    """A headline or a summary that names only what the steps do, in both languages."""
    pairs = [pair for beat in beats if beat.fits(outcome) for pair in beat.pairs]
    known = [_named(steps, side) for side in (0, 1)]
    return pick([pair for pair in pairs if all(map(le, map(named_in, pair), known))], rng)


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


def _asks(beats: Sequence[Beat], outcome: str) -> tuple[Ask, ...]:
    asks: list[Ask] = []
    for beat in beats:
        for english, korean in beat.pairs if beat.fits(outcome) else ():
            (slot, ask, answer), (_, ask_ko, answer_ko) = english.split(" | "), korean.split(" | ")
            asks.append(Ask(slot, (ask, ask_ko), (answer, answer_ko)))
    return tuple(asks)


def _steps(plot: Plot, outcome: str, score: int | None, rng: Random) -> list[Step]:
    steps: list[Step] = []
    moving = 0  # how many of the last steps may stand in any order
    for title, beat in plot.beats.items():
        if not beat.fits(outcome) or (beat.optional and rng.random() > OPTIONAL_SHARE):
            continue
        if title == "opinions":
            assert score is not None
            steps += _opinions(plot, score, rng)
            continue
        moving = moving + 1 if beat.movable else 0
        place = len(steps) - int(rng.random() * moving) if moving else len(steps)
        steps.insert(place, pick(beat.pairs, rng, beat.separator))
    return steps


def plan(
    plot: Plot, split: Split, rng: Random, given: Mapping[str, Term] | None = None, level: str | None = None
) -> Telling:
    """Draw the facts, less those that are given, and make every choice of one telling."""
    facts = draw_facts(plot, split, rng, given)
    score = rng.randint(1, 5) if plot.opinions else None
    outcome = SENTIMENTS[score] if score else rng.choices(*zip(*plot.outcomes.items(), strict=True))[0]
    level = level or rng.choice(plot.levels)
    steps = tuple(_steps(plot, outcome, score, rng))
    return Telling(
        plot,
        facts,
        level,
        steps,
        _view(plot.headlines, outcome, steps, rng),
        _view(plot.summaries, outcome, steps, rng),
        _asks(plot.questions, outcome),
        _asks(plot.sums, outcome),
        score,
    )


def plan_page(split: Split, rng: Random) -> tuple[Telling, ...]:
    """Two to four tellings of one speech level, each but the first with somebody whom the first one named."""
    level = rng.choice(LEVELS)
    suitable = [plot for plot in plots() if plot.joins and level in plot.levels]
    while True:
        first_plot, *others = rng.sample(suitable, rng.randint(2, 4))
        first = plan(first_plot, split, rng, level=level)
        if people := _people_in(first):
            sequels = (_sequel(plot, first.facts, rng.choice(people), level, split, rng) for plot in others)
            return (first, *sequels)


def _people_in(telling: Telling) -> list[str]:
    named = _named(telling.steps, 0)
    return [slot for slot, term in telling.facts.items() if term.label == "PER" and slot in named]


def _sequel(
    plot: Plot, known: Mapping[str, Term], who: str, level: str, split: Split, rng: Random
) -> Telling:
    """A telling with `who` of the `known` facts in it, introduced by a sentence."""
    people = [slot for slot, pool in plot.roles.items() if pool is pools()["person"]]
    given = {name: known[name] for name in ("job", "mayor") if name in known and name in plot.roles}
    given = {name: term for name, term in given.items() if term != known[who]}
    while True:
        slot = rng.choice(people)
        telling = plan(plot, split, rng, given | {slot: known[who]}, level)
        if slot in _people_in(telling):
            break
    return replace(telling, steps=(Step(about(rng.choice(talk()["more"]), slot), 0), *telling.steps))
