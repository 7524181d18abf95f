"""Sentence patterns with slots, in English and Korean, that remember where each fact was written.

A pattern is a line such as `{owner:은} {pet:을} [몰래|조용히] 찾았~.` with

- `{slot}` or `{slot:modifier}`: a fact, with `other` in the other language. English modifiers: `a` (article),
  `at` (the place's preposition), `he his him`. Korean modifiers: a particle by its form after a final
  consonant (`은 이 을 과 으로`), `이다`. `-` keeps 씨 away, alone or before a particle (`-이라`); `+을` is
  the particle alone, for after a closing quotation mark.
- `[one|two]`: alternatives, chosen alike in both languages when their order is alike.
- `~`: the Korean ending after a past stem (찾았다, 찾았습니다, 찾았어요), by the document's speech level.
- `<plain|formal|polite>`: any other Korean ending, written out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal, TypeAlias

Language = Literal["en", "ko"]
LEVELS = ("plain", "formal", "polite")  # 한다체, 합니다체, 해요체
ENDINGS = ("다", "습니다", "어요")

PARTICLES = {  # form after a final consonant -> (that form, form after a vowel)
    "은": ("은", "는"),
    "이": ("이", "가"),
    "을": ("을", "를"),
    "과": ("과", "와"),
    "으로": ("으로", "로"),
    "이나": ("이나", "나"),
    "이라": ("이라", "라"),
    "이고": ("이고", "고"),
    "이었": ("이었", "였"),
    "아": ("아", "야"),
}
COPULA = {"plain": ("이다", "다"), "formal": ("입니다", "입니다"), "polite": ("이에요", "예요")}
PRONOUNS = {"he": ("he", "she"), "his": ("his", "her"), "him": ("him", "her")}


@dataclass(frozen=True, slots=True)
class Term:
    """One fact in both languages. `short` is how a person is called after the first mention."""

    en: str
    ko: str
    label: str = ""  # PER, ORG, LOC, DATE; "" for anything else
    short_en: str = ""
    short_ko: str = ""
    extra: str = ""  # a person's sex (m, f); a place's preposition
    unseen: bool = False  # a name that no train document has

    def text(self, language: Language, short: bool = False) -> str:
        if language == "en":
            return self.short_en if short and self.short_en else self.en
        return self.short_ko if short and self.short_ko else self.ko


@dataclass(frozen=True, slots=True)
class Slot:
    """A place in a pattern for one fact, and how its word is to be written."""

    name: str
    modifier: str


Part: TypeAlias = "str | Slot | tuple[tuple[Part, ...], ...]"


def final_consonant(text: str) -> str:
    """Whether the last sound is a vowel (""), an l ("ㄹ") or another consonant ("x"); digits are read out."""
    last = text[-1]
    if "가" <= last <= "힣":
        number = (ord(last) - ord("가")) % 28
        return "" if number == 0 else "ㄹ" if number == 8 else "x"
    return {"1": "ㄹ", "7": "ㄹ", "8": "ㄹ", "0": "x", "3": "x", "6": "x"}.get(last, "")


def with_particle(word: str, particle: str, level: str = "plain") -> str:
    """The particle in the form that `word` asks for, e.g. 은/는; 으로 becomes 로 after ㄹ."""
    forms = COPULA[level] if particle == "이다" else PARTICLES[particle]
    final = final_consonant(word)
    vowel_form = not final or (particle == "으로" and final == "ㄹ")
    return forms[vowel_form]


def article(noun: str) -> str:
    """`a ` or `an `, by the first letter: no word of the town begins with a silent h."""
    return "an " if noun[0].lower() in "aeiou" else "a "


def _simple(text: str, ending: str) -> list[Part]:
    parts: list[Part] = []
    for piece in re.split(r"(\{[^}]*\})", text):
        if piece.startswith("{"):
            name, _, modifier = piece[1:-1].partition(":")
            parts.append(Slot(name, modifier))
        elif piece:
            parts.append(piece.replace("~", ending))
    return parts


@cache
def compiled(pattern: str, level: str) -> tuple[Part, ...]:
    """The parts of a pattern at one Korean speech level."""
    rank = LEVELS.index(level)
    pattern = re.sub(r"<([^>]*)>", lambda match: match[1].split("|")[rank], pattern)
    parts: list[Part] = []
    for piece in re.split(r"(\[[^\]]*\])", pattern):
        if piece.startswith("["):
            parts.append(tuple(tuple(_simple(one, ENDINGS[rank])) for one in piece[1:-1].split("|")))
        else:
            parts.extend(_simple(piece, ENDINGS[rank]))
    return tuple(parts)


@cache
def slots_of(pattern: str) -> frozenset[str]:
    """The facts that a pattern speaks of."""
    return frozenset(re.findall(r"\{(\w+)", pattern))


@cache
def named_in(pattern: str) -> frozenset[str]:
    """The facts that a pattern names, which {owner:he} does not."""
    found = re.findall(r"\{(\w+):?([^}]*)\}", pattern)
    return frozenset(slot for slot, modifier in found if modifier not in PRONOUNS)


@dataclass(slots=True)
class Writer:
    """Writes patterns one after another into one text and records every slot's place in it."""

    language: Language
    facts: Mapping[str, Term]
    level: str = "plain"
    honorific: bool = False  # Korean names take 씨
    short_names: bool = False  # call people by their given names from the start
    parts: list[str] = field(default_factory=list)
    length: int = 0
    spans: list[tuple[int, int, str, str]] = field(default_factory=list)  # start, end, label, slot
    seen: set[str] = field(default_factory=set)

    def write(self, pattern: str, choice: int = 0, separator: str = "") -> tuple[int, int]:
        """Append one filled pattern; returns its start and end. `choice` picks among `[alternatives]`."""
        self._put(separator if self.parts else "")
        start, first = self.length, len(self.parts)
        self._walk(compiled(pattern, self.level), choice)
        if self.language == "en":  # a sentence may begin with a slot whose word is not capitalised
            while first < len(self.parts) - 1 and not self.parts[first]:
                first += 1
            self.parts[first] = self.parts[first][:1].upper() + self.parts[first][1:]
        return start, self.length

    def text(self) -> str:
        return "".join(self.parts)

    def _put(self, text: str) -> None:
        self.parts.append(text)
        self.length += len(text)

    def _walk(self, parts: Sequence[Part], choice: int) -> None:
        for part in parts:
            if isinstance(part, str):
                self._put(part)
            elif isinstance(part, Slot):
                self._slot(part.name, part.modifier)
            else:
                self._walk(part[choice % len(part)], 0)
                choice //= len(part)

    def _slot(self, name: str, modifier: str) -> None:
        term = self.facts[name]
        if modifier in PRONOUNS:
            self._put(PRONOUNS[modifier][term.extra == "f"])
            return
        if modifier == "other":
            self._put(term.text("ko" if self.language == "en" else "en"))
            return
        word = term.text(self.language, self.short_names or name in self.seen)
        if modifier.startswith("+"):
            self._put(with_particle(word, modifier[1:], self.level))
            return
        self.seen.add(name)
        if modifier == "a":
            self._put(article(word))
        elif modifier == "at":
            self._put(term.extra + " ")
        start = self.length
        self._put(word)
        self.spans.append((start, self.length, term.label, name))
        if self.language == "ko":
            self._follow(term, word, modifier)

    def _follow(self, term: Term, word: str, modifier: str) -> None:
        if self.honorific and term.label == "PER" and not modifier.startswith("-"):
            word = " 씨"
            self._put(word)
        particle = modifier.removeprefix("-")
        if particle in PARTICLES or particle == "이다":
            self._put(with_particle(word, particle, self.level))
