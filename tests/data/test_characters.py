"""What nobody sees of a text: composed letters keep their places, invisible signs are counted."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmoi.core.nouns import Answer, Example, Message, Question
from malmoi.data.characters import (
    composed,
    composed_offset,
    in_other_units,
    invisible,
    original_offset,
    visible,
)

LETTERS = st.text("aeé한글각ᄀ ᅡᆨ\u0301\u0323\u200d나का😀", max_size=12)


@given(LETTERS, LETTERS)
def test_a_span_of_whole_letters_is_the_same_text_composed_and_back(before: str, inside: str) -> None:
    text = unicodedata.normalize("NFD", before) + " " + unicodedata.normalize("NFD", inside) + " x"
    start = text.index(" ") + 1 if " " not in before else len(unicodedata.normalize("NFD", before)) + 1
    end = len(text) - 2
    there = [composed_offset(text, at) for at in (start, end)]
    assert composed(text)[slice(*there)] == composed(text[start:end])
    back = [original_offset(text, at) for at in there]
    assert composed(text[slice(*back)]) == composed(text[start:end])


@given(LETTERS)
def test_offsets_never_turn_around_and_end_where_the_text_does(text: str) -> None:
    whole = composed(text)
    places = [composed_offset(text, at) for at in range(len(text) + 1)]
    assert places == sorted(places)
    assert (places[0], places[-1]) == (0, len(whole))
    back = [original_offset(text, at) for at in range(len(whole) + 1)]
    assert back == sorted(back)
    assert (back[0], back[-1]) == (0, len(text))
    assert original_offset(whole, len(whole) // 2) == len(whole) // 2


def test_every_text_of_a_value_is_composed_and_a_composed_value_is_itself() -> None:
    nfd = unicodedata.normalize("NFD", "서울")
    example = Example((Message("user", nfd),), nfd, "a:1", others=("x",))
    assert composed(example) == Example((Message("user", "서울"),), "서울", "a:1", others=("x",))
    assert composed((Question(nfd, "x"), [Answer(nfd, 3)])) == (Question("서울", "x"), [Answer("서울", 3)])
    for value in (composed(example), ("a", 1, None), [], 2.5):
        assert composed(value) is value


@pytest.mark.parametrize("sign", ["\u200b", "\ufeff", "\u00ad", "\u202e", "\u2060", "\u3164", "\x07"])
def test_invisible_signs_are_counted(sign: str) -> None:
    assert invisible(f"a{sign}b{sign}") == f"U+{ord(sign):04X} (2)"
    assert visible(f" a{sign}b") == "ab"


def test_signs_that_have_a_meaning_are_not_invisible() -> None:
    assert invisible("👩\u200d💻 می\u200cخواهم ❤\ufe0f\t\r\n\u00a0\u3000ㄱ") == ""


def test_spans_in_other_units() -> None:
    text = "😀 Mina 서울"
    assert in_other_units(text, 3, 7) == {
        "UTF-16 units, as JavaScript does": (2, 6)
    }  # as bytes it begins inside a character
    assert in_other_units(text, 5, 9)["UTF-8 bytes"] == (2, 6)
    assert in_other_units("plain Mina", 6, 10) == {}
    assert in_other_units(text, 50, 60) == {}
