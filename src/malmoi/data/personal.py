"""Personal data in texts, found by its form and, where there is one, its check digit; replaced by its kind.

What stands in a text in words (names, addresses) is not found: that is a task for named-entity recognition.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date

from malmoi.core.errors import UserError, nearest

_DASH = r"[-\u2010-\u2015\u2212\uff0d]"
_GAP = rf"(?:{_DASH}|[ .\u00b7])"
# what a number stands between that is not a part of a longer one
_BEFORE = rf"(?<!\d)(?<!\d{_DASH})(?<!\d\.)"
_AFTER = rf"(?!\d)(?!{_DASH}\d)(?!\.\d)"
_BIRTH_ONLY = date(2020, 10, 1)  # from here on the last six digits of a new resident number are random
_WEIGHTS = (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)


def digits_of(text: str) -> list[int]:
    """The digits in a text."""
    return [int(one) for one in text if one.isdecimal()]


def passes_luhn(text: str) -> bool:
    """Whether the last digit is what ISO/IEC 7812-1 (Luhn's formula) makes of the others."""
    doubled = [number * 2 if place % 2 else number for place, number in enumerate(reversed(digits_of(text)))]
    return sum(number - 9 if number > 9 else number for number in doubled) % 10 == 0


def _is_card(text: str) -> bool:
    digits = digits_of(text)
    issued = 13 <= len(digits) <= 19 and digits[0] in {2, 3, 4, 5, 6, 9}  # 9: of Korea alone
    return issued and passes_luhn(text)


def birth_date(digits: list[int]) -> date | None:
    """The date that a Korean resident number begins with, None where there is no such day."""
    century = {1: 1900, 2: 1900, 5: 1900, 6: 1900, 3: 2000, 4: 2000, 7: 2000, 8: 2000, 9: 1800, 0: 1800}
    year, month, day = (10 * digits[at] + digits[at + 1] for at in (0, 2, 4))
    try:
        return date(century[digits[6]] + year, month, day)
    except ValueError:
        return None


def is_resident_number(text: str) -> bool:
    """Whether 13 digits are a Korean resident or foreigner number: a date, and the right check digit.

    Numbers given since October 2020 have no check digit: of those born since then the date and a sign between
    the two parts are enough. Where the last digits are masked the date alone counts.
    """
    digits = digits_of(text)
    born = birth_date(digits)
    if born is None:
        return False
    if len(digits) < 13:
        return True
    if born >= _BIRTH_ONLY:
        return len(text) > 13
    total = sum(weight * digit for weight, digit in zip(_WEIGHTS, digits, strict=False))
    first = 13 if digits[6] in {5, 6, 7, 8} else 11
    return (first - total % 11) % 10 == digits[12]


def _is_phone(text: str) -> bool:
    return 8 <= len(digits_of(text)) <= 15


@dataclass(frozen=True)
class PersonalKind:
    """One kind: its form, and a check of what has that form."""

    form: re.Pattern[str]
    check: Callable[[str], bool]


_AREA = r"(?:2|3[1-3]|4[1-4]|5[1-5]|6[1-4])"  # after the 0: Seoul, then the provinces
_KOREAN_PHONE = (
    rf"(?:(?:\+|00)82{_GAP}?(?:\(0\))?{_GAP}?0?|\(?0)"  # from abroad, or not
    rf"(?:1[016-9]|{_AREA}|70|50\d)(?:\) ?|{_GAP})?\d{{3,4}}{_GAP}?\d{{4}}"
)
_AMERICAN_PHONE = rf"(?:\+?1{_GAP})?(?:\([2-9]\d\d\) ?|[2-9]\d\d{_GAP})[2-9]\d\d{_GAP}\d{{4}}"
_FOREIGN_PHONE = rf"\+[1-9]\d{{0,2}}(?:{_GAP}?\(?\d{{1,4}}\)?){{2,5}}"
_IN_URL = r"[^\s<>\"'가-힣「」『』]"
_ENDS_URL = r"[^\s<>\"'가-힣「」『』.,;:!?)\]}]"
_FORMS = {
    "url": rf"\b(?:(?:https?|ftp)://|www\.(?=[a-z0-9-]+\.)){_IN_URL}*{_ENDS_URL}",
    "email": r"(?<![a-z0-9._%+-])[a-z0-9_%+-][a-z0-9._%+-]*@(?:[a-z0-9-]+\.)+[a-z]{2,}(?![a-z0-9])",
    "rrn": rf"{_BEFORE}\d{{6}} ?{_DASH}? ?\d(?:\d{{6}}|[*x●○]{{6}})(?![\d*])(?!{_DASH}\d)",
    "card": rf"{_BEFORE}(?:(?:\d{{4}}[ -]?){{3}}\d{{1,7}}|\d{{4}}[ -]?\d{{6}}[ -]?\d{{4,5}}){_AFTER}",
    "phone": rf"{_BEFORE}(?:{_KOREAN_PHONE}|{_AMERICAN_PHONE}|(?<!\w){_FOREIGN_PHONE}){_AFTER}",
}
_WIDE = str.maketrans("０１２３４５６７８９", "0123456789")
_LONG_NUMBER = re.compile(r"\d(?:\W{0,3}[\d*xX●○]){7}")
_CHECKS = {"rrn": is_resident_number, "card": _is_card, "phone": _is_phone}

# In the order in which they are looked for: what a longer form holds is not a kind of its own.
PERSONAL_KINDS = {
    name: PersonalKind(re.compile(form, re.IGNORECASE), _CHECKS.get(name, bool))
    for name, form in _FORMS.items()
}


def personal_kinds(names: Iterable[str]) -> tuple[str, ...]:
    """The kinds, in the order in which they are looked for. Raises UserError for one that there is not."""
    wanted = set(names)
    for name in wanted - set(PERSONAL_KINDS):
        raise UserError(f"`redact` {name!r} is no kind of personal data; {nearest(name, PERSONAL_KINDS)}")
    return tuple(kind for kind in PERSONAL_KINDS if kind in wanted)


def redacted(text: str, kinds: Iterable[str], hear: Callable[[str, int], None] = lambda _, __: None) -> str:
    """The text with [email], [phone]... in place of what is of these kinds; `hear` gets how many of each."""
    wanted = [name for name in kinds if _may_have(name, text)]
    for name in wanted:
        kind = PERSONAL_KINDS[name]
        text, count = _replaced(kind.form, text, f"[{name}]", kind.check)
        if count:
            hear(name, count)
    return text


def _may_have(name: str, text: str) -> bool:
    """What is soon said of most texts."""
    if name == "email":
        return "@" in text
    if name == "url":
        return "://" in text or "www." in text.lower()
    return _LONG_NUMBER.search(text) is not None


def _replaced(form: re.Pattern[str], text: str, by: str, check: Callable[[str], bool]) -> tuple[str, int]:
    parts, end = list[str](), 0
    for found in form.finditer(text if text.isascii() else text.translate(_WIDE)):
        if check(found[0]):
            parts += text[end : found.start()], by
            end = found.end()
    return "".join([*parts, text[end:]]), len(parts) // 2
