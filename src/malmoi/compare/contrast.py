"""Errors side by side: what one of two methods gets right and the other does not, and confusion matrices."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from malmoi.compare.settings import Material
from malmoi.compare.verdict import Row, Verdict
from malmoi.core.nouns import Answer, Example
from malmoi.metrics.statistics import Floats

SHOWN = 10  # examples of each side
LABELS = 12  # of a confusion matrix; the rarer ones are OTHER
OTHER = "(other)"
Case = tuple[str, ...]  # one example as text: what went in, what is right, what each of the two said


@dataclass(frozen=True, slots=True)
class Contrast:
    """Two neighbours of the ranking. For text, the largest gaps of the metric in both directions."""

    names: tuple[str, str]  # the better one first
    cases: tuple[list[Case], list[Case]]  # where only the first, only the second is right (or is better)
    counts: tuple[int, int]  # of all such examples


@dataclass(frozen=True, slots=True)
class Confusion:
    """counts[i][j]: examples of labels[i] that were predicted as labels[j]."""

    labels: list[str]
    counts: list[list[int]]


def contrasts(verdict: Verdict, material: Material) -> list[Contrast]:
    """Each pair of neighbours in the ranking; texts by the task's own metric where all have it."""
    primary = material.task.primary
    metric = primary if all(primary in row.statistics for row in verdict.ranking) else verdict.metric
    scored = [(row, _scores_E(row, metric, material)) for row in verdict.ranking]
    return [_contrast(a, b, a_E - b_E, material) for (a, a_E), (b, b_E) in pairwise(scored)]


def _scores_E(row: Row, metric: str, material: Material) -> Floats:
    """1 where right and 0 where wrong; for text each example's own value of the metric, more is better."""
    if not material.texts:
        right = [_is_right(*pair) for pair in zip(row.predictions, material.test, strict=True)]
        return np.array(right, dtype=np.float64)
    statistic = row.statistics[metric]
    values_E = statistic.combine(np.asarray(statistic.parts_EK))
    return values_E if statistic.higher_is_better else -values_E


def _is_right(prediction: Any, example: Example[Any, Any]) -> bool:
    if isinstance(prediction, Answer):
        return prediction.text in {answer.text for answer in example.references}
    return prediction in example.references


def _contrast(a: Row, b: Row, gaps_E: Floats, material: Material) -> Contrast:
    counts = int((gaps_E > 0).sum()), int((gaps_E < 0).sum())
    orders = np.argsort(-gaps_E, kind="stable"), np.argsort(gaps_E, kind="stable")
    numbers = [order[: min(SHOWN, count)] for order, count in zip(orders, counts, strict=True)]
    first, second = ([_case(a, b, int(number), material) for number in side] for side in numbers)
    return Contrast((a.name, b.name), (first, second), counts)


def _case(a: Row, b: Row, number: int, material: Material) -> Case:
    task, example = material.task, material.test[number]
    answers = (example.target, a.predictions[number], b.predictions[number])
    shown = (task.input_json(example.input), *(task.to_json(answer, example.input) for answer in answers))
    return tuple(as_text(value) for value in shown)


def as_text(value: Any) -> str:
    """Words for a JSON value: what a person wants to read of it."""
    if isinstance(value, dict):
        return " · ".join(as_text(part) for part in value.values() if not isinstance(part, int))
    if isinstance(value, list):
        return "\n".join(as_text(part) for part in value) or "(none)"
    return "(none)" if value is None else str(value)


def confusions(verdict: Verdict, material: Material) -> dict[str, Confusion]:
    """Of each method of a task of kind `label`."""
    targets = [example.target for example in material.test]
    labelled = verdict.ranking if material.task.kind == "label" else ()
    return {row.name: confusion(row.predictions, targets) for row in labelled}


def confusion(predictions: list[Any], targets: list[str]) -> Confusion:
    """The most frequent labels, most frequent first; OTHER stands for the rest and for no prediction."""
    labels = [label for label, _ in Counter(targets).most_common(LABELS)]
    known = dict(zip(labels, labels, strict=True))
    taken = zip(targets, predictions, strict=True)
    pairs = Counter((known.get(y, OTHER), known.get(x, OTHER)) for y, x in taken)
    labels += [OTHER] if any(OTHER in pair for pair in pairs) else []
    return Confusion(labels, [[pairs[y, x] for x in labels] for y in labels])
