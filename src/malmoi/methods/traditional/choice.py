"""Choosing constants by the held-out examples and within a budget, and what the traditional methods share.

Shape letters: N examples, L labels, D and F features.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from malmoi.core.errors import UserError
from malmoi.core.nouns import Budget, Examples, Json, Work, with_note
from malmoi.methods.base import Parts
from malmoi.tasks.base import Task
from malmoi.tasks.kinds import Kind
from malmoi.util.units import counted, human_seconds

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

STRENGTHS = (10.0, 1.0, 100.0, 1000.0)  # inverse ones of the penalty of a head on vectors of length one
LEAST_EXAMPLES = 32  # that a method learns from, however little time there is
LEAST_ITERATIONS = 5  # of its solver
FEWEST_GIVEN = 10  # held-out examples with a label, to choose its threshold by
UNSURE = 0.5  # a threshold for want of a chosen one
CERTAIN = 20.0  # a score of which nobody doubts
Setting = TypeVar("Setting", bound=NamedTuple)
T = TypeVar("T")


def quality(task: Task[Any, Any], predictions: Sequence[Any], examples: Examples) -> float:
    """The task's metric; higher is better."""
    statistic = task.statistics(predictions, examples)[task.metric]
    return statistic.value if statistic.higher_is_better else -statistic.value


@dataclass(slots=True)
class TimeKeeper:
    """Keeps what learns without steps within its budget, and knows what was left out for that.

    A budget without an end leaves out nothing. try_s: how long the slowest try of a setting took, or is
    expected to take. left_out: in words ("5 of 8 settings").
    """

    budget: Budget
    try_s: float = 0.0
    left_out: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, work: Work) -> Self:
        """From here on the budget's time runs."""
        return cls(work.begin().budget)

    @property
    def left_s(self) -> float:
        """Seconds; inf where the time has no end."""
        return self.budget.left_s if self.budget.left_s is not None and self.is_timed else math.inf

    @property
    def is_timed(self) -> bool:
        """Whether the time has an end."""
        return self.budget.end_s < math.inf

    def affords(self, tries: float) -> bool:
        """Whether so many tries of a setting fit in the time that is left."""
        return self.left_s > max(0.0, tries * self.try_s)

    def within(self, share: float) -> bool:
        """Whether less than a `share` of the time is used."""
        return self.left_s > (1 - share) * (self.budget.seconds or 0.0)

    def some(self, items: Sequence[T], share: float, words: str = "examples") -> Iterator[T]:
        """The items of `portions` of LEAST_EXAMPLES, one by one."""
        for portion in self.portions(items, LEAST_EXAMPLES, share, words):
            yield from portion

    def portions(self, items: Sequence[T], size: int, share: float, words: str) -> Iterator[Sequence[T]]:
        """`size` of the items at once, in another order, until a `share` of the time is used.

        Without an end of the time: all of them at once, in their order.
        """
        if not self.is_timed:
            yield items
            return
        order = np.random.default_rng(0).permutation(len(items)).tolist()
        for start in range(0, len(items), size):
            if start and not self.within(share):
                self.left_out.append(f"{len(items) - start:,} of {len(items):,} {words}")
                return
            yield [items[at] for at in order[start : start + size]]

    def best(
        self, setting: Setting, fields: Mapping[str, Sequence[Any]], value: Callable[[Setting], float],
        last: float = 1.0,
    ) -> Setting:  # fmt: skip
        """`setting` with one field after another at the best of its values by `value`, of equals the first.

        The setting itself is tried first. last: how many tries the fit takes that follows; what would leave
        no time for it is not tried.
        """
        known: dict[Setting, float] = {}
        skipped: set[Setting] = set()
        for name, values in fields.items():
            candidates = [setting._replace(**{name: it}) for it in values]
            if len(values) == 1:
                setting = candidates[0]
                continue
            for candidate in sorted(candidates, key=lambda it: it != setting):
                if candidate in known:
                    continue
                if self.affords(1 + last):
                    known[candidate] = self.timed(lambda one=candidate: value(one))
                else:
                    skipped.add(candidate)
            tried = [it for it in candidates if it in known]
            setting = max(tried, key=known.__getitem__) if tried else setting
        if skipped:
            self.left_out.append(f"{len(skipped)} of {len(skipped) + len(known)} settings")
        return setting

    def expect(self, fit: Callable[[int], object], most: int) -> None:
        """Foresee how long a try takes: `fit(n)` makes n iterations of a solver, `most` of them in a try."""
        if self.is_timed and self.affords(0):
            first_s = self._seconds(fit, 1)  # with what comes before it
            each_s = self._seconds(fit, 3) / 3 if self.left_s > 3 * first_s else first_s
            self.try_s = first_s + most * each_s

    def iterations(self, fit: Callable[[int], object], most: int) -> int:
        """How many of `most` iterations of a solver the rest of the time pays for; `fit(n)` makes n of them,
        to see how long they take: what comes before them takes as long every time."""
        count = most
        if self.is_timed:
            count = min(most, LEAST_ITERATIONS)
        if self.is_timed and self.affords(0):
            one_s, three_s = self._seconds(fit, 1), self._seconds(fit, 3)
            each_s = max((three_s - one_s) / 2, three_s / 20, 1e-9)
            count = int(min(most, max(count, (self.left_s - one_s) / each_s + 1)))
        if count < most:
            self.left_out.append(f"{most - count} of {most} iterations")
        return count

    def _seconds(self, fit: Callable[[int], object], iterations: int) -> float:
        before_s = self.left_s
        fit(iterations)
        return before_s - self.left_s

    def also(self, valid: Examples, tries: float) -> Examples:
        """What was chosen by, where there is time for learning from it as well, which takes so many tries."""
        if self.affords(tries):
            return valid
        if valid:
            self.left_out.append(f"learning from the {counted(len(valid), 'example')} that it chose by")
        return ()

    def timed(self, value: Callable[[], T]) -> T:
        """`value()`, which is a try."""
        before_s, found = self.left_s, value()
        if self.is_timed:
            self.try_s = max(self.try_s, before_s - self.left_s)
        return found

    @property
    def note(self) -> str:
        """What was left out: a line for people, or ''."""
        budget = human_seconds(self.budget.seconds or 0.0)
        return f"the budget of {budget} left no time for {', '.join(self.left_out)}" if self.left_out else ""

    def facts(self, train: Examples, valid: Examples) -> Json:
        """For the report: how many examples of each part were learned from at the end, and the note."""
        return with_note({"learned_from": {"train": len(train), "valid": len(valid)}}, self.note)


