"""Sets of labels: a threshold for each label, and what learns them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from malmoi.core.errors import UserError
from malmoi.core.nouns import Example
from malmoi.methods.registry import make_method
from malmoi.methods.traditional.choice import (
    FEWEST_GIVEN,
    UNSURE,
    choose_thresholds,
    sets_above,
)
from malmoi.tasks import make_task
from tests.methods.tiny import fitted_to

TASK = make_task("multi-label")
WORDS = {"food": "bread soup rice", "money": "bank price loan", "sky": "cloud rain sun"}


def sentences(count: int, seed: int, *, rare: str = "sky") -> list[Example[str, tuple[str, ...]]]:
    """Texts with a word or two of each of their labels; the rare one stands in few."""
    random, found = np.random.default_rng(seed), []
    for _ in range(count):
        labels = tuple(label for label in sorted(WORDS) if random.random() < (0.05 if label == rare else 0.4))
        words = [random.choice(WORDS[label].split()) for label in labels for _ in range(2)]
        found.append(Example(" ".join([*words, *random.choice(["the", "a", "we", "saw"], 4)]), labels))
    return found


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=20, max_size=60))
@settings(max_examples=50, deadline=None)
def test_a_threshold_has_the_best_f1(pairs: list[tuple[int, bool]]) -> None:
    probs_N, given_N = np.array([p / 10 for p, _ in pairs]), np.array([one for _, one in pairs])
    if given_N.sum() < FEWEST_GIVEN:
        return
    [threshold] = choose_thresholds(probs_N[:, None], given_N[:, None])
    best = max(f1_score(given_N, probs_N >= cut / 20) for cut in range(0, 20, 2))
    assert f1_score(given_N, probs_N >= threshold) == pytest.approx(best)


def test_a_label_with_few_examples_shares_a_threshold() -> None:
    random = np.random.default_rng(0)
    given_NL = random.random((200, 3)) < (0.4, 0.3, 0.02)
    probs_NL = np.where(given_NL, 0.3, 0.1) + 0.15 * random.random((200, 3))
    assert given_NL[:, 2].sum() < FEWEST_GIVEN
    first, second, rare = choose_thresholds(probs_NL, given_NL)
    assert all(0.2 < one < 0.31 for one in (first, second, rare))
    assert choose_thresholds(probs_NL[:3], given_NL[:3]) == [UNSURE] * 3
    assert choose_thresholds(np.zeros((0, 3)), np.zeros((0, 3), dtype=bool)) == [UNSURE] * 3
    assert sets_above(probs_NL[:1], [0.0, 2.0, 0.0], "abc") == [("a", "c")]


@pytest.mark.parametrize("name", ["lexicon", "tfidf"])
def test_sets_are_learned(name: str) -> None:
    method = fitted_to(make_method(name, TASK), sentences(300, 0), sentences(120, 1))
    test = sentences(120, 2)
    scores = TASK.score(method.predict([one.input for one in test]).values, test)
    assert scores["micro_f1"].value > 0.9
    assert scores["macro_f1"].value > 0.8
    assert set(method.report["thresholds"]) == set(WORDS)
    found = method.predict([one.input for one in test if not one.target]).values
    assert found.count(()) > 0.8 * len(found) > 0


def test_what_has_no_label_is_refused() -> None:
    bare = [replace(one, target=()) for one in sentences(60, 0)]
    for name in ("lexicon", "tfidf", "lstm"):
        with pytest.raises(UserError, match="no training example has a label; give some that have"):
            fitted_to(make_method(name, TASK), bare[:50], bare[50:])


def test_the_label_nearest_to_a_half_makes_unsure(monkeypatch: pytest.MonkeyPatch) -> None:
    method = make_method("tfidf", TASK)
    shares = [{"a": 0.9, "b": 0.99}, {"a": 0.9, "b": 0.45}, {}]
    monkeypatch.setattr(method, "probabilities", lambda _: shares)
    assert method.unsureness(["", "", ""]) == pytest.approx([0.2, 0.9, 0.0])


@pytest.mark.parametrize("wrong", [[0.2], [0.2, "x", 0.2], []])
def test_thresholds_that_do_not_fit_are_refused(wrong: list[object]) -> None:
    method = fitted_to(make_method("tfidf", TASK), sentences(60, 0), sentences(30, 1))
    parts = method.parts()
    make_method("tfidf", TASK).restore(parts)
    parts.config["thresholds"] = wrong
    with pytest.raises(UserError, match="do not fit its labels"):
        make_method("tfidf", TASK).restore(parts)
