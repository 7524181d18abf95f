from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmoi.data.characters import composed
from malmoi.data.languages import language_of
from malmoi.data.text_rules import FAMILIES, PROSE_RULES, Limits, prose_faults, without_invisible

KOREAN = "오늘 회의에서는 다음 분기의 예산을 정하고 새로 들어온 사람들을 소개했다. 회의는 두 시간 걸렸다. "
ENGLISH = (
    "The board met this morning to set the budget for the next quarter and to greet those who have joined. "
)
GERMAN = (
    "Niemand widersprach, obwohl einige Nachbarn zuvor heftig geschimpft hatten. "
    "Nun wird zwischen Bahnhof und Marktplatz gegraben, und vorbei kommt vorerst kein Fahrzeug. "
)
SPANISH = (
    "La junta se ha reunido para fijar el gasto del mes que viene y saludar a los que acaban de llegar. "
)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        (KOREAN, "ko"),
        ("이 함수는 asyncio.run()으로 event loop를 시작한다.", "ko"),
        (unicodedata.normalize("NFD", KOREAN), "ko"),
        (ENGLISH * 2, "en"),
        ("good movie", "en"),
        (GERMAN * 2, "other"),
        (SPANISH * 2, "other"),
        ("Le café déjà fermé, l'été s'achève à Orléans.", "other"),
        ("会議は二時間かかった。", "other"),
        ("Совет собрался утром.", "other"),
        ("12,345 - 678 !!! ★", "other"),
        ("", "other"),
    ],
)
def test_languages(text: str, right: str) -> None:
    assert language_of(text) == right


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("한\u200b글\ufeff 문\u00ad서", "한글 문서"),
        ("a\u00a0b\u2009c\u3000d", "a b c\u3000d"),
        ("one\r\ntwo\rthree\u2028four\x0cfive", "one\ntwo\nthree\nfour\nfive"),
        ("tab\tstays\x00\x08", "tab\tstays"),
        ("👩\u200d💻 ❤\ufe0f", "👩\u200d💻 ❤\ufe0f"),  # the joiner makes one picture of two
        ("क्\u200dष می\u200cخواهم", "क्\u200dष می\u200cخواهم"),
        ("a\u200cb 한\u200d글", "ab 한글"),
        (
            "flag 🏴\U000e0067\U000e0062\U000e007f, hi\U000e0068\U000e0069",
            "flag 🏴\U000e0067\U000e0062\U000e007f, hi",
        ),
    ],
)
def test_what_nobody_sees_goes(text: str, right: str) -> None:
    assert without_invisible(text) == right


@given(st.text())
def test_a_text_is_fixed_at_once(text: str) -> None:
    clean = without_invisible(text)
    assert without_invisible(clean) == clean
    assert composed(composed(text)) == composed(text) == unicodedata.normalize("NFC", text)


def faults(text: str, limits: Limits | None = None) -> list[str]:
    found = prose_faults(text, language_of(text), limits or Limits())
    return [name for at, name in enumerate(PROSE_RULES) if found >> at & 1]


def test_prose_has_no_faults() -> None:
    lines = [f"{ENGLISH}It was meeting number {number}." for number in range(5)]
    assert faults("\n".join(lines)) == []
    assert faults("\n".join(f"{KOREAN}{number}번째였다." for number in range(8))) == []


LONG = (ENGLISH * 4).strip()


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("Too short to learn from. Really. Yes.", "few-words"),
        ("word " * 100_001, "many-words"),
        ("a b c d e f. " * 20, "word-length"),
        ("incomprehensibilities " * 60, "word-length"),
        (LONG + " #" * 30, "symbols"),
        ("\n".join(f"- point {number} of the list" for number in range(20)), "bullets"),
        ("\n".join(f"more on page {number} of the book..." for number in range(20)), "ellipses"),
        (LONG + " 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25", "letters"),
        ("this is his house in this street, as it is on his hill. " * 5, "stop-words"),
        ("\n".join([LONG, ENGLISH, ENGLISH, ENGLISH]), "repeated-lines"),
        ("One single long sentence", "few-sentences"),
        (LONG + " function() { return 1; }", "curly-brackets"),
        ("Lorem ipsum dolor sit amet", "lorem-ipsum"),
    ],
)
def test_each_rule_finds_its_fault(text: str, rule: str) -> None:
    assert rule in faults(text)


def test_korean_words_may_be_shorter_and_limits_may_change() -> None:
    short = "나는 다시 그 집에 갔다. " * 20
    assert "word-length" not in faults(short)
    assert "word-length" in faults(short, Limits(min_word_length_ko=4.0))
    assert "stop-words" not in faults(short)
    assert "few-words" not in faults("too short", Limits(min_words=2))


def test_every_rule_is_of_a_family() -> None:
    assert set(FAMILIES["gopher"]) | set(FAMILIES["c4"]) == set(PROSE_RULES)
