from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.metrics.power_law import PowerLaw, fit_power_law

COUNTS = [125, 250, 500, 1000]


def curve(a: float, b: float, c: float, counts: list[int] = COUNTS) -> list[float]:
    return [a + b * (n / COUNTS[-1]) ** -c for n in counts]


@pytest.mark.parametrize(
    ("a", "b", "c"), [(0.0, 0.3, 0.3), (0.1, 0.2, 0.5), (0.05, 0.1, 0.2), (0.4, 0.05, 0.4)]
)
def test_a_power_law_is_found_again(a: float, b: float, c: float) -> None:
    law = fit_power_law(COUNTS, curve(a, b, c), [0.002] * 4)
    draws_DC = law.draws([1000, 2000, 4000])
    truth_C = np.array(curve(a, b, c, [1000, 2000, 4000]))
    assert np.abs(np.median(draws_DC, axis=0) - truth_C).max() < 0.03
    low_C, high_C = np.percentile(draws_DC, (2.5, 97.5), axis=0)
    assert ((low_C <= truth_C) & (truth_C <= high_C)).all()


def test_less_is_known_of_what_is_farther_away_and_of_noisier_curves() -> None:
    def width(deviation: float, times: int) -> float:
        draws_D = fit_power_law(COUNTS, curve(0.1, 0.2, 0.5), [deviation] * 4).draws([1000 * times])[:, 0]
        low, high = np.percentile(draws_D, (2.5, 97.5))
        return float(high - low)

    assert width(0.005, 2) < width(0.005, 4) < width(0.03, 4)


def test_errors_that_do_not_fall_are_not_forecast_to_rise_or_vanish() -> None:
    draws_D = fit_power_law(COUNTS, [0.3] * 4, [0.01] * 4).draws([4000])[:, 0]
    assert 0.25 < np.median(draws_D) <= 0.3
    assert not fit_power_law(COUNTS, [0.0] * 4, [0.01] * 4).draws([4000]).max() > 0.05


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 10**6), st.floats(0, 1), st.floats(1e-4, 0.5)), min_size=3, max_size=8)
)
def test_a_forecast_is_a_finite_error_that_never_rises(points: list[tuple[int, float, float]]) -> None:
    counts, errors, deviations = map(list, zip(*points, strict=True))
    if len(set(counts)) < 3:
        with pytest.raises(ValueError, match="three different counts"):
            fit_power_law(counts, errors, deviations)
        return
    law = fit_power_law(counts, errors, deviations)
    draws_DC = law.draws([max(counts), 2 * max(counts), 4 * max(counts)])
    assert np.isfinite(draws_DC).all()
    assert (draws_DC >= 0).all()
    assert (np.diff(draws_DC, axis=1) <= 1e-12).all()
    assert (law.draws([max(counts)]) == law.draws([max(counts)])).all()


@pytest.mark.parametrize(
    ("counts", "errors", "deviations"),
    [
        ([1, 2, 4], [0.1, math.nan, 0.1], [0.1] * 3),
        ([1, 2, 4], [0.1, 0.1, 0.1], [0.1, 0.0, 0.1]),
        ([0, 2, 4], [0.1, 0.1, 0.1], [0.1] * 3),
        ([1, 2, 4], [0.1, -0.1, 0.1], [0.1] * 3),
        ([], [], []),
    ],
)
def test_bad_points_are_refused(counts: list[float], errors: list[float], deviations: list[float]) -> None:
    with pytest.raises(ValueError):
        fit_power_law(counts, errors, deviations)


def test_a_curve_that_begins_late_falls_faster_ahead() -> None:
    asymptote_G, exponent_G, start_G, scale_G, deviation_G, weight_G = np.array(
        [[0.1], [1.0], [500.0], [0.3], [0.0], [1.0]]
    )
    law = PowerLaw(1000.0, asymptote_G, exponent_G, start_G, scale_G, deviation_G, weight_G)
    draws_DC = law.draws([1000, 4000])
    assert np.allclose(draws_DC, [0.1 + 0.3, 0.1 + 0.3 * 1500 / 4500])
    late = [0.5 * ((n + 1000) / 2000) ** -0.8 for n in COUNTS]
    forecast_D = fit_power_law(COUNTS, late, [0.003] * 4).draws([4000])[:, 0]
    assert np.percentile(forecast_D, 2.5) < 0.29  # without a late start 0.31
