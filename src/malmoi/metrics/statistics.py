"""Metrics as sums over examples, so that every one of them has an interval and can be compared in pairs.

A `Statistic` keeps a row of numbers for each example and a function from their sums to the value: accuracy
sums (right, 1), entity F1 sums (found and true, found, true), BLEU its n-gram counts. What chance may do is
shown by the Bayesian bootstrap (Rubin 1981): examples get random weights, exponential ones, again and again;
with sums, two thousand draws are one matrix product.

The plain bootstrap promises too much of few examples: 40 right ones of 40 have the interval [1, 1]. So for a
bound one example more is weighed with them, which is as bad (for a bound above: as good) as an example can
be (Learned-Miller & Thomas 2019). Of a share these bounds are those of Clopper & Pearson (1934), and of two
methods that are right or wrong on the same examples the p-value is that of McNemar's exact test.

What a network reaches depends on its seed, too (Bouthillier et al. 2021, Accounting for variance in machine
learning benchmarks). Of several runs the mean is taken, in each draw of the weights, and a draw from
Student's t (1908) is added: what so many runs leave open of the mean of all. To draw one of the runs instead
promises too much of few of them, as `docs/decisions.md` says.

Shape letters: E examples, G groups of them, K numbers of each, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, Self, cast

import numpy as np
from numpy.typing import NDArray

from malmoi.core.nouns import Entity, Metric

if TYPE_CHECKING:  # each is loaded by the metrics that need it
    from scipy.sparse import csr_array

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Texts = Sequence[str | None]  # None: no prediction, which scores as an empty text
References = Sequence[Sequence[str]]  # one or more right texts for each example
End = Literal["worst", "best"]
RESAMPLES, CONFIDENCE = 2000, 0.95
_TAIL = 100 * (1 - CONFIDENCE) / 2  # percent on either side of an interval
CHUNK_NUMBERS = 1 << 22  # sums made at a time


@dataclass(frozen=True, slots=True)
class Statistic:
    """One metric over E examples, not yet summed.

    parts_EK: what each example adds, dense or sparse. combine: values_R from sums_RK. has_interval: False
    where a resample is not like the whole; the signature says why. ends: what the worst and the best possible
    example add, each K numbers; None where there is no such example: then the worst and the best there are.
    groups_E: examples of one number belong together, such as the questions of one text, and get one weight.
    others: the same metric of runs of the same method with other seeds, on the same examples. stream: what
    chance draws of the seeds by; another one for each method.
    """

    parts_EK: Floats | csr_array
    combine: Callable[[Floats], Floats]
    higher_is_better: bool = True
    signature: str = ""
    has_interval: bool = True
    ends: tuple[Floats, Floats] | None = None
    groups_E: Ints | None = None
    others: tuple[Statistic, ...] = ()
    stream: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """(examples, numbers of each)."""
        return cast(tuple[int, int], self.parts_EK.shape)

    @property
    def value(self) -> float:
        """The metric over all examples; of several runs the mean."""
        return float(np.mean(self.values))

    @property
    def values(self) -> list[float]:
        """The metric of each run."""
        return [float(one.combine(_sum(one.parts_EK))[0]) for one in (self, *self.others)]

    @property
    def sign(self) -> int:
        """What turns values so that more is better."""
        return 1 if self.higher_is_better else -1

    def resampled(self, end: End | None = None) -> Floats:
        """values_R over the resamples: the same weights for every statistic of as many groups.

        end: weigh one group more, of the usual size, all of whose examples are as bad or as good as can be.
        """
        if not self.others:
            return self._of_run(end)
        values_R = np.mean([one._of_run(end) for one in (self, *self.others)], axis=0) + self._by_seeds()
        if self.ends is None:
            return values_R
        least, most = sorted(float(self.combine(it.reshape(1, -1))[0]) for it in self.ends)
        return np.clip(values_R, least, most)

    def _by_seeds(self) -> Floats:
        """How far the mean of these runs may be from the mean of all, in each resample."""
        count, random = 1 + len(self.others), np.random.default_rng((1, self.stream))
        return random.standard_t(count - 1, RESAMPLES) * np.std(self.values, ddof=1) / math.sqrt(count)

    def _of_run(self, end: End | None) -> Floats:
        """The same of one run."""
        parts_GK = self._of_groups()
        num_groups, num_sums = cast(tuple[int, int], parts_GK.shape)
        extra_1K = np.zeros((1, num_sums)) if end is None else self._end(end)
        extra_1K = extra_1K * self.shape[0] / max(1, num_groups)
        few_GK, weights_RG = parts_GK.astype(np.float32), weights(num_groups)
        rows = max(1, CHUNK_NUMBERS // max(1, num_sums))
        chunks = (weights_RG[start : start + rows] for start in range(0, RESAMPLES, rows))
        sums = (
            np.asarray(part_RG[:, 1:] @ few_GK, np.float64) + part_RG[:, :1] * extra_1K for part_RG in chunks
        )
        return np.concatenate([self.combine(sums_RK) for sums_RK in sums])

    def metric(self) -> Metric:
        """The value with its 95% interval, if it has one."""
        if not self.has_interval:
            return Metric(self.value, None, self.higher_is_better, self.signature)
        ends: tuple[End, End] = ("worst", "best") if self.higher_is_better else ("best", "worst")
        low_R, high_R = (self.resampled(end) for end in ends)
        bounds = np.nanpercentile(low_R, _TAIL), np.nanpercentile(high_R, 100 - _TAIL)
        interval = min(float(bounds[0]), self.value), max(float(bounds[1]), self.value)
        return Metric(self.value, interval, self.higher_is_better, self.signature)

    def _of_groups(self) -> Floats | csr_array:
        if self.groups_E is None:
            return self.parts_EK
        numbers_E = np.unique(self.groups_E, return_inverse=True)[1]
        cells = [(int(group), example) for example, group in enumerate(numbers_E)]
        return counts_at(cells, int(numbers_E.max(initial=-1)) + 1, len(cells)) @ self.parts_EK

    def _end(self, end: End) -> Floats:
        if self.ends is not None:
            return self.ends[end == "best"].reshape(1, -1)
        rows_EK = np.asarray(self.parts_EK)
        own_E = self.sign * self.combine(rows_EK)
        return rows_EK[[own_E.argmin() if end == "worst" else own_E.argmax()]]


def _sum(parts_EK: Floats | csr_array) -> Floats:
    return np.asarray(parts_EK.sum(axis=0), dtype=np.float64).reshape(1, -1)


@dataclass(frozen=True, slots=True)
class Difference:
    """How much better `a` is than `b` on the same examples (positive: better, whatever the metric)."""

    value: float
    interval: tuple[float, float]  # 95%
    p: float  # two-sided

    @property
    def significant(self) -> bool:
        """Whether zero is outside what chance explains, at 5%."""
        return self.p < 1 - CONFIDENCE


@dataclass(frozen=True, slots=True)
class Resampled:
    """A statistic's value, and values_R with one group more that is as bad, and as good, as can be."""

    value: float
    worst_R: Floats
    best_R: Floats
    sign: int

    @classmethod
    def of(cls, statistic: Statistic) -> Self:
        """Both ends: of texts that takes a second."""
        worst_R, best_R = statistic.resampled("worst"), statistic.resampled("best")
        return cls(statistic.value, worst_R, best_R, statistic.sign)

    def least_lead(self, other: Resampled) -> Floats:
        """leads_R before the other one, positive where this is better; the group more speaks against this."""
        return self.sign * (self.worst_R - other.best_R)

    def most_lead(self, other: Resampled) -> Floats:
        """The same, where the group more speaks for this one."""
        return self.sign * (self.best_R - other.worst_R)


