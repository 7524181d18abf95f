"""A promise about answers is kept, whoever has drawn the examples."""

from __future__ import annotations

import numpy as np
import pytest

from malmoi.metrics.promise import PARTS, cross_fitted, fewest, promise

SPLITS, SHOWN_BY = 200, 600


def population(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Confidences, and whether the answers are right: less often than they say."""
    random = np.random.default_rng(seed)
    sure_N = random.beta(6.0, 0.5, count)
    return sure_N, random.random(count) < sure_N**1.3


@pytest.mark.parametrize("most", [0.03, 0.08])
def test_it_is_broken_in_at_most_five_percent_of_splits(most: float) -> None:
    """The share of wrong answers is that among all 20,000, of which each split shows 600."""
    sure_N, right_N = population(20_000)
    levels = np.quantile(population(2000, seed=1)[0], np.linspace(0, 1, 101)).tolist()
    random = np.random.default_rng(2)
    broken = given = 0
    for _ in range(SPLITS):
        some = random.permutation(len(sure_N))[:SHOWN_BY]
        found = promise(sure_N[some].tolist(), right_N[some].tolist(), levels, most)
        if found is not None:
            given += 1
            broken += (~right_N[sure_N >= found.confidence]).mean() > most
    assert given > SPLITS / 4
    assert broken <= 0.05 * SPLITS + 6  # two deviations of what chance adds


def test_more_examples_show_more() -> None:
    sure_N, right_N = population(20_000)
    levels = np.quantile(sure_N, np.linspace(0, 1, 101)).tolist()
    found = [
        promise(sure_N[:count].tolist(), right_N[:count].tolist(), levels, 0.05) for count in (2000, 20_000)
    ]
    shares = [one.answered / one.count for one in found if one]
    assert len(shares) == 2
    assert shares[0] < shares[1]


def test_what_is_never_wrong_answers_everything() -> None:
    found = promise([0.7] * 100, [True] * 100, [0.7] * 101, 0.05)
    assert found is not None
    assert (found.confidence, found.answered, found.wrong) == (0.0, 100, 0)


def test_too_few_or_too_bad_show_nothing() -> None:
    """59 right answers in a row show 5%, 58 do not: 0.95 ** 59 is below 0.05 for the first time."""
    levels = [0.9] * 101
    assert fewest(0.05) == 59
    assert promise([0.9] * 59, [True] * 59, levels, 0.05) is not None
    assert promise([0.9] * 58, [True] * 58, levels, 0.05) is None
    assert promise([0.9] * 1000, [False] * 1000, levels, 0.5) is None


def test_an_answer_is_given_alone_by_what_the_others_show() -> None:
    """Its own rightness changes nothing of that, but it does change what all of them show."""
    sure_N, right_N = population(1000)
    levels = np.quantile(population(2000, seed=1)[0], np.linspace(0, 1, 101)).tolist()
    whole, alone = cross_fitted(sure_N.tolist(), right_N.tolist(), levels, 0.08)
    assert whole == promise(sure_N.tolist(), right_N.tolist(), levels, 0.08)
    assert whole is not None
    assert abs(np.mean(alone) - whole.answered / whole.count) < 0.1
    wrong_N = right_N.copy()
    wrong_N[::PARTS] = False
    worse, same = cross_fitted(sure_N.tolist(), wrong_N.tolist(), levels, 0.08)
    assert worse is None or worse.answered < whole.answered
    assert same[::PARTS] == alone[::PARTS]


def test_examples_that_belong_together_show_as_much_as_one() -> None:
    whole, alone = cross_fitted([0.9] * 290, [True] * 290, [0.9] * 101, 0.05, [at // 5 for at in range(290)])
    assert (whole, any(alone)) == (None, False)
    whole, alone = cross_fitted([0.9] * 400, [True] * 400, [0.9] * 101, 0.05, [at // 5 for at in range(400)])
    assert whole is not None
    assert (whole.count, all(alone)) == (80, True)
