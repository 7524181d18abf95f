"""Writing: which scripts have no spaces between words, and which marks belong to the letter before them.

All are the insides of a character class of `re`. Python's \\w has no combining marks (Unicode's Mn, Mc and
Me), without which the words of Hindi or Thai fall to pieces.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from itertools import chain

HAN = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
KANA = "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"
_THAI_LAO = "\u0e01-\u0e30\u0e32\u0e33\u0e40-\u0e46\u0e81-\u0eb0\u0eb2\u0eb3\u0ebd-\u0ec6\u0edc-\u0edf"
_MYANMAR_KHMER = "\u1000-\u102a\u103f\u1050-\u1055\u1780-\u17b3\u17d7\u17dc"
SPACELESS = HAN + KANA + _THAI_LAO + _MYANMAR_KHMER  # letters only: marks and digits are apart

_JOINERS = (0x200C, 0x200D)  # within words of Persian and of Indian scripts, and within emoji
_MAY_BE_MARKS = (  # far from all of Unicode, which takes long to look at
    (0x0300, 0x3400), (0xA000, 0xAC00), (0xF900, 0x12000), (0x16A00, 0x17000), (0x1BC00, 0x1BD00),
    (0x1CF00, 0x1DB00), (0x1E000, 0x1EA00), (0xE0100, 0xE01F0),
)  # fmt: skip


def _ranges(codes: Iterable[int]) -> str:
    """Ordered code points as a character class."""
    runs: list[list[int]] = []
    for code in codes:
        if runs and code == runs[-1][1] + 1:
            runs[-1][1] = code
        else:
            runs.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in runs)


def _marks() -> Iterable[int]:
    codes = chain.from_iterable(range(first, end) for first, end in _MAY_BE_MARKS)
    return (it for it in codes if it in _JOINERS or unicodedata.category(chr(it)) in ("Mn", "Mc", "Me"))


MARKS = _ranges(_marks())


def run_of(letters: str) -> str:
    """A pattern: one or more of a class of letters, each with its marks."""
    return rf"{letters}+(?:[{MARKS}]+{letters}*)*"


# A word as most methods count it: a run of letters, digits and _; of scripts without spaces one letter.
WORD = rf"[{SPACELESS}][{MARKS}]*|" + run_of(rf"(?:(?![{SPACELESS}])\w)")
_WORD = re.compile(WORD)


def words_in(text: str) -> list[str]:
    """The words of a text in order, without signs."""
    return _WORD.findall(text)