def difference(a: Resampled, b: Resampled) -> Difference:
    """Compare two methods by one metric on the same examples, in the same order."""
    least_R, most_R, value = a.least_lead(b), a.most_lead(b), a.sign * (a.value - b.value)
    interval = float(np.nanpercentile(least_R, _TAIL)), float(np.nanpercentile(most_R, 100 - _TAIL))
    p = min(p_value(least_R > 0), p_value(most_R < 0))
    return Difference(value, (min(interval[0], value), max(interval[1], value)), min(1.0, 2 * p))


def p_value(holds_R: NDArray[np.bool_]) -> float:
    """How probable what was measured is, at most, where a claim is wrong that holds in these resamples.

    One is added to both counts: a finite number never shows a p of 0 (Davison & Hinkley 1997).
    """
    return (1 + int((~holds_R).sum())) / (len(holds_R) + 1)


def holm(p_values: Mapping[str, float], level: float = 1 - CONFIDENCE) -> set[str]:
    """Of several claims those that are shown, so that none of them is wrong but with probability `level`.

    Holm (1979): the smallest p against level / m, the next against level / (m - 1), until one fails.
    """
    shown: set[str] = set()
    for at, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        if p_values[name] > level / (len(p_values) - at):
            break
        shown.add(name)
    return shown


