"""What a comparison found, as one value: who won, where they differ, what a student kept of its teacher."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from malmoi.compare.judging import Judgement
from malmoi.compare.settings import ComparisonSettings, Material
from malmoi.compare.verdict import (
    PER,
    MethodRow,
    Verdict,
    count_of_costs,
    saving,
    show_cost,
    with_interval,
)  # fmt: skip
from malmoi.core.nouns import Examples, Metric
from malmoi.methods.use import WINNER
from malmoi.metrics.statistics import Floats
from malmoi.util.units import counted, figures, human_bytes, latency

SHOWN = 10  # examples of each side
LABELS = 12  # of a confusion matrix; the rarer ones are OTHER
MOST_LABELS = 50  # of a table of labels
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


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that is shown of it."""

    settings: ComparisonSettings
    out: Path
    material: Material
    verdict: Verdict
    advice: str
    curve: dict[str, list[tuple[int, Metric]]]  # method -> training examples and the metric after them
    shots_curve: dict[str, list[tuple[int, Metric]]]  # method -> shots and the metric with them
    shots_notes: list[str]
    contrasts: list[Contrast]
    confusions: dict[str, Confusion]  # of every method, where the task is to choose a label
    machine: str
    versions: dict[str, str]
    isolated: bool  # each method in processes of its own
    judgement: Judgement | None = None  # what a language model says of the texts, where it is asked

    @property
    def rows(self) -> list[MethodRow]:
        """Every method, best first, the failed ones last."""
        return [*self.verdict.ranking, *self.verdict.left_out]

    @property
    def winner_folder(self) -> Path:
        """The winner, ready to use (where there is one)."""
        return self.out / WINNER

    @property
    def cost_unit(self) -> str:
        """What costs are counted in."""
        return self.settings.currency if self.settings.price_per_hour else "s"

    @property
    def cost_count(self) -> int:
        """How many predictions the shown costs are of."""
        return count_of_costs(row.cost for row in self.rows if row.costs)

    def cost(self, row: MethodRow) -> str:
        """What `cost_count` predictions of a method cost."""
        return show_cost(row.cost, self.cost_count)


def label_scores(verdict: Verdict, material: Material) -> list[tuple[str, int, list[float]]]:
    """Of sets of labels: a label, how many test examples have it, and its F1 of each method in the ranking;
    the most frequent labels first."""
    test = material.test if material.task.kind.is_set else ()
    counts = Counter(label for example in test for label in example.target)
    return [
        (label, count, [_label_f1(row.predictions, test, label) for row in verdict.ranking])
        for label, count in counts.most_common(MOST_LABELS)
    ]


def _label_f1(predictions: Sequence[Sequence[str] | None], test: Examples, label: str) -> float:
    pairs = [
        (label in (found or ()), label in one.target) for found, one in zip(predictions, test, strict=True)
    ]
    return 2 * pairs.count((True, True)) / sum(map(sum, pairs))


# ---- errors side by side


def contrasts(verdict: Verdict, material: Material) -> list[Contrast]:
    """Each pair of neighbours in the ranking; texts by the task's own metric where all have it."""
    primary = material.task.metric
    metric = primary if all(primary in row.statistics for row in verdict.ranking) else verdict.metric
    scored = [(row, _scores_E(row, metric, material)) for row in verdict.ranking]
    return [_contrast(a, b, a_E - b_E, material) for (a, a_E), (b, b_E) in pairwise(scored)]


def _scores_E(row: MethodRow, metric: str, material: Material) -> Floats:
    """1 where right and 0 where wrong; for text each example's own value of the metric, more is better."""
    if not material.texts:
        right = map(material.task.is_right, row.predictions, material.test)
        return np.array([*right], dtype=np.float64)
    statistic = row.statistics[metric]
    values_E = statistic.combine(np.asarray(statistic.parts_EK))
    return values_E if statistic.higher_is_better else -values_E


