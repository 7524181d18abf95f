"""Minimal pairs of the town: the same words with one thing wrong, in grammar or in logic.

A grammar pair differs from a sentence of the town's documents in its form (a particle, an article, agreement,
case, the order of two words); either sentence would be as true. A logic pair tells four facts and then draws
a conclusion that needs two of them; both conclusions are as grammatical. A model is right where it finds the
good sentence the likelier one, so chance is 50% in both, and the two scores can stand side by side.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from malmoi.world import documents
from malmoi.world.document import Document, Language, Split
from malmoi.world.patterns import LEVELS, PARTICLES, Term, Writer, article, final_consonant
from malmoi.world.vocabulary import Pool, pools

Change = Callable[[str, Document, Random], str | None]  # a sentence made wrong, or None


@dataclass(frozen=True, slots=True)
class MinimalPair:
    """Two texts that differ in one thing, which makes one of them wrong. group: what they test."""

    good: str
    bad: str
    group: str = ""


def grammar_pairs(count: int, *, split: Split, language: Language, seed: int = 0) -> list[MinimalPair]:
    """So many pairs from documents of the town, the phenomena by turns. A function of the arguments."""
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
    """So many pairs whose last sentence needs two of the facts before it. A function of the arguments."""
    made = (_conclusion(Random(f"{split}-{seed}-{number}"), split, language) for number in range(count))
    return list(made)


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
        if (bad := change(sentence, document, random)) and bad != sentence:
            return MinimalPair(sentence, bad, name)
    return None


def _agreement(sentence: str, document: Document, random: Random) -> str | None:
    """The bridge was closed: the bridge were closed."""
    del document
    plural = {"was": "were", "is": "are", "has": "have", "were": "was", "are": "is"}
    # a verb of a plain statement: in "what was", "I was" or "if it were" both forms may stand
    verbs = list(re.finditer(r"(?<=[a-z] )(?:was|is|has|were|are)(?= [a-z])", sentence))
    return _replaced(sentence, verbs, lambda word: plural[word], random)


def _article(sentence: str, document: Document, random: Random) -> str | None:
    """A goose: an goose."""
    del document
    found = [
        match for match in re.finditer(r"\b([Aa]n?) (?=([a-z]))", sentence)
        if article(match[2]).strip() == match[1].lower()
    ]  # fmt: skip
    return _replaced(
        sentence, found, lambda text: f"{text[0]} " if text[1:2] == "n" else f"{text[0]}n ", random
    )


def _case(sentence: str, document: Document, random: Random) -> str | None:
    """They were late: them were late."""
    del document
    wrong = {
        "he": "him",
        "she": "her",
        "they": "them",
        "He": "Him",
        "She": "Her",
        "They": "Them",
        "him": "he",
    }
    words = list(re.finditer(r"\b(?:[Hh]e|[Ss]he|[Tt]hey|him)\b(?! or )", sentence))
    return _replaced(sentence, words, lambda word: wrong[word], random)


def _english_order(sentence: str, document: Document, random: Random) -> str | None:
    """The bridge: bridge the. An article or a preposition comes after its noun."""
    del document
    pattern = r"(?<=[a-z] )(the|a|an|of|from|with|to) ([a-z]+)\b(?=[ .,])"
    return _replaced(sentence, list(re.finditer(pattern, sentence)), _swapped, random)


def _particle(sentence: str, document: Document, random: Random) -> str | None:
    """빵은: 빵는. The form that belongs after the other kind of sound."""
    words = sorted({*document.facts.values(), *_short_names(document)}, key=len, reverse=True)
    names = "|".join(map(re.escape, filter(None, words)))
    forms = "|".join(sorted({form for pair in _PARTICLES for form in pair}, key=len, reverse=True))
    found = re.finditer(rf"(?<![가-힣])(?P<word>(?:{names})(?: 씨)?)(?P<form>{forms})(?=[ ,.])", sentence)
    fitting = [match for match in found if _fits(match["word"], match["form"])]
    if not fitting:
        return None
    chosen = random.choice(fitting)
    start, end = chosen.span("form")
    return sentence[:start] + _other_form(chosen["form"]) + sentence[end:]


_PARTICLES = [PARTICLES[name] for name in ("은", "이", "을", "과", "으로")]


def _short_names(document: Document) -> list[str]:
    """The given names that Korean people are called by after the first time."""
    return [name.split()[0] for name in document.facts.values() if " " in name]


def _fits(word: str, form: str) -> bool:
    """Whether the particle has the form that the word asks for."""
    final = final_consonant(word)
    vowel = not final or (form in PARTICLES["으로"] and final == "ㄹ")
    return any(pair[vowel] == form for pair in _PARTICLES)


def _other_form(form: str) -> str:
    return next(pair[1 - pair.index(form)] for pair in _PARTICLES if form in pair)


def _korean_order(sentence: str, document: Document, random: Random) -> str | None:
    """신발을 찾았다: 찾았다 신발을. The verb, which comes last, comes before its object."""
    del document, random
    found = re.fullmatch(r"(.*[가-힣] )?([가-힣]+[을를이가]) ([가-힣]+[다요])([.])", sentence)
    return f"{found[1] or ''}{found[3]} {found[2]}{found[4]}" if found else None


def _dropped(sentence: str, document: Document, random: Random) -> str | None:
    """책을 읽은: 책읽은을. A particle that stands after the verb instead of its noun."""
    del document
    words = "([가-힣]{2,})([을를]) ([가-힣]{2,}[다요])"
    found = list(re.finditer(rf"(?<= ){words}(?=[.])", sentence))
    return _replaced(sentence, found, lambda text: re.sub(words, r"\1 \3\2", text), random)


def _swapped(text: str) -> str:
    first, second = text.split(" ")
    return f"{second} {first}"


def _replaced(
    sentence: str, places: list[re.Match[str]], change: Callable[[str], str], random: Random
) -> str | None:
    """The sentence with one of the places changed."""
    if not places:
        return None
    chosen = random.choice(places)
    return sentence[: chosen.start()] + change(chosen[0]) + sentence[chosen.end() :]


_CHANGES: dict[Language, dict[str, Change]] = {
    "en": {"agreement": _agreement, "article": _article, "case": _case, "word order": _english_order},
    "ko": {"particle": _particle, "particle place": _dropped, "word order": _korean_order},
}

# ---- logic

# Facts about two people, told in the order 0 1 2 3 or the other way round, and what follows from two of them.
# Slots: a and b are people, p and q what links them to x and y. English, then Korean.
_Pattern = tuple[str, str]
_RIDDLES: dict[str, tuple[tuple[str, str], list[_Pattern], _Pattern]] = {
    "home": (
        ("place", "thing"),
        [
            ("{a} lives {p:at}.", "{a:은} {p}에 <산다|삽니다|살아요>."),
            ("{b} lives {q:at}.", "{b:은} {q}에 <산다|삽니다|살아요>."),
            ("There is {x:a} {p:at}.", "{p}에는 {x:이} 있<다|습니다|어요>."),
            ("There is {y:a} {q:at}.", "{q}에는 {y:이} 있<다|습니다|어요>."),
        ],
        ("So {a} lives close to the {x}.", "그래서 {a}의 집 가까이에는 {x:이} 있<다|습니다|어요>."),
    ),
    "work": (
        ("job", "thing"),
        [
            ("{a} is the {p} of the town.", "{a:은} 마을의 {p:이다}."),
            ("{b} is the {q} of the town.", "{b:은} 마을의 {q:이다}."),
            ("The {p} lost {x:a}.", "{p:은} {x:을} 잃어버렸~."),
            ("The {q} lost {y:a}.", "{q:은} {y:을} 잃어버렸~."),
        ],
        ("So {a} is looking for the {x}.", "그래서 {a:은} {x:을} 찾고 있<다|습니다|어요>."),
    ),
    "day": (
        ("date", "dish"),
        [
            ("{a} came to eat on {p}.", "{a:은} {p}에 밥을 먹으러 왔~."),
            ("{b} came to eat on {q}.", "{b:은} {q}에 밥을 먹으러 왔~."),
            ("There was {x} on {p}.", "{p}에는 {x:이} 나왔~."),
            ("There was {y} on {q}.", "{q}에는 {y:이} 나왔~."),
        ],
        ("So {a} ate {x}.", "그래서 {a:은} {x:을} 먹었~."),
    ),
}


def _conclusion(random: Random, split: Split, language: Language) -> MinimalPair:
    """Four facts in a drawn order, then a conclusion for one of the two people, right and wrong."""
    group = random.choice(list(_RIDDLES))
    (link, object_), facts, conclusion = _RIDDLES[group]
    terms = _terms(random, split, link, object_)
    people, objects = random.sample(facts[:2], 2), random.sample(facts[2:], 2)
    level, asked = random.choice(LEVELS), random.choice("ab")
    good, bad = ("x", "y") if asked == "a" else ("y", "x")

    def told(concluded: str) -> str:
        writer = Writer(language, terms, level)
        for number, (en, ko) in enumerate((*people, *objects)):
            writer.write(ko if language == "ko" else en, separator=" " if number else "")
        pattern = conclusion[language == "ko"].replace("{a", f"{{{asked}").replace("{x", f"{{{concluded}")
        writer.write(pattern, separator=" ")
        return writer.text()

    return MinimalPair(told(good), told(bad), group)


def _terms(random: Random, split: Split, link: str, object_: str) -> dict[str, Term]:
    """Two people, two links and two objects, all different."""
    found: dict[str, Term] = {}
    for slots, pool in (("ab", "person"), ("pq", link), ("xy", object_)):
        first, second = _two(pools()[pool], random, split)
        found |= {slots[0]: first, slots[1]: second}
    return found


def _two(pool: Pool, random: Random, split: Split) -> Iterator[Term]:
    first = pool.draw(random, split)
    second = first
    while {*first.en.split()} & {*second.en.split()}:
        second = pool.draw(random, split)
    return iter((first, second))
