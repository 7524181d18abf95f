"""Which characters count as marks, and which scripts have no spaces."""

from __future__ import annotations

import re
import sys
import unicodedata

from malmoi.util.scripts import MARKS, SPACELESS, words_in


def test_every_mark_of_unicode_is_one() -> None:
    marks = {code for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)).startswith("M")}
    found = re.compile(f"[{MARKS}]")
    assert {code for code in range(sys.maxunicode + 1) if found.match(chr(code))} == marks | {0x200C, 0x200D}


def test_scripts_without_spaces_are_letters_only() -> None:
    found = re.findall(f"[{SPACELESS}]", "".join(map(chr, range(0x80, 0x20000))))
    kinds = {unicodedata.category(letter) for letter in found}
    assert kinds <= {"Lo", "Lm", "Nl", "Cn"}
    assert not set("가a1é한ㄱ。、・่१") & set(found)


def test_words_of_text_in_several_scripts() -> None:
    assert words_in("나는 東京で 'ราคา' don't") == ["나는", "東", "京", "で", "ร", "า", "ค", "า", "don", "t"]
