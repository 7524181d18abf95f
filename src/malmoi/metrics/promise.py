"""How many answers may be given alone, so that at most such a share of them is wrong as was asked for.

Learn then test (Angelopoulos et al. 2021): a bound on the confidence is a hypothesis, "of the answers above
it more than `most` are wrong", which labelled examples refute or not by the exact binomial test. The bounds
are tried in an order that does not depend on these examples, from a strict one to the loosest, and the first
that is not refuted ends it: so all of them together are wrong with the probability of one test at most (fixed
sequence testing; Bauer 1991). No distribution is assumed, only that the examples are like those to come.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from malmoi.metrics.statistics import CONFIDENCE

PARTS = 5  # of the examples, when each is answered by a bound that the others show


@dataclass(frozen=True, slots=True)
class Promise:
    """Answers of at least this confidence are wrong in at most `most` of them, with 95% confidence.

    count, answered, wrong: of the examples that show it, all, those above the bound, the wrong ones of those.
    """

    confidence: float
    most: float
    count: int
    answered: int
    wrong: int


def promise(
    confidences: Sequence[float], right: Sequence[bool], levels: Sequence[float], most: float
) -> Promise | None:
    """The loosest bound that these examples show. None: they show none.

    levels: confidences of other examples in even steps, from which the bounds and their order come.
    """
    sure_N, wrong_N = np.array(confidences), ~np.array(right, dtype=bool)
    bounds_B = np.array(_in_order(levels, len(sure_N), most))
    above_BN = sure_N >= bounds_B[:, None]
    answered_B, wrong_B = above_BN.sum(axis=1), (above_BN & wrong_N).sum(axis=1)
    shown = list(takewhile(bool, _binomial_below(wrong_B, answered_B, most) <= 1 - CONFIDENCE))
    if not shown:
        return None
    last = len(shown) - 1
    return Promise(float(bounds_B[last]), most, len(sure_N), int(answered_B[last]), int(wrong_B[last]))


def cross_fitted(
    confidences: Sequence[float], right: Sequence[bool], levels: Sequence[float], most: float,
    groups: Sequence[int] | None = None,
) -> tuple[Promise | None, list[bool]]:  # fmt: skip
    """What all examples show, and which of their answers are given alone where each one's bound is shown by
    the other parts only (PARTS of them): so the same examples can also measure what comes of a bound.

    groups: numbers, equal where examples belong together. These lie in one part, and only the first one of
    each group shows anything, as the test takes examples for independent.
    """
    sure_N, right_N = np.array(confidences), np.array(right, dtype=bool)
    owner_N = np.arange(len(sure_N)) if groups is None else np.unique(groups, return_inverse=True)[1]
    part_N, first_N = owner_N % PARTS, np.zeros(len(sure_N), dtype=bool)
    first_N[np.unique(owner_N, return_index=True)[1]] = True

    def shown(by_N: NDArray[np.bool_]) -> Promise | None:
        return promise(sure_N[by_N].tolist(), right_N[by_N].tolist(), levels, most)

    alone_N = np.zeros(len(sure_N), dtype=bool)
    for part in range(PARTS):
        if found := shown(first_N & (part_N != part)):
            alone_N |= (part_N == part) & (sure_N >= found.confidence)
    return shown(first_N), alone_N.tolist()


def _in_order(levels: Sequence[float], count: int, most: float) -> list[float]:
    """The bounds, from that which so many examples should refute most surely if the confidences are right."""
    bounds = sorted(levels, reverse=True)
    share_B = np.arange(1, len(bounds) + 1) / len(bounds)
    expected_B = count * share_B
    wrong_B = expected_B * (1 - np.cumsum(bounds) / np.arange(1, len(bounds) + 1))
    p_B = _binomial_below(wrong_B.round().astype(int), expected_B.round().astype(int), most)
    return [*bounds[int(np.argmin(p_B)) :], 0.0]


def fewest(most: float) -> int:
    """Examples that show a share of `most` at best: none of them wrong."""
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(1 - most))


def _binomial_below(wrong_B: NDArray[Any], answered_B: NDArray[Any], most: float) -> NDArray[np.float64]:
    """The probability of so few wrong ones where the share is `most`; 1 where nothing is answered."""
    from scipy.special import bdtr

    return bdtr(wrong_B, answered_B, most)
