"""Who wins: ranking, significance, the Pareto front, the cheapest method that is good enough, and why.

Nothing is recommended that does not beat the floor: what one and the same answer to everything reaches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from typing import Any

from malmoi.core.nouns import Metric
from malmoi.metrics.statistics import Difference, Statistic, difference
from malmoi.tasks.base import Task
from malmoi.util.units import counted, figures, latency

OF_100 = {"bleu", "chrf"}  # shown as they are, even where they are below 1
FEW = 100  # test examples
MARGIN = 0.02  # of a metric's scale: what the cheaper method may lose to the best at most
SAME_COST = 1.5  # costs within this factor count as equal: timing is no surer than that
PER = {1_000: "1,000", 1_000_000: "1 million", 1_000_000_000: "1 billion"}  # predictions that a cost is of


@dataclass(frozen=True, slots=True)
class MethodRow:
    """One method: its metrics over the test examples and its costs, or why there are none (error).

    costs: unit in the key; `cost_per_1000` predictions is in money where a price is known, else in seconds;
    `busy_cores` is there where other programs kept so many cores busy while predictions were timed.
    """

    name: str
    family: str
    error: str = ""
    statistics: dict[str, Statistic] = field(default_factory=dict)
    metrics: dict[str, Metric] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)
    predictions: list[Any] = field(default_factory=list)
    note: str = ""  # what a reader of the figures should know

    @property
    def cost(self) -> float:
        """Of 1,000 predictions."""
        return self.costs["cost_per_1000"]


@dataclass(frozen=True, slots=True)
class Floor:
    """What one and the same answer to every test example reaches. words: which answer."""

    words: str
    metrics: Mapping[str, Metric]


NO_FLOOR = Floor("", {})


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from the rows by one metric. Every dict is by the method's name."""

    metric: str
    wanted: float | None  # the value that is good enough
    ranking: list[MethodRow]  # best first
    left_out: list[MethodRow]  # failed, or without the metric
    against_best: dict[str, Difference]  # how much better the best is
    against_next: dict[str, Difference]  # how much better it is than the next in the ranking
    floor: Floor = NO_FLOOR

    @property
    def best(self) -> MethodRow | None:
        """First in the ranking."""
        return self.ranking[0] if self.ranking else None

    @property
    def good_enough(self) -> list[MethodRow]:
        """Those above the floor that reach what is wanted; without it, that are about as good as the best.

        That is: not significantly worse (5%), and not by more than MARGIN.
        """
        if self.wanted is None:
            return [row for row in self.above_floor if not self.shortfall(row)]
        metrics = ((row, row.metrics[self.metric]) for row in self.above_floor)
        return [row for row, metric in metrics if gain(metric) >= gain(metric, self.wanted)]

    @property
    def above_floor(self) -> list[MethodRow]:
        """Those that beat the floor, best first; all of them where the metric has none."""
        least = self.floor.metrics.get(self.metric)
        if least is None:
            return self.ranking
        return [row for row in self.ranking if gain(row.metrics[self.metric]) > gain(least)]

    def shortfall(self, row: MethodRow) -> str:
        """In what way a row is not as good as the best, in words; "" where it may be."""
        if row not in self.above_floor:
            return "not above the floor"
        lead = self.against_best.get(row.name)
        if lead is None:
            return ""
        if lead.significant:
            return "worse"
        return "lower, maybe by chance" if lead.value > self.margin + 1e-9 else ""

    @property
    def margin(self) -> float:
        """MARGIN on the metric's own scale: to 1, to 100, or, where that has no end, to the best's value."""
        best = self.ranking[0].metrics[self.metric]
        return MARGIN * (100 if self.metric in OF_100 else 1 if best.higher_is_better else abs(best.value))

    @property
    def winner(self) -> MethodRow | None:
        """The cheapest that is good enough; the best one of equally cheap ones (SAME_COST)."""
        return best_of_cheapest(self.good_enough) if self.good_enough else None

    @property
    def cheaper(self) -> MethodRow | None:
        """The cheapest that is good enough, where it costs less than the winner."""
        found = min(self.good_enough, key=lambda row: row.cost, default=None)
        return found if found and self.winner and found.cost < self.winner.cost else None

    @property
    def front(self) -> list[MethodRow]:
        """Those that win where some quality above the floor is wanted, the cheapest first."""
        found: list[MethodRow] = []
        for count in range(len(self.above_floor), 0, -1):
            row = best_of_cheapest(self.above_floor[:count])
            if not found or row is not found[-1]:
                found.append(row)
        return found

    @property
    def words(self) -> str:
        """The metric's name for people."""
        return self.metric.replace("_", " ")

    def quality(self, row: MethodRow) -> str:
        """The row's value: `86.1%`."""
        return show(self.metric, row.metrics[self.metric])

    @property
    def goal(self) -> str:
        """What is good enough: `accuracy of at least 85.0%`."""
        metric = self.ranking[0].metrics[self.metric]
        bound = "at least" if metric.higher_is_better else "at most"
        return f"{self.words} of {bound} {show(self.metric, metric, self.wanted)}"

    @property
    def margin_words(self) -> str:
        """The margin as a value of the metric: `2.0%`."""
        return show(self.metric, self.best.metrics[self.metric], self.margin) if self.best else ""

    @property
    def floor_words(self) -> str:
        """`answering "yes" to everything (52.5%)`; "" where the metric has no floor."""
        least = self.floor.metrics.get(self.metric)
        return "" if least is None else f"{self.floor.words} ({show(self.metric, least)})"

    def chance(self, row: MethodRow) -> str:
        """Whether the best's lead over this row may be chance, in words."""
        return f"difference {'' if self.against_best[row.name].significant else 'not '}significant"


