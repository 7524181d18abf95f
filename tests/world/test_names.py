"""Names by rule: one right form in each language, exact particles, and some that training never sees."""

from __future__ import annotations

import re
from collections import defaultdict
from functools import cache
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmoi.world.names import Split, romanized, split_of_word, syllable
from malmoi.world.patterns import PARTICLES, Term, with_particle
from malmoi.world.vocabulary import pools

SPLITS: tuple[Split, ...] = ("train", "valid", "test")
COMPOSED = (
    "person", "street", "place", "water", "paper", "eatery", "bakery", "firm", "school", "team", "cinema",
    "inn", "shop", "petname", "brand", "film", "piece", "tale",
)  # fmt: skip


@cache
def drawn(pool: str, split: Split, count: int = 2000) -> list[Term]:
    rng = Random(f"{pool}-{split}")
    return [pools()[pool].draw(rng, split) for _ in range(count)]


def test_names_translate_both_ways() -> None:
    korean, english = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    for term in (term for pool in COMPOSED for split in SPLITS for term in drawn(pool, split)):
        for short in (False, True):
            en, ko = term.text("en", short), term.text("ko", short)
            korean[en].add(ko)
            english[ko].add(en)
    assert len(korean) > 50_000
    assert {en: ko for en, ko in korean.items() if len(ko) > 1} == {}
    assert {ko: en for ko, en in english.items() if len(en) > 1} == {}


@pytest.mark.parametrize("pool", COMPOSED)
def test_names_are_many_and_well_formed(pool: str) -> None:
    names = {term.en for term in drawn(pool, "train")}
    assert len(names) > (600 if pool == "paper" else 1000)
    for term in drawn(pool, "train"):
        assert re.fullmatch(r"[A-Z][a-z]*(,? ([A-Za-z]+|\d+))*", term.en)
        assert re.fullmatch(r"[가-힣]+(,? ([가-힣]+|\d+))*", term.ko)


@pytest.mark.parametrize("pool", COMPOSED)
def test_what_is_held_out_is_never_drawn_for_train(pool: str) -> None:
    seen = {split: {term.en for term in drawn(pool, split) if term.unseen} for split in SPLITS}
    train = {term.en for term in drawn(pool, "train")}
    assert not seen["train"]
    assert not train & seen["valid"]
    assert not train & seen["test"]
    assert not seen["valid"] & seen["test"]
    assert min(len(seen["valid"]), len(seen["test"])) > 100


def test_people_are_called_by_parts_that_are_held_out() -> None:
    given = {split: {term.short_en for term in drawn("person", split) if term.unseen} for split in SPLITS}
    for split in ("valid", "test"):
        assert all(split_of_word(name) == split for name in given[split])
    for term in drawn("person", "train"):
        assert all(split_of_word(part) == "train" for part in term.en.split())


def test_korean_names_have_the_korean_form() -> None:
    people = [term for term in drawn("person", "train") if " " not in term.ko]
    assert 400 < len(people) < 900
    for term in people:
        first, last = term.en.split()
        assert romanized(term.ko[1:]) == first.lower()
        assert len(term.ko) == 3
        assert last


def test_people_are_not_called_by_everyday_words() -> None:
    words = "가수 경비 나비 다수 동지 선수 성경 예수 우연 재미 정원 준비 기차 나무 누나 모자 바다 시간 제목"
    called = {term.short_ko for split in SPLITS for term in drawn("person", split, 6000)}
    assert len(called) > 4000
    assert called.isdisjoint(words.split())


ONSETS, VOWELS, CODAS = "ㄱㄴㄷㄹㅁㅂㅅㅇㅈㅊㅋㅌㅍㅎ", "ㅏㅑㅓㅕㅗㅛㅜㅠㅡㅣㅔㅐㅘㅟ", ["", *"ㄱㄴㄹㅁㅂㅇ"]


@given(st.sampled_from(ONSETS), st.sampled_from(VOWELS), st.sampled_from(CODAS))
def test_particles_follow_the_sound_of_any_syllable(lead: str, vowel: str, coda: str) -> None:
    word = syllable(lead, vowel, coda)
    for name, (closed, opened) in PARTICLES.items():
        as_open = not coda or (name == "으로" and coda == "ㄹ")
        assert with_particle(word, name) == (opened if as_open else closed)


@given(st.integers(1, 99_999))
def test_particles_follow_the_sound_of_any_number(number: int) -> None:
    ends = {1: "일", 2: "이", 3: "삼", 4: "사", 5: "오", 6: "육", 7: "칠", 8: "팔", 9: "구", 0: "십"}
    for name in PARTICLES:
        assert with_particle(str(number), name) == with_particle(ends[number % 10], name)


def test_the_rule_of_latin_letters() -> None:
    assert [romanized(word) for word in ("체보", "기모", "민호", "지우", "쇼나")] == [
        "chebo", "gimo", "minho", "jiwoo", "shona",
    ]  # fmt: skip
