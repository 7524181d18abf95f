"""Choosing constants by the held-out examples, and what the traditional methods share."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from malmoi.core.nouns import Examples
from malmoi.tasks.base import Task

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

STRENGTHS = (10.0, 1.0, 100.0, 1000.0)  # inverse ones of the penalty of a head on vectors of length one
Setting = TypeVar("Setting", bound=NamedTuple)


def quality(task: Task[Any, Any], predictions: Sequence[Any], examples: Examples) -> float:
    """The task's primary metric; higher is better."""
    statistic = task.statistics(predictions, examples)[task.primary]
    return statistic.value if statistic.higher_is_better else -statistic.value


def best_setting(
    setting: Setting, fields: Mapping[str, Sequence[Any]], value: Callable[[Setting], float]
) -> Setting:
    """`setting` with one field after another at the best of its values by `value`, of equals the first."""
    known = cache(value)
    for name, values in fields.items():
        candidates = [setting._replace(**{name: it}) for it in values]
        setting = max(candidates, key=known) if len(values) > 1 else candidates[0]
    return setting


def softmax_layer(model: LogisticRegression) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """weights_LF and bias_L of a fitted regression, for a softmax over two labels, too."""
    weights_LF, bias_L = np.asarray(model.coef_), np.asarray(model.intercept_)
    if len(weights_LF) == 1:  # the softmax of both halves is the logistic function of the whole
        weights_LF, bias_L = np.concatenate((-weights_LF, weights_LF)) / 2, bias_L * np.array((-0.5, 0.5))
    return weights_LF, bias_L.astype(np.float32)


def fit_head(
    x_ND: NDArray[Any],
    labels_N: NDArray[Any],
    weights_N: NDArray[Any] | None,
    strength: float,
    *,
    iterations: int = 300,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """weights_LD and bias_L of a logistic regression on vectors of length one, for a softmax.

    x_ND: dense or sparse. iterations: of the solver, at most.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=iterations)
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        model.fit(x_ND, labels_N, weights_N)
    weights_LD, bias_L = softmax_layer(model)
    return weights_LD.astype(np.float32), bias_L
