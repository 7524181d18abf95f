from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmoi.core.errors import UserError
from malmoi.data.personal import PERSONAL_KINDS, is_resident_number, passes_luhn, personal_kinds, redacted

EVERY = tuple(PERSONAL_KINDS)


def check_digit(twelve: str) -> str:
    """Written from the rule in words: weights 2 to 9, then 2 to 5; what is missing to the next multiple."""
    total = sum(int(digit) * (2 + at % 8) for at, digit in enumerate(twelve))
    return str(((13 if twelve[6] in "5678" else 11) - total % 11) % 10)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("메일은 hong.gildong+a@mail.example.co.kr로 보내세요", "메일은 [email]로 보내세요"),
        ("a@b, not@, @home, me@example.com.", "a@b, not@, @home, [email]."),
        ("휴대폰 010-1234-5678입니다", "휴대폰 [phone]입니다"),
        ("01012345678 / 010.1234.5678 / 010 1234 5678", "[phone] / [phone] / [phone]"),
        ("011-234-5678, 070-1234-5678, 0505-123-4567", "[phone], [phone], [phone]"),
        ("02-312-3456, (02) 312-3456, 02)312-3456, 031-1234-5678", "[phone], [phone], [phone], [phone]"),
        ("+82-10-1234-5678 3명, +82 (0)2 312 3456", "[phone] 3명, [phone]"),
        ("０１０－１２３４－５６７８", "[phone]"),
        ("call (415) 555-2671, 415-555-2671 or +44 20 7946 0958", "call [phone], [phone] or [phone]"),
        ("(https://example.com/a?b=c#d), 그리고 www.example.co.kr/길", "([url]), 그리고 [url]길"),
        ("주소는 http://example.com/path입니다.", "주소는 [url]입니다."),
        ("카드 4111 1111 1111 1111, 4111-1111-1111-1111", "카드 [card], [card]"),
        ("3782 822463 10005", "[card]"),
    ],
)  # fmt: skip
def test_what_is_personal_is_replaced(text: str, right: str) -> None:
    assert redacted(text, EVERY) == right


@pytest.mark.parametrize(
    "text",
    [
        "1592-1598년, 2024-01-15, 2024.01.15, 10:30",
        "4111 1111 1111 1112",  # the check digit is wrong
        "pi is 3.14159265358979 and 0.0212345678",
        "ISBN 978-3-16-148410-0",
        "900101-1234567",  # no check digit would be 7
        "901301-1234568",  # no such month
        "order 20240115123456789012",
        "가격 1,234,567원, 12-34-56",
        "version 10.15.7 build 19H2026",
        "",
    ],
)
def test_what_only_looks_alike_stays(text: str) -> None:
    assert redacted(text, EVERY) == text


@pytest.mark.parametrize(
    "twelve", ["900101123456", "850229312345"[:6] + "112345", "781231512345", "050301412345"]
)
def test_a_resident_number_has_a_date_and_a_check_digit(twelve: str) -> None:
    if twelve[2:6] == "0229":
        twelve = twelve[:4] + "28" + twelve[6:]
    for last in "0123456789":
        right = last == check_digit(twelve)
        number = f"{twelve[:6]}-{twelve[6:]}{last}"
        assert is_resident_number(number) == right
        assert redacted(f"번호 {number}.", ["rrn"]) == ("번호 [rrn]." if right else f"번호 {number}.")
        assert redacted(twelve + last, ["rrn"]) == ("[rrn]" if right else twelve + last)


def test_newer_and_masked_resident_numbers_have_no_check_digit() -> None:
    assert redacted("201105-3123456, 900101-1******, 900101-1XXXXXX", ["rrn"]) == "[rrn], [rrn], [rrn]"
    assert redacted("2011053123456", ["rrn"]) == "2011053123456"  # any number may look like that
    assert redacted("201305-3123456", ["rrn"]) == "201305-3123456"


def test_only_what_is_named_is_replaced_and_counted() -> None:
    counts: dict[str, int] = {}

    def hear(name: str, count: int) -> None:
        counts[name] = count

    text = "a@example.com b@example.com 010-1234-5678 http://a.kr"
    assert redacted(text, ["email", "url"], hear) == "[email] [email] 010-1234-5678 [url]"
    assert counts == {"email": 2, "url": 1}


def test_kinds_come_in_one_order_and_unknown_ones_are_refused() -> None:
    assert personal_kinds(["card", "url"]) == ("url", "card")
    with pytest.raises(UserError, match="'phome' is no kind of personal data; did you mean 'phone'"):
        personal_kinds(["phome"])


@given(st.integers(10**14, 10**15 - 1))
def test_luhn_finds_every_wrong_digit(number: int) -> None:
    right = [last for last in "0123456789" if passes_luhn(f"{number}{last}")]
    assert len(right) == 1
    doubled = [2 * int(digit) if at % 2 == 0 else int(digit) for at, digit in enumerate(str(number)[::-1])]
    assert (sum(sum(map(int, str(one))) for one in doubled) + int(right[0])) % 10 == 0


@given(st.text(alphabet="0123456789-. +()가a@", max_size=40))
def test_what_was_redacted_has_nothing_more_to_redact(text: str) -> None:
    once = redacted(text, EVERY)
    assert redacted(once, EVERY) == once
