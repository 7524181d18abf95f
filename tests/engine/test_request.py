from __future__ import annotations

import contextlib
import math
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmoi.core.errors import UserError
from malmoi.engine import Sampling
from malmoi.engine.request import StopText

NUMBERS = st.floats() | st.integers() | st.integers(-(10**40), 10**40) | st.none() | st.text(max_size=3)
LETTERS = st.text(alphabet="ab말", max_size=12)
STOPS = st.lists(st.text(alphabet="ab말", min_size=1, max_size=3), max_size=3).map(tuple)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0), ("temperature", -0.1), ("temperature", math.nan), ("temperature", math.inf),
        ("top_k", -1), ("top_p", 0.0), ("top_p", 1.1), ("min_p", -0.1), ("min_p", 1.5), ("seed", -1),
        ("repetition_penalty", 0.0), ("stop", ("",)), ("n", 0), ("logprobs", -1), ("max_tokens", 1.5),
        ("top_k", "5"), ("temperature", "a"), ("top_p", None), ("seed", 0.5), ("stop", None), ("stop", [1]),
        ("stop", "end"), ("logit_bias", {1: 2}), ("logit_bias", [3]), ("logit_bias", [(1, "x")]),
        ("logit_bias", [(1, math.inf)]), ("logit_bias", [(-1, 1.0)]), ("frequency_penalty", "much"),
        ("repetition_penalty", 1e-300), ("repetition_penalty", 1e300), ("presence_penalty", -1e300),
        ("frequency_penalty", 101), ("temperature", 1e308), ("top_k", 2**64), ("max_tokens", 2**31),
        ("n", 10**40), ("logprobs", 2**31), ("seed", 2**64), ("min_p", -(10**400)),
        ("logit_bias", [(1, 1e38)]), ("logit_bias", [(2**31, 1)]), ("logit_bias", [(1, 200)] * 10**5),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_named_in_one_line(name: str, value: object) -> None:
    with pytest.raises(UserError, match=f"^sampling: {name} is .*must be [^\n]*$") as error:
        Sampling(**{name: value})  # type: ignore[arg-type]
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("name", ["max_tokens", "top_k", "temperature", "seed", "repetition_penalty"])
def test_a_number_too_long_to_print_is_one_line(name: str) -> None:
    with pytest.raises(UserError, match=f"^sampling: {name} is a number of thousands of digits; it must be"):
        Sampling(**{name: 10**5000})  # type: ignore[arg-type]


@given(
    name=st.sampled_from(
        [field.name for field in fields(Sampling) if field.init and field.name != "constraint"]
    ),
    value=NUMBERS | st.lists(NUMBERS) | st.lists(st.tuples(NUMBERS, NUMBERS)) | st.binary(max_size=3),
)
def test_any_value_is_taken_or_refused(name: str, value: object) -> None:
    with contextlib.suppress(UserError):
        assert getattr(Sampling(**{name: value}), name) == value  # type: ignore[arg-type]


@given(text=LETTERS, stops=STOPS)
def test_the_text_ends_before_the_first_complete_stop(text: str, stops: tuple[str, ...]) -> None:
    filter = StopText(stops)
    shown, stopped = "", False
    for letter in text:
        piece, stopped = filter.push(letter)
        shown += piece
        if stopped:
            break
    shown += "" if stopped else filter.flush()
    ends = [end for end in range(len(text) + 1) if text[:end].endswith(stops)] if stops else []
    assert stopped == bool(ends)
    if ends:
        longest = max(len(stop) for stop in stops if text[: ends[0]].endswith(stop))
        assert shown == text[: ends[0] - longest]
    else:
        assert shown == text
    assert not any(stop in shown for stop in stops)


@given(text=LETTERS, stops=STOPS, cut=st.integers(0, 12))
def test_how_the_text_is_cut_does_not_matter(text: str, stops: tuple[str, ...], cut: int) -> None:
    whole, pieces = StopText(stops), StopText(stops)
    expected, stopped = whole.push(text)
    first, early = pieces.push(text[:cut])
    second, late = pieces.push(text[cut:]) if not early else ("", True)
    assert (first + second, early or late) == (expected, stopped)
    assert pieces.flush() == whole.flush()


def test_nothing_is_held_back_that_cannot_begin_a_stop() -> None:
    assert StopText(("\n\nQ:",)).push("말모이\n") == ("말모이", False)
    assert StopText(("\n\nQ:",)).push("말모이") == ("말모이", False)


def first_stop(stops: tuple[str, ...], held: str, text: str) -> tuple[str, bool, str]:
    """What StopText does, by definition: (shown, whether a stop string was reached, held back)."""
    text = held + text
    spans = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    if spans:
        return text[: min(spans)[1]], True, ""
    lengths = (n for n in range(len(text), 0, -1) if any(stop.startswith(text[-n:]) for stop in stops))
    cut = len(text) - next(lengths, 0)
    return text[:cut], False, text[cut:]


@given(
    stops=st.lists(st.text(alphabet="ab", min_size=1, max_size=6), max_size=4).map(tuple),
    pieces=st.lists(st.text(alphabet="ab", max_size=5), max_size=12),
)
def test_each_push_shows_what_cannot_begin_a_stop(stops: tuple[str, ...], pieces: list[str]) -> None:
    filter, held = StopText(stops), ""
    for piece in pieces:
        shown, stopped, held = first_stop(stops, held, piece)
        assert filter.push(piece) == (shown, stopped)
    assert filter.flush() == held


class Counted(str):
    """A text that counts how often its letters are looked at."""

    __slots__ = ("looks",)
    looks: int

    def __getitem__(self, key: Any) -> str:
        self.looks += 1
        return super().__getitem__(key)

    def startswith(self, *arguments: Any) -> bool:
        self.looks += len(arguments[0])
        return super().startswith(*arguments)


@pytest.mark.parametrize("text", ["a" * 500 + "b", "ab" * 250, ("a" * 40 + "b") * 12, "b" * 500])
def test_a_long_stop_costs_no_more_than_the_text_is_long(text: str) -> None:
    stop = Counted("a" * 1000)
    stop.looks = 0
    filter = StopText((stop,))
    for at in range(0, len(text), 100):
        filter.push(text[at : at + 100])
    assert stop.looks < 8 * len(text)
