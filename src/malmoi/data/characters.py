"""Characters that nobody sees: decomposed letters, invisible signs, and offsets counted in other units."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from functools import lru_cache
from typing import TypeVar

V = TypeVar("V")

DECOMPOSED = "characters that are not in NFC (decomposed, as macOS writes them, or in another order)"
READ_COMPOSED = f"{DECOMPOSED}; they are read in NFC"
# Signs without a width or a shape: zero-width spaces, soft hyphens, marks of direction, controls. Joiners
# belong to words of Persian and Indian scripts, and to emoji.
UNSEEN = (  # the inside of a character class; what cleaning takes out
    "\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164\ufeff"
    "\uffa0\ufff9-\ufffb"
)
INVISIBLE = re.compile(f"[{UNSEEN}\x0b\x0c\u034f\u115f\u1160\u17b4\u17b5\u180e]")
_JOINERS = {0x200C: None, 0x200D: None}
_UNITS = (("UTF-16 units, as JavaScript does", "utf-16-le", 2), ("UTF-8 bytes", "utf-8", 1))


def composed(value: V) -> V:
    """A value with every text in it (in lists, tuples and dataclasses) composed, NFC; itself where each is.

    Offsets stay as they are.
    """
    match value:
        case str():
            return value if unicodedata.is_normalized("NFC", value) else unicodedata.normalize("NFC", value)
        case list() | tuple():
            found = type(value)(map(composed, value))
            return value if all(one is other for one, other in zip(value, found, strict=True)) else found
    if is_dataclass(value) and not isinstance(value, type):
        old = {it.name: getattr(value, it.name) for it in fields(value)}
        new = {name: it for name, one in old.items() if (it := composed(one)) is not one}
        return replace(value, **new) if new else value
    return value


def composed_offset(text: str, offset: int) -> int:
    """Where the character at `offset` of a text stands once the text is composed."""
    if composed(text) is text:  # as almost every one is, and looking at each letter takes long
        return min(offset, len(text))
    return _across(*_letters(text), offset)


def original_offset(text: str, offset: int) -> int:
    """The inverse: where in `text` the character at `offset` of the composed text stands."""
    if composed(text) is text:
        return min(offset, len(text))
    here, there = _letters(text)
    return _across(there, here, offset)


def _across(here: Sequence[int], there: Sequence[int], offset: int) -> int:
    letter = max(0, bisect_right(here, offset) - 1)
    last = there[letter + 1] if letter + 1 < len(there) else there[letter]
    return min(there[letter] + offset - here[letter], last)


@lru_cache(maxsize=8)
def _letters(text: str) -> tuple[list[int], list[int]]:
    """Where each letter with its marks begins in a text, and in the composed text; and where both end."""
    starts, places, letter = [0], [0], ""
    for sign in text:
        if letter and not unicodedata.combining(sign) and composed(letter + sign) == composed(letter) + sign:
            starts.append(starts[-1] + len(letter))
            places.append(places[-1] + len(composed(letter)))
            letter = ""
        letter += sign
    return [*starts, len(text)], [*places, places[-1] + len(composed(letter))]


def invisible(text: str) -> str:
    """Which invisible characters a text holds, such as "U+200B (2)"; "" for none."""
    return counted_signs(Counter(INVISIBLE.findall(text)))


def counted_signs(signs: Counter[str]) -> str:
    """Which characters there are, by their codes, and how many of each."""
    return ", ".join(f"U+{ord(sign):04X} ({count:,})" for sign, count in sorted(signs.items()))


def visible(text: str) -> str:
    """A text as people see it: composed, of one width, without invisible characters or space around it."""
    return unicodedata.normalize("NFKC", INVISIBLE.sub("", text)).translate(_JOINERS).strip()


def in_other_units(text: str, start: int, end: int) -> dict[str, tuple[int, int]]:
    """The characters that a span means where it counts other units: how they are called -> (start, end).

    Only of units in which it lies elsewhere.
    """
    found: dict[str, tuple[int, int]] = {}
    for name, encoding, size in _UNITS:
        content = text.encode(encoding, "surrogatepass")
        try:
            before, inside = (
                content[a * size : b * size].decode(encoding) for a, b in ((0, start), (start, end))
            )
        except UnicodeDecodeError:
            continue
        place = len(before), len(before) + len(inside)
        if 0 <= start < end <= len(content) // size and place != (start, end):
            found[name] = place
    return found
