"""Which language to ask in."""

from __future__ import annotations

import re

_HANGUL = re.compile("[가-힣ㄱ-ㆎᄀ-ᇿ]")


def is_korean(text: str) -> bool:
    """Whether most letters are Hangul."""
    return 2 * len(_HANGUL.findall(text)) > sum(map(str.isalpha, text))
