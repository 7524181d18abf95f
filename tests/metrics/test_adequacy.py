"""Whether texts belong to their inputs: a made language, the sample world, what must not fool it."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.core.nouns import Example
from malmoi.data.opening import Record
from malmoi.metrics.adequacy import RIVALS, Adequacy, pieces
from malmoi.tasks import make_task
from malmoi.tasks.base import Task
from malmoi.world import Split, documents

Pairs = list[tuple[str, str]]
WORDS = {f"w{number}o": f"z{number}e" for number in range(40)}  # a word -> what it is in the other language


def sentences(count: int, seed: int) -> Pairs:
    """Texts of four words and the same in the other language."""
    random = Random(seed)
    texts = [random.sample(sorted(WORDS), 4) for _ in range(count)]
    return [(" ".join(text), " ".join(WORDS[word] for word in text)) for text in texts]


TRAIN, TEST = sentences(300, 0), sentences(60, 1)
INPUTS, RIGHT = [before for before, _ in TEST], [after for _, after in TEST]


def learned(train: Pairs = TRAIN, test: Pairs = TEST) -> Adequacy:
    found = Adequacy.learn(train, [before for before, _ in test], [[after] for _, after in test])
    assert found is not None
    return found


TOY = learned()


def nearest(train: Pairs, inputs: Sequence[str]) -> list[str]:
    """What stands beside the input that shares most words, as a translation memory answers."""
    shared = [[len({*text.split()} & {*before.split()}) for before, _ in train] for text in inputs]
    return [train[int(np.argmax(counts))][1] for counts in shared]


def test_known_values() -> None:
    assert TOY.right.value == 1.0
    assert TOY.statistic(RIGHT).metric().interval is not None
    assert TOY.statistic(RIGHT[1:] + RIGHT[:1]).value < 0.1
    assert TOY.statistic([None, "", *RIGHT[2:]]).value == pytest.approx(58 / 60)
    assert "right answers reach 100.0%" in TOY.statistic(RIGHT).signature


def test_what_a_neighbour_would_say_is_not_adequate() -> None:
    assert TOY.statistic(nearest(TRAIN, INPUTS)).value < 0.2


def test_one_fluent_answer_to_everything_is_not_adequate() -> None:
    assert TOY.statistic([RIGHT[0]] * len(RIGHT)).value < 0.1


def test_word_order_and_a_wrong_word_cost_little() -> None:
    turned = [" ".join(text.split()[::-1]) for text in RIGHT]
    assert TOY.statistic(turned).value == 1.0
    half = [" ".join([*text.split()[:3], "zzz"]) for text in RIGHT]
    assert TOY.statistic(half).value > 0.5


def test_repeating_the_input_counts_only_where_training_does() -> None:
    assert TOY.statistic(INPUTS).value < 0.1
    briefer = [(f"{before} and more", before) for before, _ in TRAIN]
    test = [(f"{before} and more", before) for before, _ in TEST]
    # a name that the table has never seen
    test = [(before.replace("w3o", "Noru"), after.replace("w3o", "Noru")) for before, after in test]
    found = learned(briefer, test)
    assert found.statistic([after for _, after in test]).value > 0.9


def test_an_input_with_the_same_answer_is_no_rival() -> None:
    twice = [*TRAIN, *[(f"{before} w39o", after) for before, after in TEST]]
    other = [*TRAIN, *[(f"{before} w39o", f"{after} z39e") for before, after in TEST]]
    assert learned(twice).statistic(RIGHT).value == 1.0
    assert learned(other).statistic([f"{text} z39e" for text in RIGHT]).value < 0.2


def test_too_few_pairs_to_learn_from() -> None:
    assert Adequacy.learn(TRAIN[:RIVALS], INPUTS, [[text] for text in RIGHT]) is None
    assert Adequacy.learn([("?", "!")] * 99, INPUTS, [[text] for text in RIGHT]) is None


def test_pieces_of_words_and_of_syllables() -> None:
    assert pieces("Walking, walked!") == ["walk"]
    assert pieces("고양이가 잔다") == ["고양", "양이", "이가", "잔다"]
    assert pieces("2026 A") == ["2026", "a"]


@given(st.lists(st.sampled_from([*RIGHT, *INPUTS, "", None, "다른 말", "?"]), min_size=60, max_size=60))
@settings(max_examples=15, deadline=None)
def test_it_is_a_share_that_learning_again_does_not_change(outputs: list[str | None]) -> None:
    found = TOY.statistic(outputs)
    values_E = np.asarray(found.parts_EK)[:, 0]
    assert set(values_E) <= {0.0, 1.0}
    assert not any(values_E[at] for at, text in enumerate(outputs) if not text)
    assert np.array_equal(values_E, np.asarray(learned().statistic(outputs).parts_EK)[:, 0])


def world(task: Task[Any, Any], count: int, split: Split) -> list[Example[Any, Any]]:
    rows = [(row, one.id) for one in documents(count, split=split) for row in task.samples(one)]
    return [one for row, where in rows for one in task.examples(Record(row, where), lambda _: None)]


@pytest.mark.parametrize("name", ["translation", "summarization", "chat"])
def test_the_sample_world_is_told_from_a_shuffled_one(name: str) -> None:
    task = make_task(name, {})
    train, test = world(task, 400, "train"), world(task, 40, "test")[:100]
    found = task.adequacy(train, test)
    assert found is not None
    fits_OI = found.fits([one.target for one in test], [task.subject(one.input) for one in test])
    above = np.diag(fits_OI)[:, None] > fits_OI
    assert above.sum() / (len(test) * (len(test) - 1)) > (0.9 if name == "chat" else 0.95)
    shuffled = [one.target for one in test[1:] + test[:1]]
    low, _ = found.right.metric().interval or (0.0, 1.0)
    assert low > found.statistic(shuffled).value


def test_labels_and_texts_that_go_on_have_none() -> None:
    for name in ("classification", "completion"):
        assert make_task(name, {}).adequacy([], []) is None
