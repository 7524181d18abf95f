"""Talk without a text: it is true to what was said, and to the rules of names and numbers."""

from __future__ import annotations

import re
from functools import cache
from random import Random

import pytest

from malmoi.core.nouns import Message, turns_error
from malmoi.world import Language
from malmoi.world.names import romanized
from malmoi.world.small_talk import small_talk, topics
from malmoi.world.vocabulary import pools

LANGUAGES: tuple[Language, Language] = ("en", "ko")


@cache
def sample(language: Language) -> list[tuple[Message, ...]]:
    return list(small_talk(500, language=language))


def exchanges(language: Language) -> list[tuple[str, str, str]]:
    """(what was said before, question, reply)."""
    found: list[tuple[str, str, str]] = []
    for talk in sample(language):
        texts = [turn.content for turn in talk]
        for at in range(0, len(texts), 2):
            found.append(("\n".join(texts[:at]), texts[at], texts[at + 1]))
    return found


@pytest.mark.parametrize("language", LANGUAGES)
def test_talks_are_whole_and_the_same_every_time(language: Language) -> None:
    assert sample(language)[:20] == list(small_talk(20, language=language))
    for talk in sample(language):
        assert not turns_error(talk, ends_with="assistant")
        for turn in talk:
            assert not re.search(r"[{}\[\]|~<>_]|  | [.,!?]|\.\.", turn.content), turn
            assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n (?!hour)[^aeiouAEIOU]", turn.content), turn


@pytest.mark.parametrize("language", LANGUAGES)
def test_sums_are_right(language: Language) -> None:
    sums = [re.findall(r"(\d+) ([-+x]) (\d+) = (\d+)", reply) for _, _, reply in exchanges(language)]
    found = [one for some in sums for one in some]
    assert len(found) > 80
    for first, operator, second, result in found:
        assert eval(f"{first}{operator.replace('x', '*')}{second}") == int(result)
    for _, question, reply in exchanges(language):
        if pair := re.search(r"(?:larger, (\d+) or (\d+)|(\d+)[과와] (\d+) 가운데)", question):
            numbers = sorted(int(one) for one in pair.groups() if one)
            assert re.findall(r"\d+", reply) == [str(numbers[1])]


@pytest.mark.parametrize(
    ("language", "question"),
    [
        ("en", "What is my name|Do you remember my name|Where do I live|What is my job|my .* called"),
        ("ko", "제 이름이|제 이름을 기억|제가 어디에 살지요|제 직업이|이름이 무엇이지요"),
    ],
)
def test_what_was_said_is_remembered(language: Language, question: str) -> None:
    """The names in the reply were said before; of Hangul, what stands before the particles."""
    asked = [one for one in exchanges(language) if re.search(question, one[1])]
    assert len(asked) > 60
    for before, _, reply in asked:
        if language == "en":
            names = set(re.findall(r"[A-Z][a-z]+", reply)) - {"Your", "You", "It"}
        else:
            names = set(re.findall(r"^(?!이름은|우리)[가-힣]{2}", reply))
        assert all(name in before for name in names), (before, reply)


def test_names_are_translated_by_the_rules() -> None:
    """An invented word that is asked for is spelt syllable by syllable."""
    asked = [one for one in exchanges("ko") if re.fullmatch(r'영화 "안녕, [가-힣]+".*', one[1])]
    for _, question, reply in asked:
        (name,) = re.findall("안녕, ([가-힣]+)", question)
        assert reply == f'"Goodbye, {romanized(name).capitalize()}"'
    pairs = [one for one in exchanges("en") if one[1].endswith(("in Korean?", "in Korean."))]
    assert len(asked) + len(pairs) > 60
    assert all(re.fullmatch('"[가-힣 ,0-9]+"', reply) for _, _, reply in pairs)


def test_held_out_names_stay_so() -> None:
    people = (pools()["person"].draw(Random(number), "test") for number in range(2000))
    unseen = {person.short_en for person in people if person.unseen}
    said = " ".join(turn.content for talk in sample("en") for turn in talk)
    assert not unseen & set(re.findall(r"[A-Z][a-z]+", said))
    tested = " ".join(turn.content for talk in small_talk(300, split="test", language="en") for turn in talk)
    assert unseen & set(re.findall(r"[A-Z][a-z]+", tested))


def test_there_is_much_to_talk_about() -> None:
    assert len(topics()) >= 20
    assert len(set(sample("en"))) > 480
