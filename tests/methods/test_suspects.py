from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.core.errors import UserError
from malmoi.core.nouns import Entity, Example
from malmoi.methods.suspects import FEWEST, confident_errors, find_suspects
from malmoi.tasks import make_task

TASK, NER = make_task("classification"), make_task("ner")
WORDS = {  # a label -> words of its texts
    "배송": ["배송", "택배", "도착", "상자", "기사", "지연", "송장", "출발"],
    "환불": ["환불", "카드", "취소", "금액", "입금", "영수증", "결제", "계좌"],
    "refund": ["refund", "money", "card", "cancel", "receipt", "paid", "account", "charge"],
}


def texts(count: int) -> list[Example[str, str]]:
    """Two thirds of a text's words are of its label, the others of any."""
    draw, labels = random.Random(0), list(WORDS)
    every = [word for words in WORDS.values() for word in words]
    found = []
    for number in range(count):
        label = labels[number % len(labels)]
        words = [*draw.choices(WORDS[label], k=6), *draw.choices(every, k=3), f"n{number}"]
        found.append(Example(" ".join(words), label, f"my file.jsonl:{number + 1}"))
    return found


def flipped(examples: list[Example[str, str]]) -> tuple[list[Example[str, str]], set[str]]:
    """5% with another label, and where these are."""
    draw, labels = random.Random(1), sorted({one.target for one in examples})
    found = list(examples)
    for at in draw.sample(range(len(found)), len(found) // 20):
        found[at] = replace(found[at], target=draw.choice([it for it in labels if it != found[at].target]))
    return found, {b.source for a, b in zip(examples, found, strict=True) if a.target != b.target}


def test_flipped_labels_stand_first() -> None:
    """Of the first 5%, above 70% are labels that were flipped."""
    examples, wrong = flipped(texts(300))
    found = find_suspects(TASK, examples)
    first = found.rows[: len(examples) // 20]
    assert np.mean([one.where in wrong for one in first]) > 0.7
    assert found.judged == len(examples)
    order = [one.given_probability for one in found.rows]
    assert order == sorted(order)
    by_place = {one.source: one for one in examples}
    for one in found.rows:
        assert one.given == by_place[one.where].target != one.likely
        assert one.text == by_place[one.where].input
        assert one.row["row"] == int(one.where.rpartition(":")[2])


def test_a_wrong_label_is_found_although_its_copies_have_it_too() -> None:
    """Copies lie in one fold, so that they cannot vouch for one another."""
    examples = texts(150)
    text = "택배 상자 배송 기사 송장 지연 도착"
    copies = [Example(copy, "refund", f"copies:{at}") for at, copy in enumerate([text, f" {text}", text])]
    found = find_suspects(TASK, [*examples, *copies])
    assert [one.where for one in found.rows[:3]] == [one.source for one in copies]
    assert {one.likely for one in found.rows[:3]} == {"배송"}


def test_the_kind_of_an_entity_and_a_missed_one_are_suspected() -> None:
    names = {"PER": ["Mina Seo", "Jun Park", "Ara Lim"], "LOC": ["Noru", "Hanbyeol", "Dalmaji"]}
    examples, draw = list[Example[str, Any]](), random.Random(0)
    for number in range(90):
        who, where = draw.choice(names["PER"]), draw.choice(names["LOC"])
        text = f"{who} went to {where} on day {number}"
        start = text.index(where)
        entities = (Entity(0, len(who), "PER"), Entity(start, start + len(where), "LOC"))
        examples.append(Example(text, entities, f"names.conll:{number}"))
    examples[7] = replace(
        examples[7], target=(replace(examples[7].target[0], label="LOC"), examples[7].target[1])
    )
    examples[30] = replace(examples[30], target=examples[30].target[:1])
    found = {one.where: one for one in find_suspects(NER, examples).rows}
    assert found.keys() == {"names.conll:7", "names.conll:30"}
    kind, missed = found["names.conll:7"], found["names.conll:30"]
    assert (kind.given, kind.likely, kind.text[kind.start : kind.end]) in {
        ("LOC", "PER", name) for name in names["PER"]
    }
    assert (missed.given, missed.likely) == ("O", "LOC")
    assert missed.text[missed.start : missed.end] in names["LOC"]


def test_rare_labels_are_named_and_not_judged() -> None:
    rare = [Example(f"택배 상자 {at}", "송장", f"rare:{at}") for at in range(3)]
    found = find_suspects(TASK, [*texts(150), *rare])
    assert found.notes == ("not judged: 1 label with fewer than 5 different texts ('송장')",)
    assert not any(one.given == "송장" for one in found.rows)


@pytest.mark.parametrize(
    ("examples", "words"),
    [
        (texts(FEWEST - 1), "only 49 different texts"),
        ([texts(3)[0]] * 200, "only 1 different text,"),
        ([replace(one, target="환불") for one in texts(80)], "too few of the labels ('환불')"),
        ([replace(one, target=one.source) for one in texts(80)], "too few of the labels"),
    ],
)
def test_too_little_to_judge_by_is_one_line(examples: list[Example[str, str]], words: str) -> None:
    with pytest.raises(UserError) as error:
        find_suspects(TASK, examples)
    assert words in str(error.value)


def test_other_tasks_name_those_that_work() -> None:
    with pytest.raises(UserError, match="works with classification and ner"):
        find_suspects(make_task("chat"), [])


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 5), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_the_most_probable_label_is_never_suspected(classes: int, units: int, seed: int) -> None:
    """Whatever the probabilities are, some of them 0."""
    random = np.random.default_rng(seed)
    probs_UC = random.dirichlet(np.full(classes, 0.3), units).round(3)
    given_U = random.integers(classes, size=units)
    suspected_U, likely_U = confident_errors(given_U, probs_UC)
    assert (likely_U[suspected_U] != given_U[suspected_U]).all()
    assert not suspected_U[probs_UC.argmax(axis=1) == given_U].any()