def best_of_cheapest(ranking: Sequence[MethodRow]) -> MethodRow:
    """The first of those whose cost is about the lowest (SAME_COST)."""
    most = SAME_COST * min(row.cost for row in ranking)
    return next(row for row in ranking if row.cost <= most)


def gain(metric: Metric, value: float | None = None) -> float:
    """A metric's value (or another one of its scale) turned so that more is better."""
    return (1 if metric.higher_is_better else -1) * (metric.value if value is None else value)


def show(name: str, metric: Metric, value: float | None = None) -> str:
    """A metric's value (or another one of its scale): a share as a percentage, anything else as it is."""
    share = metric.higher_is_better and metric.value <= 1 and name not in OF_100
    value = metric.value if value is None else value
    return f"{value:.1%}" if share else figures(value, 4)


def one_latency(costs: Mapping[str, float]) -> str:
    """How long one prediction takes; with a star where it was timed beside other programs."""
    return latency(costs["latency_p50_s"]) + "*" * ("busy_cores" in costs)


def timed_beside(costs: Mapping[str, float]) -> str:
    """What the star means, or '' where there is none."""
    if (cores := costs.get("busy_cores")) is None:
        return ""
    return f"* timed while other programs kept {cores:.1f} cores busy; on a quiet machine it is faster"


def count_of_costs(costs_per_1000: Iterable[float]) -> int:
    """The number of predictions, one of PER, whose costs are no tiny numbers."""
    least = min((cost for cost in costs_per_1000 if cost > 0), default=1.0)
    return next((count for count in PER if least * count >= 100), max(PER))


def show_cost(cost_per_1000: float, count: int) -> str:
    """What a number of predictions costs: `12,300`."""
    return figures(cost_per_1000 * count / 1000, 3)


def best_possible(name: str, perfect: Statistic) -> float:
    """The most that a metric can be; perfect: of right predictions, for metrics with a scale of their own."""
    return inf if not perfect.higher_is_better else 100.0 if name in OF_100 else max(1.0, perfect.value)


def floor_of(task: Task[Any, Any], train: Sequence[Any], test: Sequence[Any]) -> Floor:
    """For labels the most frequent one of the training examples, for every other task no answer at all."""
    label = Counter(one.target for one in train).most_common(1)[0][0] if task.kind.is_choice else None
    words = "no answer to anything" if label is None else f'answering "{label}" to everything'
    return Floor(words, task.score([label] * len(test), test))


