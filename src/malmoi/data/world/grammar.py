"""Sentence patterns with slots, filled in two languages while the place of every name is written down.

A pattern is `English | 한국어`. In it `{who}` is a fact, `{who.short}` its first part (a given name),
`{who.he}` a pronoun, `{a dish}` a fact with its English article, and `{은}`, `{이}`, `{을}` ... the Korean
particle that fits whatever was written before it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

LANGUAGES = ("en", "ko")
EN, KO = 0, 1

# particle: (after a final consonant, after a vowel)
_PARTICLES = {
    "은": ("은", "는"),
    "이": ("이", "가"),
    "을": ("을", "를"),
    "과": ("과", "와"),
    "아": ("아", "야"),
    "으로": ("으로", "로"),
    "이라": ("이라", "라"),
    "이다": ("이다", "다"),
    "이었": ("이었", "였"),
    "이에요": ("이에요", "예요"),
}
_PRONOUNS = {"he": "she", "his": "her", "him": "her", "He": "She", "His": "Her"}
_DIGIT_FINALS = {"0": 21, "1": 8, "3": 16, "6": 1, "7": 8, "8": 8}  # 영 일 삼 육 칠 팔
_SLOT = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True, slots=True, eq=False)
class Word:
    """One value of a fact: its surface and short form per language, and for names the kind and the split."""

    surface: tuple[str, str]
    short: tuple[str, str] = ("", "")
    label: str = ""  # PER, ORG, LOC, DATE, or empty
    split: str = "train"  # a held-out name belongs to "valid" or "test"
    sex: str = ""  # m or f, for English pronouns


@dataclass(frozen=True, slots=True)
class Mention:
    """Where a sentence names a fact."""

    slot: str
    start: int
    end: int
    label: str


@dataclass(frozen=True, slots=True)
class Sentence:
    text: str
    mentions: tuple[Mention, ...]


Piece = tuple[str, str, str]  # (what, name, form): literal text, particle, or slot
Pattern = tuple[tuple[Piece, ...], tuple[Piece, ...]]  # one per language


def _final(text: str) -> int:
    """Number of the final consonant of the last syllable or digit: 0 none, 8 ㄹ."""
    last = next((char for char in reversed(text) if char.isalnum()), "")
    if "가" <= last <= "힣":
        return (ord(last) - 0xAC00) % 28
    return _DIGIT_FINALS.get(last, 0)


def particle(text: str, name: str) -> str:
    """The form of the Korean particle `name` after `text`, chosen by its final consonant."""
    closed, opened = _PARTICLES[name]
    final = _final(text)
    if name == "으로" and final == 8:
        return opened
    return closed if final else opened


def _piece(slot: str) -> Piece:
    if slot in _PARTICLES:
        return ("particle", slot, "")
    if slot.startswith(("a ", "A ")):
        return ("article", slot[2:], slot[0])
    name, _, form = slot.partition(".")
    return ("pronoun" if form in _PRONOUNS else "slot", name, form)


def _compile(text: str) -> tuple[Piece, ...]:
    parts = _SLOT.split(text)  # literal, slot, literal, slot, ..., literal
    pieces = [_piece(part) if i % 2 else ("literal", part, "") for i, part in enumerate(parts)]
    return tuple(piece for piece in pieces if piece[1])


def pattern(line: str) -> Pattern:
    """Read one `English | 한국어` line."""
    english, korean = line.split(" | ")
    return _compile(english.strip()), _compile(korean.strip())


def patterns(block: str) -> tuple[Pattern, ...]:
    return tuple(pattern(line) for line in block.splitlines() if line.strip())


def render(template: Pattern, facts: Mapping[str, Word], language: int) -> Sentence:
    """Fill `template` with `facts`; offsets in the result count from its own first character."""
    text = ""
    mentions: list[Mention] = []
    for what, name, form in template[language]:
        if what == "literal":
            text += name
        elif what == "particle":
            text += particle(text, name)
        elif what == "pronoun":
            text += _PRONOUNS[form] if facts[name].sex == "f" else form
        else:
            word = facts[name]
            surface = word.short[language] if form == "short" else word.surface[language]
            if what == "article":
                text += form + ("n " if surface[0] in "aeiouAEIO" else " ")
            mentions.append(Mention(name, len(text), len(text) + len(surface), word.label))
            text += surface
    return Sentence(text[:1].upper() + text[1:], tuple(mentions))


def join(sentences: list[tuple[str, Sentence]]) -> Sentence:
    """One text from (separator before it, sentence) parts, mentions moved to their new places."""
    text = ""
    mentions: list[Mention] = []
    for separator, sentence in sentences:
        text += separator if text else ""
        mentions += [
            Mention(m.slot, m.start + len(text), m.end + len(text), m.label) for m in sentence.mentions
        ]
        text += sentence.text
    return Sentence(text, tuple(mentions))