@lru_cache(maxsize=3)
def weights(num_groups: int) -> NDArray[np.float32]:
    """weights_RG of one group more than `num_groups`, which stands first; the same on every call."""
    random = np.random.default_rng(0)
    extra_R1 = random.standard_exponential((RESAMPLES, 1), dtype=np.float32)
    return np.concatenate(
        (extra_R1, random.standard_exponential((RESAMPLES, num_groups), dtype=np.float32)), 1
    )


def mean(values_E: Floats, *, higher_is_better: bool = True, signature: str = "") -> Statistic:
    """The mean of one number per example, each from 0 to 1."""
    return share(values_E, np.ones(len(values_E)), higher_is_better=higher_is_better, signature=signature)


def share(
    above_E: Floats, below_E: Floats, *, higher_is_better: bool = True, signature: str = ""
) -> Statistic:
    """sum(above) / sum(below), 0 where the second is 0; no `above` is larger than its `below`."""
    found = ratio(above_E, below_E, higher_is_better=higher_is_better, signature=signature)
    usual = float(below_E.mean()) if len(below_E) else 1.0
    none, all_of_it = np.array((0.0, usual)), np.array((usual, usual))
    return replace(found, ends=(none, all_of_it) if higher_is_better else (all_of_it, none))


def ratio(
    above_E: Floats, below_E: Floats, *, higher_is_better: bool = True, signature: str = ""
) -> Statistic:
    """sum(above) / sum(below), 0 where the second is 0."""
    parts_E2 = np.stack((above_E, below_E), axis=1).astype(np.float64)
    return Statistic(parts_E2, _quotient, higher_is_better, signature)


def _quotient(sums_RK: Floats) -> Floats:
    above_R, below_R = sums_RK[:, 0], sums_RK[:, 1]
    return np.divide(above_R, below_R, out=np.zeros_like(above_R), where=below_R != 0)


def accuracy(predictions: Sequence[object], targets: Sequence[object]) -> Statistic:
    """The share of predictions that equal their target; None never does."""
    right_E = [found is not None and found == true for found, true in zip(predictions, targets, strict=True)]
    return mean(np.array(right_E, dtype=np.float64))


def macro_f1(predictions: Sequence[str | None], targets: Sequence[str]) -> Statistic:
    """The mean of the labels' F1, as scikit-learn's `f1_score(average="macro")`; in a resample, of the labels
    that occur in it."""
    return _by_label([_alone(label) for label in predictions], [*map(_alone, targets)], _macro_f1)


def balanced_accuracy(predictions: Sequence[str | None], targets: Sequence[str]) -> Statistic:
    """The mean of the labels' recall, as scikit-learn's `balanced_accuracy_score`; in a resample, of the
    labels of its targets."""
    found, true = [_alone(label) for label in predictions], [*map(_alone, targets)]
    return _by_label(found, true, lambda sums_RK: _mean_quotient(sums_RK[:, ::3], sums_RK[:, 2::3]))


def _alone(label: str | None) -> tuple[str, ...]:
    return () if label is None else (label,)


