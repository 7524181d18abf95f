"""Rules about one text at a time: what to write otherwise, and whether it reads like prose.

The limits are those of Gopher's and C4's corpora (Rae et al. 2021, Scaling Language Models, appendix A.1;
Raffel et al. 2020, Exploring the Limits of Transfer Learning, section 2.2), made for English. Korean words
between spaces are shorter, and the rule about English words is for English texts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from malmoi.core.config import StrictModel
from malmoi.data.characters import UNSEEN
from malmoi.data.languages import Language
from malmoi.data.sketches import NEAR

# ---- what to write otherwise

_BREAKS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_BLANKS = "\u00a0\u2000-\u200a\u202f\u205f"
_TAGS = "\U000e0000-\U000e007f"  # of flags, which they follow; else unseen
_ODD = re.compile(f"[\r\x0b\x0c\x85\u2028\u2029\u200c\u200d{_BLANKS}{UNSEEN}{_TAGS}]")
_BLANK = re.compile(f"[{_BLANKS}]")
_NOTHING = re.compile(f"[{UNSEEN}]|(?<!\U0001f3f4)(?<![{_TAGS}])[{_TAGS}]+")
# Joiners are letters' in Arabic and Indic scripts and glue of emoji; beside these characters they do nothing.
_PLAIN = r"\s\x21-\u024f\u1100-\u11ff\u2010-\u205e\u3000-\u318f\u4e00-\u9fff\uac00-\ud7a3"
_JOINERS = re.compile(
    rf"(?<=[{_PLAIN}])[\u200c\u200d]+|[\u200c\u200d]+(?=[{_PLAIN}])|\A[\u200c\u200d]+|[\u200c\u200d]+\Z"
)


def without_invisible(text: str) -> str:
    """The text without characters that nobody sees; every blank but the ideographic one is a space, every
    line end \\n."""
    if not _ODD.search(text):
        return text
    text = _BLANK.sub(" ", _BREAKS.sub("\n", text))
    return _JOINERS.sub("", _NOTHING.sub("", text))


# ---- prose


class Limits(StrictModel):
    """The numbers of the rules, each with its source's value."""

    near: float = NEAR  # similarity of near-duplicates
    leak: float = 0.8  # share of a protected text that stands in another one
    boilerplate_documents: int = 10  # in which a line stands
    boilerplate_characters: int = 10  # that such a line has at least, blanks apart
    min_words: int = 50
    max_words: int = 100_000
    min_word_length: float = 3.0  # on average
    min_word_length_ko: float = 2.0
    max_word_length: float = 10.0
    symbols: float = 0.1  # "#" and "..." for each word
    bullets: float = 0.9  # share of lines that begin with one
    ellipses: float = 0.3  # share of lines that end with one
    letters: float = 0.8  # share of words that have one
    stop_words: int = 2  # different ones
    repeated_lines: float = 0.3  # share of lines that stood before
    repeated_characters: float = 0.2  # share of characters in them
    min_sentences: int = 3


_STOP_WORDS = frozenset(["the", "be", "to", "of", "and", "that", "have", "with"])
_BULLETS = tuple("•‣▪●○■□◦⁃-*·")
_ELLIPSES = ("...", "…")
_SENTENCE = re.compile(r"[.!?…。！？][\"'”’」』)\]]*(?=\s|\Z)")


class Prose:
    """What the rules ask about a text: its words between spaces, its lines with something in them."""

    def __init__(self, text: str, language: Language) -> None:
        self.text, self.language = text, language
        self.words = text.split()
        self.lines = [line.strip() for line in text.split("\n") if line.strip()]

    @cached_property
    def word_length(self) -> float:
        """Characters of a word on average."""
        return sum(map(len, self.words)) / max(1, len(self.words))

    @cached_property
    def symbols(self) -> float:
        """How many "#" or ellipses there are for each word, of whichever there are more."""
        marks = max(self.text.count("#"), self.text.count("...") + self.text.count("…"))
        return marks / max(1, len(self.words))

    def share_of_lines(self, holds: Callable[[str], bool]) -> float:
        """The share of the lines for which it holds."""
        return sum(map(holds, self.lines)) / max(1, len(self.lines))

    @cached_property
    def with_letters(self) -> float:
        """The share of words that have a letter."""
        found = [word for word in self.words if word[0].isalpha() or any(map(str.isalpha, word))]
        return len(found) / max(1, len(self.words))

    @cached_property
    def repeats(self) -> tuple[float, float]:
        """The shares of lines that stood before, and of the characters in them."""
        again = {line: count - 1 for line, count in Counter(self.lines).items() if count > 1}
        characters = sum(len(line) * count for line, count in again.items())
        return sum(again.values()) / max(1, len(self.lines)), characters / max(1, sum(map(len, self.lines)))