def judge(
    rows: Sequence[MethodRow], metric: str, wanted: float | None = None, floor: Floor = NO_FLOOR
) -> Verdict:
    """Rank by `metric`, the cheaper one first where equal, and test the differences (paired bootstrap)."""
    left_out = [row for row in rows if metric not in row.metrics]
    ranking = [row for row in rows if metric in row.metrics]
    ranking.sort(key=lambda row: (-gain(row.metrics[metric]), row.cost))

    def lead(a: MethodRow, b: MethodRow) -> Difference:
        return difference(a.statistics[metric], b.statistics[metric])

    best = {row.name: lead(ranking[0], row) for row in ranking[1:]}
    after = {a.name: lead(a, b) for a, b in pairwise(ranking)}
    return Verdict(metric, wanted, ranking, left_out, best, after, floor)


def advice(verdict: Verdict, num_test: int) -> str:
    """What to do, in a few plain sentences."""
    failed = [row.name for row in verdict.left_out if row.error]
    text = _chosen(verdict)
    if failed and verdict.ranking:
        text += f" Failed: {', '.join(failed)}; the table says why."
    if num_test < FEW and len(verdict.ranking) > 1:
        text += (
            f" With only {counted(num_test, 'test example')} small differences cannot be told from chance."
        )
    return text


def _chosen(verdict: Verdict) -> str:
    best, winner, words, quality = verdict.best, verdict.winner, verdict.words, verdict.quality
    if best is None:
        reasons = (f"{row.name} ({row.error or 'offers no such measure'})" for row in verdict.left_out)
        return f"No method can be compared by {words}: {'; '.join(reasons)}."
    if not verdict.above_floor:
        lead = f"the best is {best.name} with {quality(best)}"
        return f"No method beats {verdict.floor_words} in {words}: {lead}. None is recommended."
    text = _won(verdict, best, winner) if verdict.wanted is None else _enough(verdict, best, winner)
    if winner and (cheaper := verdict.cheaper):
        lower = f"{cheaper.name} ({quality(cheaper)}) is {saving(cheaper, winner)}"
        text += f" {lower}; costs within {SAME_COST:g}x count as equal."
    return text


def _won(verdict: Verdict, best: MethodRow, winner: MethodRow | None) -> str:
    """Without a wanted value."""
    words, quality = verdict.words, verdict.quality
    if len(verdict.ranking) == 1:
        return f"{best.name} reaches {words} {quality(best)}; there is no other to compare it with."
    assert winner is not None
    other = verdict.ranking[1] if winner is best else best
    lead = f"{words} {quality(winner)} against {quality(other)} of {other.name}"
    if winner is not best:
        return f"{winner.name} wins: {lead}, {verdict.chance(winner)}, and {saving(winner, best)}."
    cheapest = verdict.front[0]
    price = f"{cheapest.name} ({quality(cheapest)}) is {saving(cheapest, best)}"
    price = "No method is much cheaper" if cheapest is best else price
    return f"{best.name} wins: {lead}, {verdict.chance(other)}. {price}."


def _enough(verdict: Verdict, best: MethodRow, winner: MethodRow | None) -> str:
    wanted, number = verdict.goal, len(verdict.good_enough)
    lead = f"the best is {best.name} with {verdict.quality(best)}"
    if winner is None:
        return f"No method reaches {wanted}; {lead}."
    cheap = "the best of the cheapest" if verdict.cheaper else "the cheapest"
    rank = "the only method that is" if number == 1 else f"{cheap} of the {number} methods that are"
    text = f"{winner.name} is good enough: {verdict.quality(winner)} for {wanted}; it is {rank}"
    if winner is best:
        return f"{text}."
    return f"{text}. While {lead} ({verdict.chance(winner)}), {winner.name} is {saving(winner, best)}."


def saving(cheap: MethodRow, dear: MethodRow) -> str:
    """How much cheaper, to two digits."""
    times = dear.cost / cheap.cost
    return "about as cheap" if times < 1.05 else f"{figures(times, 2)}x cheaper"
