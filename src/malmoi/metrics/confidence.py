"""What a method says of its own answers, held to how often they are right.

From held-out examples that it has not learned from. Label probabilities get a temperature (Guo et al. 2017,
On calibration of modern neural networks); where enough is held out, the largest one is then put where the
share of right answers is, by isotonic regression (Zadrozny & Elkan 2002). Of other answers the logarithm of
the model's probability becomes the share of right ones by a logistic curve over the log-odds (Platt 1999),
or by isotonic regression.

Shape letters: N examples, L labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from malmoi.core.config import StrictModel
from malmoi.metrics.statistics import Floats, Statistic

CALIBRATION_ERROR = "calibration_error"
LEAST = 20  # held-out examples: fewer say too little
MANY = 1000  # from which isotonic regression does better than one with a few parameters
BINS = 10
LEVELS = 100
TINY = 1e-12  # the least probability whose logarithm is taken
_POINTS = 65  # of a logistic curve, which is kept as points
_FAR = 20.0  # log-odds
_SPREAD = 3.0  # the natural logarithm of a temperature lies between this and its negative

Curve = tuple[tuple[float, ...], tuple[float, ...]]


class Calibration(StrictModel):
    """temperature: what the logarithms of label probabilities are divided by. curve: scores (the largest of
    these probabilities, or the logarithm of another answer's) and the probabilities there, rising, between
    which lines are drawn; none: a score is a probability. levels: the confidences of the held-out answers,
    from the lowest to the highest, LEVELS + 1 of them in even steps.
    """

    temperature: float = 1.0
    curve: Curve = ((), ())
    levels: tuple[float, ...] = ()

    @classmethod
    def of_labels(cls, shares: Sequence[Mapping[str, float]], targets: Sequence[str]) -> Self:
        """From each held-out example's label probabilities and its right label."""
        labels = list(shares[0])
        logs_NL = _logs([list(row.values()) for row in shares])
        numbers = {label: number for number, label in enumerate(labels)}
        found_N = np.array([numbers.get(target, -1) for target in targets])
        known_N = found_N >= 0
        plain = cls(temperature=_temperature(logs_NL[known_N], found_N[known_N]))
        probabilities_NL = _softmax(logs_NL / plain.temperature)
        top_N, right_N = probabilities_NL.max(1), probabilities_NL.argmax(1) == found_N
        curve: Curve = _isotonic(top_N, right_N) if len(right_N) >= MANY else ((), ())
        fitted = plain.model_copy(update={"curve": curve})
        tops = [max(fitted.shares(row).values()) for row in shares]
        return fitted.model_copy(update={"levels": _levels(tops)})

    @classmethod
    def of_scores(cls, scores: Sequence[float], right: Sequence[bool]) -> Self:
        """From the logarithm of the probability of each held-out answer, and whether it is right."""
        scores_N, right_N = np.array(scores, dtype=np.float64), np.array(right)
        fitted = cls(curve=(_isotonic if len(right) >= MANY else _logistic)(scores_N, right_N))
        return fitted.model_copy(update={"levels": _levels([fitted.probability(it) for it in scores])})

    def probability(self, score: float) -> float:
        """That an answer of this score is right."""
        at, values = self.curve
        return float(np.interp(score, at, values)) if at else score

    def shares(self, shares: Mapping[str, float]) -> dict[str, float]:
        """Calibrated probabilities of the labels: their order stays, and so does the most probable one."""
        found_L = _softmax(_logs([list(shares.values())]) / self.temperature)[0]
        top = int(found_L.argmax())
        others = np.delete(found_L, top)
        rest, second = others.sum(), others.max(initial=0.0)
        if self.curve[0] and rest > 0:
            wanted = max(self.probability(float(found_L[top])), second / (second + rest))
            found_L *= (1.0 - wanted) / rest
            found_L[top] = wanted
        return dict(zip(shares, found_L.tolist(), strict=True))


def _logs(rows: Sequence[Sequence[float]]) -> Floats:
    return np.log(np.maximum(np.array(rows, dtype=np.float64), TINY))


def _softmax(logs_NL: Floats) -> Floats:
    return np.exp(logs_NL - np.logaddexp.reduce(logs_NL, axis=1, keepdims=True))


def _temperature(logs_NL: Floats, right_N: NDArray[np.int64]) -> float:
    """That of the least loss, with one example's weight on leaving all as it is."""
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        probabilities_NL = _softmax(logs_NL / np.exp(log_temperature))
        shares_N = probabilities_NL[np.arange(len(right_N)), right_N]
        return float(log_temperature**2 - np.log(np.maximum(shares_N, TINY)).sum())

    if not len(right_N):
        return 1.0
    found = cast(Any, minimize_scalar(loss, bounds=(-_SPREAD, _SPREAD), method="bounded"))
    return float(np.exp(found.x))


def _isotonic(scores_N: Floats, right_N: NDArray[np.bool_]) -> Curve:
    from sklearn.isotonic import IsotonicRegression

    room = 1 / (len(right_N) + 2)  # nothing is certain
    fitted = IsotonicRegression(y_min=room, y_max=1 - room).fit(scores_N, right_N.astype(np.float64))
    return tuple(fitted.X_thresholds_.tolist()), tuple(fitted.y_thresholds_.tolist())


def _logistic(logs_N: Floats, right_N: NDArray[np.bool_]) -> Curve:
    """Of log-odds, with one right and one wrong answer more, spread over the scores: nothing is certain."""
    from sklearn.linear_model import LogisticRegression

    at = np.unique(np.quantile(logs_N, np.linspace(0, 1, _POINTS)))
    odds_N1, odds_P1 = _log_odds(logs_N)[:, None], _log_odds(at)[:, None]
    y_N = np.concatenate((right_N, np.ones_like(right_N), np.zeros_like(right_N)))
    weights_N = np.repeat([1.0, 1 / len(right_N), 1 / len(right_N)], len(right_N))
    fitted = LogisticRegression(C=1.0).fit(np.concatenate((odds_N1, odds_N1, odds_N1)), y_N, weights_N)
    rises = fitted.coef_[0, 0] > 0  # if not, it does not know when it is right
    values = (
        fitted.predict_proba(odds_P1)[:, 1] if rises else np.full(len(at), y_N @ weights_N / weights_N.sum())
    )
    return tuple(at.tolist()), tuple(values.tolist())


def _log_odds(logs: Floats) -> Floats:
    return np.clip(logs - np.log(np.maximum(-np.expm1(logs), TINY)), -_FAR, _FAR)


def _levels(confidences: Sequence[float]) -> tuple[float, ...]:
    return tuple(np.quantile(confidences, np.linspace(0, 1, LEVELS + 1)).tolist())


# ---- how far off they are


def _bins(confidences: Sequence[float]) -> NDArray[np.int64]:
    return np.minimum((np.array(confidences) * BINS).astype(np.int64), BINS - 1)


def calibration_error(confidences: Sequence[float], right: Sequence[bool]) -> Statistic:
    """How far confidence and the share of right answers are apart, on average over BINS bins of confidence
    (expected calibration error; Naeini et al. 2015). Its resamples are higher than the whole: no interval."""
    bins_N = _bins(confidences)
    parts_NK = np.zeros((len(confidences), BINS + 1))
    parts_NK[np.arange(len(confidences)), bins_N] = np.array(confidences) - np.array(right, dtype=np.float64)
    parts_NK[:, BINS] = 1.0

    def combine(sums_RK: Floats) -> Floats:
        return np.abs(sums_RK[:, :BINS]).sum(axis=1) / np.maximum(sums_RK[:, BINS], 1e-9)

    return Statistic(parts_NK, combine, False, f"{BINS} bins of confidence", has_interval=False)


def reliability(confidences: Sequence[float], right: Sequence[bool]) -> list[tuple[float, float, int]]:
    """Of each bin that has an answer: the mean confidence, the share that is right, how many there are."""
    confidence_N, right_N = np.array(confidences), np.array(right, dtype=np.float64)
    bins_N = _bins(confidences)
    inside = [bins_N == number for number in np.unique(bins_N)]
    return [(float(confidence_N[it].mean()), float(right_N[it].mean()), int(it.sum())) for it in inside]


def coverage(confidences: Sequence[float], right: Sequence[bool]) -> list[tuple[float, float]]:
    """The share that is answered and the share of errors among these answers, where only the surest are given
    (El-Yaniv & Wiener 2010): for each confidence that there is, the highest first."""
    order = np.argsort(-np.array(confidences), kind="stable")
    sure_N, wrong_N = np.array(confidences)[order], ~np.array(right, dtype=bool)[order]
    ends_N = np.append(sure_N[1:] != sure_N[:-1], [True])
    counts_N = np.arange(1, len(order) + 1)
    errors_N = wrong_N.cumsum() / counts_N
    return list(zip((counts_N[ends_N] / len(order)).tolist(), errors_N[ends_N].tolist(), strict=True))
