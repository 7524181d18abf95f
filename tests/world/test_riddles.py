"""Riddles: every conclusion follows from two facts, and no fact is told twice."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmoi.world import Language, Split
from malmoi.world.riddles import MOST_PEOPLE, riddle, solved_riddles


@given(st.integers(0, 10_000), st.integers(2, MOST_PEOPLE), st.sampled_from(["train", "test"]))
def test_a_conclusion_needs_the_link_that_two_facts_share(seed: int, people: int, split: Split) -> None:
    one = riddle(Random(seed), split, "en", people)
    sentences = one.text(*((person, person) for person in range(people))).removesuffix(".").split(". ")
    facts, conclusions = sentences[: 2 * people], sentences[2 * people :]
    assert len(conclusions) == one.people == people
    for number, conclusion in enumerate(conclusions):
        person, link, thing = (one.terms[f"{slot}{number}"].en for slot in "apx")
        assert [person in fact or thing in fact for fact in facts if link in fact] == [True, True]
        assert conclusion.startswith("So ")
        assert conclusion.endswith(thing)


@pytest.mark.parametrize("language", ["en", "ko"])
def test_riddles_are_the_same_in_both_languages_and_every_time(language: Language) -> None:
    first, again = (riddle(Random(3), "train", language, 4) for _ in range(2))
    assert first == again
    assert list(solved_riddles(4, seed=1)) == list(solved_riddles(8, seed=1))[:4]
    assert len(set(solved_riddles(50, seed=1))) == 50