def missing_labels(seen: Examples, examples: Examples, kind: Kind) -> list[Any]:
    """An example of each label that no example seen has."""
    found = {label: example for example in examples for label in kind.labels(example.target)}
    known = {label for example in seen for label in kind.labels(example.target)}
    return list({id(one): one for label, one in found.items() if label not in known}.values())


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


# ---- sets of labels: a decision for each label


def set_matrix(targets: Sequence[Sequence[str]], labels: Sequence[str]) -> NDArray[np.bool_]:
    """given_NL: which of the labels each target has; those that are not among `labels` are left out."""
    numbers = {label: number for number, label in enumerate(labels)}
    given_NL = np.zeros((len(targets), len(labels)), dtype=bool)
    for row, target in enumerate(targets):
        given_NL[row, [numbers[label] for label in target if label in numbers]] = True
    return given_NL


def sets_above(
    probs_NL: NDArray[Any], thresholds_L: Sequence[float] | NDArray[Any], labels: Sequence[str]
) -> list[tuple[str, ...]]:
    """The labels that reach their thresholds; `labels` are sorted."""
    above_NL = probs_NL >= np.asarray(thresholds_L)
    return [tuple(labels[at] for at in np.flatnonzero(above_L).tolist()) for above_L in above_NL]


def choose_thresholds(probs_NL: NDArray[Any], given_NL: NDArray[np.bool_]) -> list[float]:
    """The probability from which on each label is given: where its F1 on held-out examples is the highest
    (Lipton, Elkan & Naryanaswamy 2014).

    A label that fewer than FEWEST_GIVEN of the examples have gets the one threshold that is best for all
    labels together, by micro F1; where even all labels together are so few, UNSURE.
    """
    together = _best_cut(probs_NL.ravel(), given_NL.ravel()) if given_NL.sum() >= FEWEST_GIVEN else UNSURE
    return [
        _best_cut(probs_N, given_N) if given_N.sum() >= FEWEST_GIVEN else together
        for probs_N, given_N in zip(probs_NL.T, given_NL.T, strict=True)
    ]


