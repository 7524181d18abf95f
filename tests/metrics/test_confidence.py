"""Confidence: what it becomes is what was right, on answers that it was not fitted to."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmoi.metrics.confidence import LEVELS, MANY, Calibration, calibration_error, coverage, reliability

Rows = list[dict[str, float]]


def judged(count: int, temperature: float, seed: int = 0) -> tuple[Rows, list[str]]:
    """Label probabilities whose logarithms are `temperature` times too far apart, and labels drawn from the
    right ones."""
    random = np.random.default_rng(seed)
    true_NL = random.dirichlet((0.6, 0.6, 0.6), count)
    labels = [str(random.choice(["a", "b", "c"], p=row)) for row in true_NL]
    said_NL = true_NL**temperature
    said_NL /= said_NL.sum(axis=1, keepdims=True)
    return [dict(zip("abc", row, strict=True)) for row in said_NL.tolist()], labels


def error(calibration: Calibration, rows: Rows, labels: list[str]) -> float:
    found = [calibration.shares(row) for row in rows]
    right = [max(row, key=row.__getitem__) == label for row, label in zip(found, labels, strict=True)]
    return calibration_error([max(row.values()) for row in found], right).value


@pytest.mark.parametrize("temperature", [0.4, 2.5])
def test_the_temperature_is_found(temperature: float) -> None:
    fitted = Calibration.of_labels(*judged(MANY - 1, temperature))
    assert fitted.temperature == pytest.approx(temperature, rel=0.15)
    assert fitted.curve == ((), ())
    others = judged(4000, temperature, seed=1)
    assert error(fitted, *others) < 0.03 < error(Calibration(), *others)


def test_what_no_temperature_mends_many_examples_do() -> None:
    """Right half of the time, however sure."""
    rows, _ = judged(2 * MANY, 1.0)
    random = np.random.default_rng(5)
    tops = [max(row, key=row.__getitem__) for row in rows]
    labels = [top if random.random() < 0.5 else random.choice(sorted(set("abc") - {top})) for top in tops]
    half = slice(MANY)
    others = slice(MANY, None)
    assert error(Calibration.of_labels(rows[half], labels[half]), rows[others], labels[others]) < 0.05


@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=5).filter(lambda it: sum(it) > 0),
    st.floats(0.1, 10), st.lists(st.floats(0, 1), min_size=2, max_size=6, unique=True), st.data(),
)  # fmt: skip
def test_the_order_of_labels_stays(
    row: list[float], temperature: float, at: list[float], data: st.DataObject
) -> None:
    values = data.draw(st.lists(st.floats(0.01, 0.99), min_size=len(at), max_size=len(at)))
    calibration = Calibration(temperature=temperature, curve=(tuple(sorted(at)), tuple(sorted(values))))
    shares = {str(number): share / sum(row) for number, share in enumerate(row)}
    found = calibration.shares(shares)
    assert sum(found.values()) == pytest.approx(1)
    assert max(found.values()) == pytest.approx(found[max(shares, key=shares.__getitem__)])
    ranked = sorted(shares, key=shares.__getitem__)
    assert all(found[a] <= found[b] + 1e-9 for a, b in pairwise(ranked) if shares[a] < shares[b])


@pytest.mark.parametrize("count", [200, 2 * MANY])
def test_scores_become_the_share_that_is_right(count: int) -> None:
    """Logarithms of probabilities that are twice too sure."""
    random = np.random.default_rng(0)
    true_N = random.beta(1.0, 0.7, 6000)
    logs = np.log(np.maximum(true_N**0.5, 1e-9)).tolist()
    right = (random.random(6000) < true_N).tolist()
    fitted = Calibration.of_scores(logs[:count], right[:count])
    sure = [fitted.probability(score) for score in logs[count:]]
    assert calibration_error(sure, right[count:]).value < 0.05
    assert calibration_error(np.exp(logs[count:]).tolist(), right[count:]).value > 0.1


@given(st.lists(st.tuples(st.floats(-50, 0), st.booleans()), min_size=20, max_size=60))
def test_nothing_is_certain(pairs: list[tuple[float, bool]]) -> None:
    fitted = Calibration.of_scores(*zip(*pairs, strict=True))
    scores = sorted([score for score, _ in pairs] + [-1e6, 0.0])
    values = [fitted.probability(score) for score in scores]
    assert all(0 < value < 1 for value in values)
    assert values == sorted(values)
    assert len(fitted.levels) == LEVELS + 1
    assert Calibration.model_validate(fitted.model_dump(mode="json")) == fitted


def test_the_error_is_the_gap_in_the_bins() -> None:
    """Naeini et al. 2015: 0.9 where 1 of 2 is right, 0.2 where none of 2 is: (2 * 0.4 + 2 * 0.2) / 4."""
    sure, right = [0.9, 0.9, 0.2, 0.2], [True, False, False, False]
    assert calibration_error(sure, right).value == pytest.approx(0.3)
    assert reliability(sure, right) == [(0.2, 0.0, 2), (0.9, 0.5, 2)]
    assert calibration_error([1.0] * 3, [True] * 3).metric().value == 0


def test_coverage_gives_the_surest_first() -> None:
    """Those of one confidence are answered together."""
    found = coverage([0.5, 0.9, 0.9, 0.1], [False, True, False, True])
    assert found == [(0.5, 0.5), (0.75, pytest.approx(2 / 3)), (1.0, 0.5)]