def _contrast(a: MethodRow, b: MethodRow, gaps_E: Floats, material: Material) -> Contrast:
    counts = int((gaps_E > 0).sum()), int((gaps_E < 0).sum())
    orders = np.argsort(-gaps_E, kind="stable"), np.argsort(gaps_E, kind="stable")
    numbers = [order[: min(SHOWN, count)] for order, count in zip(orders, counts, strict=True)]
    first, second = ([_case(a, b, int(number), material) for number in side] for side in numbers)
    return Contrast((a.name, b.name), (first, second), counts)


def _case(a: MethodRow, b: MethodRow, number: int, material: Material) -> Case:
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
    """Of each method, where the task is to choose a label."""
    targets = [example.target for example in material.test]
    labelled = verdict.ranking if material.task.kind.is_choice else ()
    return {row.name: confusion(row.predictions, targets) for row in labelled}


def confusion(predictions: list[Any], targets: list[str]) -> Confusion:
    """The most frequent labels, most frequent first; OTHER stands for the rest and for no prediction."""
    labels = [label for label, _ in Counter(targets).most_common(LABELS)]
    known = dict(zip(labels, labels, strict=True))
    taken = zip(targets, predictions, strict=True)
    pairs = Counter((known.get(y, OTHER), known.get(x, OTHER)) for y, x in taken)
    labels += [OTHER] if any(OTHER in pair for pair in pairs) else []
    return Confusion(labels, [[pairs[y, x] for x in labels] for y in labels])


# ---- what a student has kept of its teacher


def sentence(found: Comparison, teacher: str, student: str, *, by_people: bool) -> str:
    """Of two rows of a comparison; by_people: the right answers are people's, not the teacher's own."""
    rows = {row.name: row for row in found.rows}
    old, new, metric, words = rows[teacher], rows[student], found.verdict.metric, found.verdict.words
    for row in (old, new):
        if row.error or metric not in row.metrics:
            reason = f"failed: {row.error}" if row.error else f"has no {words}"
            return f"What was kept cannot be told: {row.name} {reason}."
    quality, number = found.verdict.quality, len(found.material.test)
    if by_people:
        of = f"({quality(new)} against {quality(old)} on {counted(number, 'example')} labelled by people)"
        text = f"{student} keeps {kept(old, new, metric)} of the {words} of {teacher} {of}."
    else:
        text = (
            f"{student} agrees with {teacher} by {words} {with_interval(new, metric)} on "
            f"{counted(number, 'held-out input')}; how right either "
            "is cannot be told, for people have labelled none."
        )
    paid = found.settings.methods[teacher].get("currency", "")
    return f"{text} {_costs(old, new, found.cost_unit, paid)}"


def kept(old: MethodRow, new: MethodRow, metric: str) -> str:
    """The new row's quality in percent of the old one's, with its 95% interval (paired bootstrap)."""
    a, b = new.statistics[metric], old.statistics[metric]
    if not a.higher_is_better:
        a, b = b, a
    if b.value == 0:
        return "an unknown share (of nothing)"
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = np.nanpercentile(a.resampled() / b.resampled(), (2.5, 97.5))
    return f"{a.value / b.value:.1%} [{low:.1%}, {high:.1%}]"


def _costs(old: MethodRow, new: MethodRow, unit: str, paid_in: str) -> str:
    a, b = new.costs, old.costs
    times = b["latency_p50_s"] / a["latency_p50_s"]
    speed = f"{figures(times, 2)}x faster" if times >= 1 else f"{figures(1 / times, 2)}x slower"
    here, there = (human_bytes(costs["predict_peak_bytes"]) for costs in (a, b))
    count = count_of_costs([new.cost, old.cost])
    cost = f"{show_cost(new.cost, count)} {unit} instead of {show_cost(old.cost, count)} {unit}"
    cost += f" ({saving(new, old)})" if new.cost < old.cost else ""
    if unit == "s" and "price_per_1000" in b:
        cost += (
            f"; those of the teacher are paid with {show_cost(b['price_per_1000'], count)} {paid_in}".rstrip()
        )
    return (
        f"It answers {speed} ({latency(a['latency_p50_s'])} instead of {latency(b['latency_p50_s'])}), takes "
        f"{here} of memory instead of {there}, and {PER[count]} predictions cost {cost}."
    )
