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

import numpy as np

from malmoi.metrics.statistics import CONFIDENCE

FIRST = (
    4  # times the fewest examples that could refute anything, all right, are expected above the first bound
)


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
    found: Promise | None = None
    for bound in _in_order(levels, len(sure_N), most):
        above_N = sure_N >= bound
        answered, wrong = int(above_N.sum()), int(wrong_N[above_N].sum())
        if _binomial_below(wrong, answered, most) > 1 - CONFIDENCE:
            break
        found = Promise(bound, most, len(sure_N), answered, wrong)
    return found


def _in_order(levels: Sequence[float], count: int, most: float) -> list[float]:
    """The bounds, from that which so many examples should refute most surely if the confidences are right."""
    bounds = sorted(levels, reverse=True)
    share_B = np.arange(1, len(bounds) + 1) / len(bounds)
    expected_B = count * share_B
    wrong_B = expected_B * (1 - np.cumsum(bounds) / np.arange(1, len(bounds) + 1))
    p_B = [_binomial_below(*pair, most) for pair in zip(wrong_B.round(), expected_B.round(), strict=True)]
    return [*bounds[int(np.argmin(p_B)) :], 0.0]


def fewest(most: float) -> int:
    """Examples that show a share of `most` at best: none of them wrong."""
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(1 - most))


def _binomial_below(wrong: float, answered: float, most: float) -> float:
    """The probability of so few wrong ones where the share is `most`."""
    from scipy.stats import binom

    return float(binom.cdf(wrong, answered, most)) if answered else 1.0
