"""How an error falls with the number of labels: an inverse power law, and what it says of more of them.

error(n) = a + b ((n + n0) / (N + n0))^-c. Learning curves of many tasks have this form (Cortes et al. 1994,
Learning curves: asymptotic values and rate of convergence; Hestness et al. 2017, Deep learning scaling is
predictable, empirically); n0 is for those that are flat at first, as with many labels of few examples each
(pow4 in Domhan et al. 2015, Speeding up automatic hyperparameter optimization). With a handful of noisy
points a, b, c and n0 cannot be told apart, and the one best fit looks far too sure of itself. So all shapes
on a grid of a, c and n0 are kept, each weighted by how well it fits and by how usual it is, and a forecast is
drawn from them. What is usual was chosen by the forecasts of bench/plan.py.

Shape letters: P points, G shapes on the grid, D draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
EXPONENTS = np.geomspace(0.05, 1.6, 40)
ASYMPTOTES = np.append(np.linspace(0.0, 0.98, 50), 0.995)  # as shares of the lowest measured error
USUAL_EXPONENT, SPREAD = 0.35, 0.7  # the prior of c: log-normal (c from 0.07 to 0.35 in Hestness et al.)
STARTS = (0.0, 0.1, 0.3, 1.0)  # n0, as shares of the largest count
USUAL_STARTS = (4.0, 2.0, 1.0, 0.5)  # the prior of n0, not normalized
NEAR = 0.02  # the prior of a: (1 - share)^3 + NEAR, as where labels are few the end is mostly far
DRIFT = 0.2  # of what is learned since, for each halving: how far a part may be off any power law
DRAWS = 4000


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """Shapes with their weights. scale_G, deviation_G: b given the others, and how unsure it is."""

    largest: float  # N
    asymptote_G: Floats
    exponent_G: Floats
    start_G: Floats  # n0
    scale_G: Floats
    deviation_G: Floats
    weight_G: Floats

    def draws(self, counts: Sequence[float], seed: int = 0) -> Floats:
        """errors_DC at each of the counts: DRAWS curves, the same for the same seed."""
        random = np.random.default_rng(seed)
        chosen_D = random.choice(len(self.weight_G), DRAWS, p=self.weight_G)
        scale_D = self.scale_G[chosen_D] + self.deviation_G[chosen_D] * random.standard_normal(DRAWS)
        start_D1 = self.start_G[chosen_D, None]
        ratio_DC = (np.asarray(counts, dtype=np.float64) + start_D1) / (self.largest + start_D1)
        powers_DC = ratio_DC ** -self.exponent_G[chosen_D, None]
        return self.asymptote_G[chosen_D, None] + np.maximum(scale_D, 0.0)[:, None] * powers_DC


def fit_power_law(
    count_P: Sequence[float], error_P: Sequence[float], deviation_P: Sequence[float]
) -> PowerLaw:
    """The shapes that three or more points allow. deviation_P: the standard error of each.

    Where a method has learned nothing yet its curve is flat, and the power law begins later; so a part says
    the less, the smaller it is (DRIFT).
    Raises ValueError where there are fewer than three different counts, or a number is not finite, or a count
    or deviation is not above 0, or an error is below 0.
    """
    n_P, e_P, s_P = (np.asarray(values, dtype=np.float64) for values in (count_P, error_P, deviation_P))
    if len(set(n_P.tolist())) < 3:
        raise ValueError("a learning curve needs three different counts")
    if not (np.isfinite(n_P).all() and np.isfinite(e_P).all() and np.isfinite(s_P).all()):
        raise ValueError("a number of the learning curve is not finite")
    if (n_P <= 0).any() or (s_P <= 0).any() or (e_P < 0).any():
        raise ValueError("counts and deviations must be above 0, errors not below 0")
    grids: Any = np.meshgrid(ASYMPTOTES, EXPONENTS, np.arange(len(STARTS)))
    share_G, exponent_G, at_G = (grid.ravel() for grid in grids)
    asymptote_G, start_G = share_G * e_P.min(), np.array(STARTS)[at_G] * n_P.max()
    x_GP = ((n_P + start_G[:, None]) / (n_P.max() + start_G[:, None])) ** -exponent_G[:, None]
    last = e_P[n_P == n_P.max()].mean()
    drift_P = DRIFT * np.abs(e_P - last) * np.log2(n_P.max() / n_P)
    left_GP, w_P = e_P[None] - asymptote_G[:, None], 1 / (s_P**2 + drift_P**2)
    precision_G = (w_P * x_GP**2).sum(axis=1)
    scale_G = np.maximum((w_P * x_GP * left_GP).sum(axis=1) / precision_G, 0.0)
    misfit_G = (w_P * (left_GP - scale_G[:, None] * x_GP) ** 2).sum(axis=1)
    unusual_G = (np.log(exponent_G / USUAL_EXPONENT) / SPREAD) ** 2
    usual_G = np.log((1 - share_G) ** 3 + NEAR) + np.log(np.array(USUAL_STARTS)[at_G])
    log_G = usual_G - 0.5 * (misfit_G + unusual_G + np.log(precision_G))
    weight_G = np.exp(log_G - log_G.max())
    weight_G /= weight_G.sum()
    return PowerLaw(float(n_P.max()), asymptote_G, exponent_G, start_G, scale_G, precision_G**-0.5, weight_G)