def label_set_scores(
    predictions: Sequence[Collection[str] | None], targets: Sequence[Collection[str]]
) -> dict[str, Statistic]:
    """Micro and macro F1 of sets of labels, as scikit-learn's `f1_score`, and the share of sets that are
    right as a whole (`accuracy_score`, subset accuracy). No prediction is an empty set that is not right."""
    found, true = [set(it or ()) for it in predictions], [set(it) for it in targets]
    counts = [(len(a & b), len(a), len(b)) for a, b in zip(found, true, strict=True)]
    right_E, found_E, true_E = np.array(counts, dtype=np.float64).reshape(-1, 3).T
    whole = [None if it is None else one for it, one in zip(predictions, found, strict=True)]
    return {
        "micro_f1": share(2 * right_E, found_E + true_E),
        "macro_f1": _by_label(found, true, _macro_f1),
        "exact_match": accuracy(whole, true),
    }


def _by_label(
    predictions: Sequence[Collection[str]], targets: Sequence[Collection[str]],
    combine: Callable[[Floats], Floats],
) -> Statistic:  # fmt: skip
    """Of every label: how often it is right, found and true, one after the other."""
    pairs = [*zip(predictions, targets, strict=True)]
    column = {label: 3 * at for at, label in enumerate(sorted(set().union(*predictions, *targets)))}
    cells = [(row, column[label] + 2) for row, (_, true) in enumerate(pairs) for label in true]
    cells += [(row, column[label] + 1) for row, (found, _) in enumerate(pairs) for label in found]
    cells += [(row, column[label]) for row, (found, true) in enumerate(pairs) for label in {*found} & {*true}]
    parts_EK = counts_at(cells, len(pairs), 3 * len(column))
    true_K = np.repeat(_sum(parts_EK)[0, 2::3], 3) / max(1, len(pairs))  # an example of every label's share
    worst_K = true_K * np.tile((0.0, 1.0, 1.0), len(column))
    return Statistic(parts_EK, combine, ends=(worst_K, true_K))


def _macro_f1(sums_RK: Floats) -> Floats:
    right_RL, found_RL, true_RL = (sums_RK[:, first::3] for first in range(3))
    return _mean_quotient(2 * right_RL, found_RL + true_RL)


def _mean_quotient(above_RL: Floats, below_RL: Floats) -> Floats:
    """The mean over the labels of which there is any."""
    found_RL = np.divide(above_RL, below_RL, out=np.zeros_like(below_RL), where=below_RL > 0)
    return found_RL.sum(axis=1) / np.maximum(1, (below_RL > 0).sum(axis=1))


def counts_at(cells: Sequence[tuple[int, int]], num_rows: int, num_columns: int) -> csr_array:
    """How often each (row, column) is among `cells`."""
    from scipy.sparse import csr_array

    rows, columns = np.array(cells, dtype=np.int64).reshape(-1, 2).T
    return csr_array((np.ones(len(rows)), (rows, columns)), shape=(num_rows, num_columns))


def entity_scores(
    predictions: Sequence[Sequence[Entity] | None], targets: Sequence[Sequence[Entity]]
) -> dict[str, Statistic]:
    """Micro F1, precision and recall of entities; one is right where start, end and label are.

    Equal to seqeval's where the spans are those of BIO tags.
    """
    sets = [(set(found or ()), set(true)) for found, true in zip(predictions, targets, strict=True)]
    counts = [(len(found & true), len(found), len(true)) for found, true in sets]
    right_E, found_E, true_E = np.array(counts, dtype=np.float64).reshape(-1, 3).T
    signature = "strict spans, micro"
    return {
        "entity_f1": share(2 * right_E, found_E + true_E, signature=signature),
        "precision": share(right_E, found_E, signature=signature),
        "recall": share(right_E, true_E, signature=signature),
    }


def bits_per_byte(log_likelihoods: Sequence[float], targets: Sequence[str]) -> Statistic:
    """Bits for each UTF-8 byte of the targets, from their log-likelihoods in nats; lower is better."""
    bits_E = -np.array(log_likelihoods) / math.log(2)
    return ratio(bits_E, np.array([len(text.encode()) for text in targets]), higher_is_better=False)


def word_perplexity(log_likelihoods: Sequence[float], targets: Sequence[str]) -> Statistic:
    """exp(nats for each word between spaces of the targets); lower is better."""
    words_E = np.array([len(text.split()) for text in targets])
    nats = ratio(-np.array(log_likelihoods), words_E)
    return Statistic(nats.parts_EK, lambda sums_RK: np.exp(nats.combine(sums_RK)), higher_is_better=False)
