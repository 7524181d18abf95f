"""Which solved examples are shown: balanced, near, never the asked one, the same every time."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmoi.core.errors import UserError
from malmoi.core.nouns import Entity, Example, Message
from malmoi.methods.llm.shots import Shots, read_shots, shots_files
from malmoi.tasks import make_task

How = Literal["random", "similar"]
BOTH: tuple[How, How] = ("random", "similar")
REVIEWS = [Example(f"review {n} of the soup", "good" if n % 10 else "bad") for n in range(100)]


def test_random_shots_are_the_same_for_every_input_and_balanced() -> None:
    shots = Shots(REVIEWS, 4)
    picked = shots.pick("anything")
    assert picked == shots.pick("something else") == Shots(REVIEWS[::-1], 4).pick("x")
    assert Counter(one.target for one in picked) == {"good": 2, "bad": 2}
    assert Shots(REVIEWS, 4, seed=1).pick("x") != picked


def test_every_label_comes_before_any_comes_twice() -> None:
    many = [Example(f"text {n}", str(n % 7)) for n in range(70)]
    assert {one.target for one in Shots(many, 7).pick("x")} == set("0123456")
    assert len({one.target for one in Shots(many, 3).pick("x")}) == 3


def test_kinds_of_entities_are_balanced() -> None:
    person, place = (Entity(0, 2, "PER"),), (Entity(0, 2, "LOC"),)
    found = [Example(f"글 {n}", () if n % 10 > 1 else person if n % 10 else place) for n in range(50)]
    assert {one.target for one in Shots(found, 3).pick("x")} == {(), person, place}


@pytest.mark.parametrize("how", BOTH)
def test_the_asked_input_is_never_shown(how: How) -> None:
    for example in REVIEWS[:20]:
        picked = Shots(REVIEWS[:20], 19, how).pick(example.input)
        assert len(picked) == 19
        assert example.input not in [one.input for one in picked]
        few = Shots(REVIEWS[:20], 2, how).pick(example.input)
        assert how == "similar" or {one.target for one in few} == {"good", "bad"}


@pytest.mark.parametrize("text", ["the ferry leaves at nine", "배는 아홉 시에 떠난다"])
def test_similar_shots_end_with_the_nearest(text: str) -> None:
    far = ["snow lay on the bridge", "다리 위에 눈이 쌓였다", "a mill stood still", "방앗간이 멈췄다"]
    near, nearer = f"{text[:9]} {far[text[0] == '배']}", f"{text} today"
    pool = [Example(one, "") for one in (*far, nearer, near)]
    assert [one.input for one in Shots(pool, 2, "similar").pick(text)] == [near, nearer]


def test_inputs_are_kept_apart_by_the_key() -> None:
    chat = make_task("chat")
    talks = [Example((Message("user", f"안녕 {n}"),), f"hello {n}") for n in range(9)]
    for how in BOTH:
        picked = Shots(talks, 8, how, key=chat.key).pick((Message("user", "안녕 3"),))
        assert sorted(one.target for one in picked) == [f"hello {n}" for n in range(9) if n != 3]


def test_no_shots_need_no_examples_and_some_do() -> None:
    assert Shots([], 0).pick("x") == []
    assert Shots([], 0, "similar").pick("x") == []
    with pytest.raises(UserError, match="shots to 0"):
        Shots([], 2)


def test_equal_inputs_are_shown_once() -> None:
    assert Shots([Example("same", "a"), Example("same", "b")], 5).pick("x") == [Example("same", "a")]


@pytest.mark.parametrize("how", BOTH)
@pytest.mark.parametrize("name", ["classification", "ner"])
def test_the_file_keeps_what_is_picked(name: str, how: How) -> None:
    task, generator = make_task(name), random.Random(0)
    target: Any = {"classification": "good\u2028", "ner": (Entity(1, 3, "인물"),)}[name]
    pool = [Example(f"{generator.random()} 글\n{n}", target) for n in range(30)]
    shots = Shots(pool, 3, how, 7, task.key)
    again = Shots(read_shots(task, shots_files(task, shots)), 3, how, 7, task.key)
    for text in ("0.5 글", pool[0].input, pool[9].input):
        assert again.pick(text) == shots.pick(text)
    assert how == "similar" or len(shots.examples) == 4


@given(
    st.lists(st.tuples(st.text(), st.sampled_from("ab")), min_size=1, max_size=12),
    st.integers(0, 5), st.sampled_from(BOTH), st.text(),
)  # fmt: skip
def test_any_texts_are_no_trouble(rows: list[tuple[str, str]], count: int, how: How, asked: str) -> None:
    pool = [Example(text, label) for text, label in rows]
    try:
        picked = Shots(pool, count, how).pick(asked)
    except UserError:  # texts without a letter have nothing to be near by
        return
    assert len(picked) == min(count, len({text for text, _ in rows} - {asked}))
