"""Units and sentences: exact offsets in both languages, and ids that survive a file."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmoi.core.errors import UserError
from malmoi.text.units import MAX_CHARACTERS, PAD, UNKNOWN, UnitVocabulary, sentences, units
from tests.text.samples import BOTH, HARD


def pieces(text: str) -> list[str]:
    return [text[start:end] for start, end in units(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Kim's O'Brien", ["Kim", "'", "s", "O'Brien"]),
        ("서울에서 3.5km", ["서", "울", "에", "서", "3.5", "km"]),
        ("@mina #bread x-y", ["@", "mina", "#", "bread", "x", "-", "y"]),
        ("see ex.org/a_b", ["see", "ex", ".", "org", "/", "a", "_", "b"]),
        ("", []),
    ],
)
def test_units_are_words_syllables_numbers_and_signs(text: str, expected: list[str]) -> None:
    assert pieces(text) == expected


@given(st.text())
def test_units_cover_all_but_white_space(text: str) -> None:
    assert "".join(pieces(text)) == "".join(text.split())
    spans = units(text)
    assert all(a[1] <= b[0] for a, b in pairwise(spans))


def test_a_vocabulary_knows_what_came_twice_and_survives_json() -> None:
    vocabulary = UnitVocabulary.build([*BOTH, *BOTH[:2], *HARD])
    again = UnitVocabulary.from_json(json.loads(json.dumps(vocabulary.to_json())))
    for text in [*BOTH, *HARD]:
        encoded = vocabulary.encode(text)
        assert again.encode(text) == encoded
        assert encoded.spans == units(text)
        assert all(len(row) == MAX_CHARACTERS for row in encoded.char_ids)
    assert vocabulary.encode("The zebra").word_ids[1] == UNKNOWN
    assert vocabulary.encode("the").word_ids == vocabulary.encode("THE").word_ids != [UNKNOWN]
    assert vocabulary.encode("가").char_ids[0][1:] == [PAD] * (MAX_CHARACTERS - 1)


def test_a_vocabulary_is_bounded_and_ignores_the_texts_order() -> None:
    small = UnitVocabulary.build(BOTH, min_count=1, max_size=10)
    assert sorted(small.words.values()) == list(range(2, 10))
    assert UnitVocabulary.build(BOTH[::-1], min_count=1, max_size=10) == small


@pytest.mark.parametrize("value", [None, [], {"words": []}, {"words": 3, "characters": []}])
def test_a_damaged_vocabulary_is_refused(value: object) -> None:
    with pytest.raises(UserError, match="vocabulary"):
        UnitVocabulary.from_json(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Mr. Oak met J. Kim. They ran!", ["Mr. Oak met J. Kim.", "They ran!"]),
        ("비가 왔다. 우산이 없었다… 그래서 뛰었다!", ["비가 왔다.", "우산이 없었다…", "그래서 뛰었다!"]),
        ('She said "Go." Then 2.5 km\n\nA heading', ['She said "Go."', "Then 2.5 km", "A heading"]),
        (" \n ", []),
    ],
)
def test_sentences_in_both_languages(text: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end in sentences(text)] == expected


@given(st.text(alphabet='ab 가.!?"\n') | st.text())
def test_sentences_lose_only_white_space(text: str) -> None:
    found = sentences(text)
    assert "".join("".join(text[a:b].split()) for a, b in found) == "".join(text.split())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("हिन्दी में 5", ["हिन्दी", "में", "5"]),
        ("타워の東京", ["타", "워", "の", "東", "京"]),
        ("cafe\u0301s", ["cafe\u0301s"]),
        ("ที่", ["ที่"]),
        ("❤\ufe0f1\ufe0f\u20e3", ["❤\ufe0f", "1\ufe0f\u20e3"]),
    ],
)
def test_marks_belong_to_the_letter_before(text: str, expected: list[str]) -> None:
    assert pieces(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "雪が降った。船は出ない！「本当？」と聞いた。",
            ["雪が降った。", "船は出ない！", "「本当？」", "と聞いた。"],
        ),
        ("下雪了。船不开？！真的。", ["下雪了。", "船不开？！", "真的。"]),
        ("बर्फ गिरी। नाव रुकी।", ["बर्फ गिरी।", "नाव रुकी।"]),
        ("눈이 왔다。 배는.", ["눈이 왔다。", "배는."]),
    ],
)
def test_sentences_end_as_each_script_ends_them(text: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end in sentences(text)] == expected
