from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmoi.core.errors import nearest
from malmoi.util.units import counted, figures, human_bytes, human_count, human_seconds, measured


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (human_count(0), "0"),
        (human_count(999), "999"),
        (human_count(1_234_567), "1.23M"),
        (human_count(999_999), "1M"),
        (human_bytes(1023), "0.999 KiB"),
        (human_count(5e9), "5G"),
        (human_bytes(1536), "1.5 KiB"),
        (human_bytes(3 << 40), "3 TiB"),
        (human_seconds(0.25), "0.25 s"),
        (human_seconds(59.4), "59 s"),
        (human_seconds(59.9), "1 min 00 s"),
        (human_seconds(61), "1 min 01 s"),
        (human_seconds(4020), "1 h 07 min"),
        (counted(1, "step"), "1 step"),
        (counted(1200, "step"), "1,200 steps"),
        (figures(1234.5, 2), "1,200"),
        (figures(-0.01234, 2), "-0.012"),
        (figures(0, 3), "0"),
        (figures(math.inf, 3), "inf"),
        (measured(0.5), "0.5000"),
        (measured(123_456.7), "123,500"),
        (measured(1.5e30), "1.5e+30"),
    ],
)
def test_known_values(shown: str, expected: str) -> None:
    assert shown == expected


@given(st.floats(min_value=0, max_value=9e14))
def test_units_are_short(number: float) -> None:
    assert re.fullmatch(r"[\d.]+(e-\d+)?[kMGT]?", human_count(number))
    assert re.fullmatch(r"[\d.]+(e-\d+)? ([KMGT]i)?B", human_bytes(number))


def test_the_nearest_name() -> None:
    assert nearest("gpt-micr", ["gpt-micro", "lstm-micro"]) == "did you mean 'gpt-micro'?"
    assert nearest("zebra", ["b", "a"]) == "known: a, b"
