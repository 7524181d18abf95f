"""Minimal pairs of the town: the same words with one thing wrong, in grammar or in logic.

A grammar pair differs from a sentence of the town's documents in its form (a particle, an article, agreement,
case, the order of two words); either sentence would be as true. A logic pair states four facts and then draws
a conclusion that needs two of them; both conclusions are as grammatical. A model is right where it finds the
good sentence the likelier one, so chance is 50% in both, and the two scores can stand side by side.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from malmoi.world import Document, Language, Split, documents
from malmoi.world.patterns import PARTICLES, article, with_particle
from malmoi.world.riddles import riddle

Place = tuple[int, int, str]  # start and end of something right, and something wrong instead of it
Change = Callable[[str, Document], list[Place]]  # where a sentence of a document can be made wrong


@dataclass(frozen=True, slots=True)
class MinimalPair:
    """Two texts that differ in one thing, which makes one of them wrong. group: what they test."""

    good: str
    bad: str
    group: str = ""


def grammar_pairs(count: int, *, split: Split, language: Language, seed: int = 0) -> list[MinimalPair]:
    """`count` pairs from documents of the town, the phenomena by turns. A function of the arguments."""
    changes = _CHANGES[language]
    found: list[MinimalPair] = []
    seen: set[str] = set()
    for number, document in enumerate(documents(1 << 30, split=split, language=language, seed=seed)):
        name = list(changes)[len(found) % len(changes)]
        pair = _changed(document, name, changes[name], Random(f"{seed}-{number}"))
        if pair and pair.good not in seen:
            seen.add(pair.good)
            found.append(pair)
        if len(found) >= count:
            break
    return found


def logic_pairs(count: int, *, split: Split, language: Language, seed: int = 0) -> list[MinimalPair]:
    """`count` pairs whose last sentence needs two of the facts before it. A function of the arguments."""
    return [_conclusion(Random(f"{split}-{seed}-{number}"), split, language) for number in range(count)]


def _conclusion(random: Random, split: Split, language: Language) -> MinimalPair:
    """Facts of two people, then the conclusion for one of them, right and wrong."""
    facts = riddle(random, split, language, people=2)
    asked = random.randrange(2)
    return MinimalPair(facts.text((asked, asked)), facts.text((asked, 1 - asked)), facts.kind)


def world_probes(
    split: Split = "test", language: Language = "en", *, count: int = 200, seed: int = 0
) -> dict[str, list[MinimalPair]]:
    """`count` pairs of grammar and as many of logic."""
    return {
        "grammar": grammar_pairs(count, split=split, language=language, seed=seed),
        "logic": logic_pairs(count, split=split, language=language, seed=seed),
    }


# ---- grammar


def _changed(document: Document, name: str, change: Change, random: Random) -> MinimalPair | None:
    """The first of the document's sentences, in some order, that the change makes wrong."""
    sentences = [ours for ours, _ in document.sentence_pairs]
    for sentence in random.sample(sentences, len(sentences)):
        if places := change(sentence, document):
            start, end, wrong = random.choice(places)
            bad = sentence[:start] + wrong + sentence[end:]
            if bad != sentence:
                return MinimalPair(sentence, bad, name)
    return None


def _rewritten(pattern: str, wrong: Callable[[re.Match[str]], str | None]) -> Change:
    """The change of what the pattern finds into something wrong."""

    def places(sentence: str, _: Document) -> list[Place]:
        found = ((match, wrong(match)) for match in re.finditer(pattern, sentence))
        return [(match.start(), match.end(), text) for match, text in found if text is not None]

    return places


def _swapped(match: re.Match[str]) -> str:
    first, second = match[0].split(" ")
    return f"{second} {first}"


def _wrong_article(match: re.Match[str]) -> str | None:
    """The other article; None where the text has not the usual one."""
    if article(match[2]).strip() != match[1].lower():
        return None
    return f"{match[1][0]} " if len(match[1]) == 2 else f"{match[1]}n "


_PLURAL = {"was": "were", "is": "are", "has": "have", "were": "was", "are": "is"}
_OTHER_CASE = {
    "he": "him", "she": "her", "they": "them", "He": "Him", "She": "Her", "They": "Them", "him": "he",
}  # fmt: skip
_PARTICLES = ("은", "이", "을", "과", "으로")
_FORMS = "|".join(sorted({form for name in _PARTICLES for form in PARTICLES[name]}, key=len, reverse=True))


def _wrong_particle(match: re.Match[str]) -> str | None:
    """The form that belongs after the other kind of sound; None where the text has not the usual one."""
    word, form = match["word"], match["form"]
    name = next(name for name in _PARTICLES if form in PARTICLES[name])
    if with_particle(word, name) != form:
        return None
    return word + next(other for other in PARTICLES[name] if other != form)


def _particle(sentence: str, document: Document) -> list[Place]:
    """빵은: 빵는. Korean people are called by their given names after the first time."""
    given_names = {name.split()[0] for name in document.facts.values() if " " in name}
    words = sorted({*document.facts.values(), *given_names} - {""}, key=len, reverse=True)
    names = "|".join(map(re.escape, words))
    pattern = rf"(?<![가-힣])(?P<word>(?:{names})(?: 씨)?)(?P<form>{_FORMS})(?=[ ,.])"
    return _rewritten(pattern, _wrong_particle)(sentence, document)


_CHANGES: dict[Language, dict[str, Change]] = {
    "en": {
        # The bridge was closed: the bridge were closed. Only in a plain statement: in "what was", "I was" or
        # "if it were" both forms may stand.
        "agreement": _rewritten(
            r"(?<=[a-z] )(?:was|is|has|were|are)(?= [a-z])", lambda match: _PLURAL[match[0]]
        ),
        # A goose: an goose.
        "article": _rewritten(r"\b([Aa]n?) (?=([a-z]))", _wrong_article),
        # They were late: them were late.
        "case": _rewritten(r"\b(?:[Hh]e|[Ss]he|[Tt]hey|him)\b(?! or )", lambda match: _OTHER_CASE[match[0]]),
        # The bridge: bridge the. An article or a preposition comes after its noun.
        "word order": _rewritten(r"(?<=[a-z] )(the|a|an|of|from|with|to) ([a-z]+)\b(?=[ .,])", _swapped),
    },
    "ko": {
        "particle": _particle,
        # 책을 읽는다: 책 읽는다를. A particle that stands after the verb instead of its noun.
        "particle place": _rewritten(
            r"(?<= )([가-힣]{2,})([을를]) ([가-힣]{2,}[다요])(?=[.])",
            lambda match: f"{match[1]} {match[3]}{match[2]}",
        ),
        # 신발을 찾았다: 찾았다 신발을. The verb, which comes last, comes before its object.
        "word order": _rewritten(r"(?:^|(?<=[가-힣] ))[가-힣]+[을를이가] [가-힣]+[다요](?=[.]\Z)", _swapped),
    },
}
