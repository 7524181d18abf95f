"""Units: the smallest pieces that an entity is made of, with exact character offsets.

A unit is a word of letters, one Hangul syllable (a Korean particle follows its noun without a space), one
letter of a script without spaces (Han, kana, Thai), a number, or one sign; each with its combining marks. An
apostrophe joins only where a capital follows: "O'Brien" is one unit, but "Kim's" is "Kim", "'", "s". Hyphens,
"@", "#", "_" and the signs of a URL are units of their own.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from malmoi.core.errors import UserError
from malmoi.core.nouns import Entity
from malmoi.text.tokenizer import Tokenizer
from malmoi.util.scripts import MARKS, SPACELESS, run_of

Span = tuple[int, int]

MAX_CHARACTERS = 16  # of a unit; its further ones are not looked at
MAX_SPELLED = 100_000  # different units whose spelling is kept at hand
PAD, UNKNOWN = 0, 1  # ids, of words and of characters
OUTSIDE = "O"
_SINGLE = "가-힣" + SPACELESS
_LETTERS = run_of(rf"[^\W\d_{_SINGLE}]")
_UNIT = re.compile(
    rf"[{_SINGLE}][{MARKS}]*|{_LETTERS}(?:['’](?=[A-Z]){_LETTERS})*|\d+(?:[.,]\d+)*[{MARKS}]*|\S[{MARKS}]*"
)


def units(text: str) -> list[Span]:
    """The span (start, end) of each unit, in order; they cover all but the white space."""
    return [match.span() for match in _UNIT.finditer(text)]


class Encoded(NamedTuple):
    """One text of n units: n word ids, n rows of MAX_CHARACTERS character ids, n spans."""

    word_ids: list[int]
    char_ids: list[list[int]]
    spans: list[Span]

    def part(self, start: int, stop: int) -> Encoded:
        """Units `start` to `stop` as a text of their own."""
        return Encoded(self.word_ids[start:stop], self.char_ids[start:stop], self.spans[start:stop])


@dataclass(frozen=True, slots=True)
class UnitVocabulary:
    """Ids of lower-cased units and of characters as written. 0 pads, 1 stands for what is not known."""

    words: dict[str, int]
    characters: dict[str, int]
    _spelled: dict[str, list[int]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def build(cls, texts: Iterable[str], min_count: int = 2, max_size: int = 50_000) -> Self:
        """Units and characters seen at least `min_count` times, the commonest `max_size` ids of each."""
        words: Counter[str] = Counter()
        characters: Counter[str] = Counter()
        for text in texts:
            pieces = [text[start:end] for start, end in units(text)]
            words.update(piece.lower() for piece in pieces)
            characters.update("".join(pieces))
        return cls(*(_numbered(counts, min_count, max_size) for counts in (words, characters)))

    def encode(self, text: str) -> Encoded:
        """The ids and spans of a text's units."""
        spans = units(text)
        pieces = [text[start:end] for start, end in spans]
        word_ids = [self.words.get(piece.lower(), UNKNOWN) for piece in pieces]
        return Encoded(word_ids, [self._char_ids(piece) for piece in pieces], spans)

    def _char_ids(self, piece: str) -> list[int]:
        """One list for all places of a unit: a book has few different ones."""
        if piece not in self._spelled:
            if len(self._spelled) >= MAX_SPELLED:
                self._spelled.clear()
            self._spelled[piece] = self._spell(piece)
        return self._spelled[piece]

    def _spell(self, piece: str) -> list[int]:
        ids = [self.characters.get(character, UNKNOWN) for character in piece[:MAX_CHARACTERS]]
        return ids + [PAD] * (MAX_CHARACTERS - len(ids))

    def to_json(self) -> dict[str, list[str]]:
        """The words and the characters in the order of their ids, from 2 on."""
        return {"words": list(self.words), "characters": list(self.characters)}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """The inverse of `to_json`. Raises UserError for anything else."""
        try:
            words, characters = value["words"], value["characters"]
            return cls(*({name: i for i, name in enumerate(names, 2)} for names in (words, characters)))
        except (TypeError, KeyError):
            raise UserError("the vocabulary of units is damaged; train or copy the folder again") from None