@dataclass(frozen=True)
class ProseRule:
    """A rule about the shape of a text. family: whose it is; what: what it finds, for people."""

    family: Literal["gopher", "c4"]
    what: str
    finds: Callable[[Prose, Limits], bool]


def _odd_word_length(shape: Prose, limits: Limits) -> bool:
    least = limits.min_word_length_ko if shape.language == "ko" else limits.min_word_length
    return bool(shape.words) and not least <= shape.word_length <= limits.max_word_length


def _few_stop_words(shape: Prose, limits: Limits) -> bool:
    if shape.language != "en":
        return False
    words = {word.strip(".,;:!?\"'()").lower() for word in set(shape.words)}
    return len(_STOP_WORDS & words) < limits.stop_words


PROSE_RULES: dict[str, ProseRule] = {
    "few-words": ProseRule(
        "gopher", "fewer than {min_words} words", lambda it, to: len(it.words) < to.min_words
    ),
    "many-words": ProseRule(
        "gopher", "more than {max_words} words", lambda it, to: len(it.words) > to.max_words
    ),
    "word-length": ProseRule(
        "gopher", "words of fewer than {min_word_length} (Korean: {min_word_length_ko}) or more than "
        "{max_word_length} characters on average", _odd_word_length,
    ),
    "symbols": ProseRule(
        "gopher", 'more than {symbols} "#" or ellipses for each word', lambda it, to: it.symbols > to.symbols
    ),
    "bullets": ProseRule(
        "gopher", "more than {bullets} of the lines begin with a bullet",
        lambda it, to: it.share_of_lines(lambda line: line.startswith(_BULLETS)) > to.bullets,
    ),
    "ellipses": ProseRule(
        "gopher", "more than {ellipses} of the lines end with an ellipsis",
        lambda it, to: it.share_of_lines(lambda line: line.endswith(_ELLIPSES)) > to.ellipses,
    ),
    "letters": ProseRule(
        "gopher", "fewer than {letters} of the words have a letter",
        lambda it, to: bool(it.words) and it.with_letters < to.letters,
    ),
    "stop-words": ProseRule(
        "gopher", "an English text with fewer than {stop_words} of the, be, to, of, and, that, have, with",
        _few_stop_words,
    ),
    "repeated-lines": ProseRule(
        "gopher", "more than {repeated_lines} of the lines, or {repeated_characters} of the characters, "
        "are in lines that stood before",
        lambda it, to: it.repeats[0] > to.repeated_lines or it.repeats[1] > to.repeated_characters,
    ),
    "few-sentences": ProseRule(
        "c4", "fewer than {min_sentences} sentences",
        lambda it, to: len(_SENTENCE.findall(it.text)) < to.min_sentences,
    ),
    "curly-brackets": ProseRule("c4", "holds a curly bracket, as code does", lambda it, _: "{" in it.text),
    "lorem-ipsum": ProseRule("c4", 'holds "lorem ipsum"', lambda it, _: "lorem ipsum" in it.text.lower()),
}  # fmt: skip
FAMILIES = {
    family: tuple(n for n, it in PROSE_RULES.items() if it.family == family) for family in ("gopher", "c4")
}


def prose_faults(text: str, language: Language, limits: Limits) -> int:
    """Which of PROSE_RULES find fault with a text: bit n is the n-th."""
    shape = Prose(text, language)
    return sum(1 << at for at, rule in enumerate(PROSE_RULES.values()) if rule.finds(shape, limits))
