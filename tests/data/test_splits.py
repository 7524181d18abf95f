from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.core.errors import UserError
from malmoi.core.nouns import Example
from malmoi.data import splits
from malmoi.data.splits import Splits, split_examples


def examples(count: int, labels: int = 2, start: int = 0) -> list[Example[str, str]]:
    return [Example(f"문장 {at}", str(at % labels), f"a:{at}") for at in range(start, start + count)]


def split(*parts: list[Example[str, str]] | None, seed: int = 0) -> Splits:
    return split_examples(*parts, key=str, labels=lambda label: [label], seed=seed)


def inputs(part: list[Example[str, str]]) -> set[str]:
    return {example.input for example in part}


def test_three_given_parts_stay_as_they_are() -> None:
    train, valid, test = examples(5), examples(4, start=10), examples(3, start=20)
    assert split(train, valid, test) == Splits(train, valid, test, ())


def test_a_training_set_alone_becomes_80_10_10() -> None:
    found = split(examples(1000))
    assert [len(part) for part in (found.train, found.valid, found.test)] == [800, 100, 100]
    assert len(found.notes) == 2


def test_of_few_examples_a_fifth_is_held_out() -> None:
    found = split(examples(50))
    assert [len(part) for part in (found.train, found.valid, found.test)] == [30, 10, 10]


def test_a_validation_set_is_reported_on() -> None:
    valid = examples(7, start=200)
    found = split(examples(100), valid)
    assert found.test == valid
    assert (len(found.train), len(found.valid)) == (80, 20)


def test_a_test_set_leaves_a_part_of_train_for_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "MOST_VALID", 4)
    found = split(examples(100), None, examples(7, start=200))
    assert (len(found.train), len(found.valid), len(found.test)) == (96, 4, 7)


def test_inputs_of_the_report_are_dropped_from_training() -> None:
    found = split(examples(100), None, examples(20, start=90))
    assert not inputs(found.train + found.valid) & inputs(found.test)
    assert "dropped from training: 10 examples" in found.notes[0]
    with pytest.raises(UserError, match="also in the test set"):
        split(examples(20), None, examples(20))


@settings(max_examples=60, deadline=None)
@given(st.integers(10, 80), st.integers(1, 80), st.integers(0, 9))
def test_no_leak_and_every_label_stays(count: int, labels: int, seed: int) -> None:
    doubled = examples(count, labels) * 2
    found = split(doubled, seed=seed)
    parts = (found.train, found.valid, found.test)
    assert all(parts)
    assert sum(map(len, parts)) == 2 * count
    assert sum(len(inputs(part)) for part in parts) == count
    if labels < count / 4:
        assert {example.target for example in found.train} == {example.target for example in doubled}
    assert split(doubled, seed=seed) == found


def test_labels_are_held_out_in_proportion() -> None:
    found = split(examples(900, labels=3) + examples(100, labels=1, start=5000))
    assert Counter(example.target for example in found.test) == {"0": 40, "1": 30, "2": 30}


def test_sets_of_labels_are_held_out_in_proportion() -> None:
    """A rare label beside a frequent one, which half of the texts have; a third has none."""
    draw, sets = Random(0), list[Example[str, tuple[str, ...]]]()
    for number in range(1000):
        shares = {"rare": 0.03, "some": 0.2, "usual": 0.5}
        labels = tuple(label for label, share in shares.items() if draw.random() < share)
        sets.append(Example(f"문장 {number}", labels))
    found = split_examples(sets, key=str, labels=list)
    whole = Counter(label for one in sets for label in one.target)
    for part in (found.valid, found.test):
        counts = Counter(label for one in part for label in one.target)
        assert all(abs(counts[label] - whole[label] / 10) <= 2 for label in whole)


def test_another_seed_holds_out_others() -> None:
    assert inputs(split(examples(100), seed=1).test) != inputs(split(examples(100), seed=2).test)


def test_groups_stay_together_where_there_are_enough() -> None:
    turns = [Example(f"{talk} {turn}", "", "") for talk in range(40) for turn in range(5)]
    found = split_examples(turns, key=str, group=lambda example: example.input.split()[0])
    talks = [{one.input.split()[0] for one in part} for part in (found.train, found.valid, found.test)]
    assert sum(map(len, talks)) == 40
    one = split_examples(turns, key=str, group=lambda _: "all the same")
    assert [len(part) for part in (one.train, one.valid, one.test)] == [120, 40, 40]


def test_too_few_are_an_error() -> None:
    with pytest.raises(UserError, match="9 different inputs"):
        split(examples(9) * 5)