class SavedThresholds:
    """Adds a threshold for each label to what the class behind it saves and reads."""

    labels: list[str]
    thresholds: list[float]

    def parts(self) -> Parts:
        """Those of the class behind it, and the thresholds."""
        behind: Any = super()
        parts: Parts = behind.parts()
        parts.config["thresholds"] = self.thresholds
        return parts

    def restore(self, parts: Parts) -> None:
        """The inverse of `parts`. Raises UserError where there is not one number for each label."""
        behind: Any = super()
        behind.restore(parts)
        found = parts.config["thresholds"]
        if len(found) != len(self.labels) or not all(isinstance(one, float | int) for one in found):
            raise UserError("its thresholds do not fit its labels; copy it again or fit it again")
        self.thresholds = list(found)


def _best_cut(probs_N: NDArray[Any], given_N: NDArray[np.bool_]) -> float:
    """The middle between the two neighbours in `probs_N` that give the best F1; of equals the largest.

    Half of the least one where all examples get the label.
    """
    order = np.argsort(-probs_N, kind="stable")
    sorted_N = probs_N[order].astype(np.float64)
    right_N = np.cumsum(given_N[order])
    f1_N = 2 * right_N / (np.arange(1, len(order) + 1) + right_N[-1])
    below_N = np.append(sorted_N[1:], -1.0)
    f1_N[below_N == sorted_N] = -1.0  # equal probabilities are not told apart
    best = int(f1_N.argmax())
    return float(sorted_N[best] + max(0.0, below_N[best])) / 2


def fit_heads(
    x_ND: Any, given_NL: NDArray[np.bool_], strength: float, *, iterations: int = 300,
    ratios: bool = False,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:  # fmt: skip
    """weights_LD and bias_L of a logistic regression for each label (binary relevance).

    x_ND: dense or sparse.
    ratios: features are multiplied by naive Bayes' log-count ratios. A label that all examples have, or none,
    is always given, or never.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    solver = "liblinear" if hasattr(x_ND, "tocsr") else "lbfgs"
    model = LogisticRegression(C=strength, max_iter=iterations, solver=solver, random_state=0)
    weights_LD = np.zeros((given_NL.shape[1], x_ND.shape[1]), dtype=np.float32)
    bias_L = np.zeros(len(weights_LD), dtype=np.float32)
    for label, given_N in enumerate(given_NL.T):
        if given_N.all() or not given_N.any():
            bias_L[label] = CERTAIN if given_N.any() else -CERTAIN
            continue
        scale_D = log_count_ratios(x_ND, given_N) if ratios else 1.0
        scaled_ND = x_ND.multiply(scale_D).tocsr() if ratios else x_ND
        with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
            model.fit(scaled_ND, given_N)
        weights_LD[label] = np.asarray(model.coef_)[0] * scale_D
        bias_L[label] = np.asarray(model.intercept_)[0]
    return weights_LD, bias_L


def sigmoid(scores: NDArray[Any]) -> NDArray[np.float64]:
    """1 / (1 + e^-x), without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(scores, dtype=np.float64)))


def log_count_ratios(rows_NF: Any, positive_N: NDArray[np.bool_]) -> NDArray[np.float64]:
    """ratios_F, nats: how much likelier each feature is where `positive_N`, by summed values plus one
    (Wang & Manning 2012, equation 2)."""
    inside_F, outside_F = (
        1.0 + np.asarray(rows_NF[some_N].sum(axis=0), dtype=np.float64).ravel()
        for some_N in (positive_N, ~positive_N)
    )
    return np.log(inside_F / inside_F.sum()) - np.log(outside_F / outside_F.sum())
