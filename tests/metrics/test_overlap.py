"""Texts compared in every script: what counts as a word, and how Korean answers are scored."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmoi.metrics import bleu, rouge, squad_scores
from malmoi.metrics.overlap import words_of

CHINESE = ("今天天气很好我们去公园", "今天天气很好我们去公园散步")
JAPANESE = ("今日はとても天気がいいです", "今日は天気がとてもいいです")
THAI = ("วันนี้อากาศดีมาก", "วันนี้อากาศดีมากเลย")
HINDI = ("आज मौसम अच्छा है", "आज मौसम बहुत अच्छा है")


@pytest.mark.parametrize("pair", [CHINESE, JAPANESE, THAI, HINDI])
def test_near_equal_texts_of_every_script_score(pair: tuple[str, str]) -> None:
    found, true = pair
    scores = rouge([found], [[true]])
    assert 0.7 < scores["rouge_l"].value < 1
    assert 0.3 < scores["rouge_2"].value < 1
    assert rouge([true], [[true]])["rouge_l"].value == 1
    assert bleu([true], [[true]], "13a").value == pytest.approx(100)
    assert bleu([found, true], [[true], [true]], "13a").value > 50


@pytest.mark.parametrize(
    ("texts", "tokenizer"),
    [(CHINESE, "zh"), (JAPANESE, "char"), (THAI, "char"), (HINDI, "13a"), (("고양이가 잔다",), "13a"),
     (("the cat", "北京 and a long English text"), "13a"), ((), "13a")],
)  # fmt: skip
def test_the_signature_says_how_bleu_cut_the_texts(texts: tuple[str, ...], tokenizer: str) -> None:
    assert f"tok:{tokenizer}" in bleu(list(texts), [[one] for one in texts], "13a").signature


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("나는 Seoul_2에 간다!", ["나는", "seoul", "2에", "간다"]),
        ("我去Tokyo塔", ["我", "去", "tokyo", "塔"]),
        ("タワーの", ["タ", "ワ", "ー", "の"]),
        ("cafe\u0301 über", ["cafe\u0301", "über"]),
        ("می‌خواهم", ["می‌خواهم"]),
        ("ที่นี่", ["ที่", "นี่"]),
    ],
)
def test_marks_belong_to_words_and_scripts_without_spaces_have_letters(
    text: str, expected: list[str]
) -> None:
    assert words_of(text) == expected


@given(st.text("ab é我のมาहिन्दी가‌_.", max_size=30))
def test_words_cover_every_letter_and_none_begins_with_a_mark(text: str) -> None:
    joined = "".join(words_of(text))
    assert [it for it in joined if it.isalnum()] == [it for it in text.lower() if it.isalnum()]
    assert all(word[0].isalnum() for word in words_of(text))


@pytest.mark.parametrize(
    ("found", "true", "exact", "f1"),
    [
        ("서미나는", "서미나", 0, 6 / 7),
        ("아홉 시에", "아홉 시", 0, 6 / 7),
        ("《태양》", "태양", 1, 1),
        ("「태양」", "‘태양’", 1, 1),
        ("비타민 A", "비타민", 0, 6 / 7),  # no English article
        ("서울", "부산", 0, 0),
        (unicodedata.normalize("NFD", "서울"), "서울", 1, 1),
    ],
)
def test_korean_answers_are_compared_as_korquad_does(found: str, true: str, exact: float, f1: float) -> None:
    scores = squad_scores([found], [[true]])
    assert scores["exact_match"].value == exact
    assert scores["f1"].value == pytest.approx(f1)
    assert "KorQuAD" in scores["f1"].signature


@pytest.mark.parametrize(
    ("found", "true", "exact", "f1"),
    [
        ("“Jun”", "Jun", 1, 1),
        ("the mill…", "mill", 1, 1),
        ("北京市", "北京", 0, 0.8),
        ("¿Quién?", "quién", 1, 1),
    ],
)
def test_other_answers_are_compared_by_words(found: str, true: str, exact: float, f1: float) -> None:
    scores = squad_scores([found], [[true]])
    assert scores["exact_match"].value == exact
    assert scores["f1"].value == pytest.approx(f1)
    assert "SQuAD" in scores["f1"].signature