def _numbered(counts: Counter[str], min_count: int, max_size: int) -> dict[str, int]:
    """Ids from 2 on: the commonest first, equal counts in the alphabet's order, whatever the texts' order."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    known = [name for name, count in ordered[: max(0, max_size - 2)] if count >= min_count]
    return {name: i for i, name in enumerate(known, 2)}


def encode_units(tokenizer: Tokenizer, text: str) -> Encoded:
    """The units that begin where a piece begins, with the ids of their pieces in place of characters'.

    All pieces one after another are those of the whole text. Units that share a piece are one; those that
    the tokenizer leaves out (control characters) are none. word_ids are of no use.
    """
    spans = units(text)
    if not spans:
        return Encoded([], [], [])
    starts = [start for start, _ in spans]
    pieces: list[list[int]] = [[] for _ in spans]
    ends = [end for _, end in spans]
    for id, (start, end) in zip(tokenizer.encode(text), tokenizer.offsets(text), strict=True):
        blank = len(text[start:end]) - len(text[start:end].lstrip())
        first = max(0, bisect_right(starts, start + blank) - 1)
        pieces[first].append(id)
        ends[first] = max(ends[first], _end_of(spans, starts, end))
    return _joined(starts, ends, pieces)


def _end_of(spans: list[Span], starts: list[int], end: int) -> int:
    """The end of the last unit that begins before `end`."""
    return spans[max(0, bisect_right(starts, end - 1) - 1)][1]


def _joined(starts: list[int], ends: list[int], pieces: list[list[int]]) -> Encoded:
    """Units that reach into the next ones take them in."""
    found = Encoded([], [], [])
    for start, end, ids in zip(starts, ends, pieces, strict=True):
        if found.spans and start < found.spans[-1][1]:
            found.char_ids[-1].extend(ids)
            found.spans[-1] = (found.spans[-1][0], max(end, found.spans[-1][1]))
        elif ids:
            found.word_ids.append(0)
            found.char_ids.append(list(ids))
            found.spans.append((start, end))
    return found


# A blank between two sentences: a line's end, or white space after an end sign (and closing quotes) where no
# small letter follows; after an end sign of Chinese or Japanese nothing need stand. A full stop after one
# capital ("J. Kim") or a common short form ends nothing.
_SHORT = ("Mr", "Mrs", "Ms", "Dr", "St", "vs", "etc", "al", "Fig", "No", "Prof", "Jr", "Sr", "cf")
_NOT_SHORT = "".join(rf"(?<!\b{short}\.)" for short in (*_SHORT, "[A-Z]"))
_CLOSING = "\"'”’」』）)\\]"
_GAP = re.compile(
    rf"\s*\n\s*|(?<=[.!?…。！？।؟]){_NOT_SHORT}[{_CLOSING}]*\s+(?![a-z])"
    rf"|(?<=[。！？])[{_CLOSING}]*(?![{_CLOSING}。！？…\s])|\Z"
)


def sentences(text: str) -> list[tuple[int, int]]:
    """The span (start, end) of each sentence, without white space around it; closing quotes stay inside."""
    found, start = [], 0
    for gap in _GAP.finditer(text):
        piece = text[start : gap.end()]
        left = start + len(piece) - len(piece.lstrip())
        if piece.strip():
            found.append((left, left + len(piece.strip())))
        start = gap.end()
    return found


# ---- entities as BIO tags of units: B-X begins an entity of kind X, I-X goes on with it, O is none


def tag_names(labels: Iterable[str]) -> list[str]:
    """O, then B- and I- of each label in the alphabet's order."""
    return [OUTSIDE, *(f"{prefix}-{label}" for label in sorted(set(labels)) for prefix in "BI")]


def may_follow(before: str, tag: str) -> bool:
    """Whether `tag` may stand after `before`: an I- goes on with an entity of its own kind only."""
    return not tag.startswith("I-") or before in (tag, f"B-{tag[2:]}")


def bio_tags(spans: Sequence[Span], entities: Iterable[Entity]) -> list[str]:
    """One tag for each unit: of the entity that it overlaps, if any (units cover all but white space)."""
    tags = [OUTSIDE] * len(spans)
    for entity in entities:
        inside = [i for i, (start, end) in enumerate(spans) if start < entity.end and end > entity.start]
        for i in inside:
            tags[i] = f"{'B' if i == inside[0] else 'I'}-{entity.label}"
    return tags


def entities_of(spans: Sequence[Span], tags: Sequence[str]) -> tuple[Entity, ...]:
    """The entities that the tags say; an I- that nothing of its kind stands before begins one."""
    found: list[Entity] = []
    before = OUTSIDE
    for (start, end), tag in zip(spans, tags, strict=True):
        if tag.startswith("I-") and may_follow(before, tag):
            found[-1] = Entity(found[-1].start, end, found[-1].label)
        elif tag != OUTSIDE:
            found.append(Entity(start, end, tag[2:]))
        before = tag
    return tuple(found)
