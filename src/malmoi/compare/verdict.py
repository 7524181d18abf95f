"""Who wins: ranking, significance, the Pareto front, the cheapest method that is good enough, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import floor, log10
from typing import Any

from malmoi.core import Metric
from malmoi.metrics import Difference, Statistic, difference

OF_100 = {"bleu", "chrf"}  # shown as they are, even where they are below 1
FEW = 100  # test examples


@dataclass(frozen=True, slots=True)
class Row:
    """One method: its metrics over the test examples and its costs, or why there are none (error).

    costs: unit in the key; `cost_per_1000` predictions is in money where a price is known, else in seconds.
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
class Verdict:
    """What follows from the rows by one metric. Every dict is by the method's name."""

    metric: str
    wanted: float | None  # the value that is good enough
    ranking: list[Row]  # best first
    left_out: list[Row]  # failed, or without the metric
    against_best: dict[str, Difference]  # how much better the best is
    against_next: dict[str, Difference]  # how much better it is than the next in the ranking

    @property
    def best(self) -> Row | None:
        """First in the ranking."""
        return self.ranking[0] if self.ranking else None

    @property
    def good_enough(self) -> list[Row]:
        """Those that reach what is wanted; without it, those not significantly worse than the best (5%)."""
        if self.wanted is None:
            worse = {name for name, lead in self.against_best.items() if lead.significant}
            return [row for row in self.ranking if row.name not in worse]
        metrics = ((row, row.metrics[self.metric]) for row in self.ranking)
        return [row for row, metric in metrics if gain(metric) >= gain(metric, self.wanted)]

    @property
    def winner(self) -> Row | None:
        """The cheapest that is good enough; the better one of equally cheap ones."""
        return min(self.good_enough, key=lambda row: row.cost, default=None)

    @property
    def front(self) -> list[Row]:
        """The methods that no other beats in both quality and cost (Pareto), the cheapest first."""
        found: list[Row] = []
        for row in self.ranking:  # from the best down, only what is cheaper than all before is worth it
            if not found or row.cost < found[-1].cost:
                found.append(row)
        return found[::-1]

    @property
    def words(self) -> str:
        """The metric's name for people."""
        return self.metric.replace("_", " ")

    def quality(self, row: Row) -> str:
        """The row's value: `86.1%`."""
        return show(self.metric, row.metrics[self.metric])

    def chance(self, row: Row) -> str:
        """Whether the best's lead over this row may be chance, in words."""
        return f"difference {'' if self.against_best[row.name].significant else 'not '}significant"


def gain(metric: Metric, value: float | None = None) -> float:
    """A metric's value (or another one of its scale) turned so that more is better."""
    return (1 if metric.higher_is_better else -1) * (metric.value if value is None else value)


def show(name: str, metric: Metric, value: float | None = None) -> str:
    """A metric's value (or another one of its scale): a share as a percentage, anything else as it is."""
    share = metric.higher_is_better and metric.value <= 1 and name not in OF_100
    value = metric.value if value is None else value
    return f"{value:.1%}" if share else f"{value:.4g}"


def judge(rows: Sequence[Row], metric: str, wanted: float | None = None) -> Verdict:
    """Rank by `metric`, the cheaper one first where equal, and test the differences (paired bootstrap)."""
    left_out = [row for row in rows if metric not in row.metrics]
    ranking = [row for row in rows if metric in row.metrics]
    ranking.sort(key=lambda row: (-gain(row.metrics[metric]), row.cost))

    def lead(a: Row, b: Row) -> Difference:
        return difference(a.statistics[metric], b.statistics[metric])

    best = {row.name: lead(ranking[0], row) for row in ranking[1:]}
    after = {a.name: lead(a, b) for a, b in pairwise(ranking)}
    return Verdict(metric, wanted, ranking, left_out, best, after)


def advice(verdict: Verdict, num_test: int) -> str:
    """What to do, in a few plain sentences."""
    failed = [row.name for row in verdict.left_out if row.error]
    text = _chosen(verdict)
    if failed and verdict.ranking:
        text += f" Failed: {', '.join(failed)}; the table says why."
    if num_test < FEW and len(verdict.ranking) > 1:
        text += f" With only {num_test} test examples small differences cannot be told from chance."
    return text


def _chosen(verdict: Verdict) -> str:
    best, winner, words, quality = verdict.best, verdict.winner, verdict.words, verdict.quality
    if best is None:
        reasons = (f"{row.name} ({row.error or 'offers no such measure'})" for row in verdict.left_out)
        return f"No method has a {words} to compare by: {'; '.join(reasons)}."
    if verdict.wanted is not None:
        return _enough(verdict, best, winner)
    if len(verdict.ranking) == 1:
        return f"{best.name} reaches {words} {quality(best)}; there is no other to compare it with."
    assert winner is not None
    other = verdict.ranking[1] if winner is best else best
    lead = f"{words} {quality(winner)} against {quality(other)} of {other.name}"
    if winner is not best:
        return f"{winner.name} already wins: {lead}, {verdict.chance(winner)}, and {saving(winner, best)}."
    cheapest = verdict.front[0]
    price = f"{cheapest.name} ({quality(cheapest)}) is {saving(cheapest, best)}"
    price = "No method is cheaper" if cheapest is best else price
    return f"{best.name} wins: {lead}, {verdict.chance(other)}. {price}."


def _enough(verdict: Verdict, best: Row, winner: Row | None) -> str:
    metric, number = best.metrics[verdict.metric], len(verdict.good_enough)
    bound = "at least" if metric.higher_is_better else "at most"
    wanted = f"{verdict.words} of {bound} {show(verdict.metric, metric, verdict.wanted)}"
    lead = f"the best is {best.name} with {verdict.quality(best)}"
    if winner is None:
        return f"No method reaches {wanted}; {lead}."
    rank = "the only method that is" if number == 1 else f"the cheapest of the {number} methods that are"
    text = f"{winner.name} is good enough: {verdict.quality(winner)} for {wanted}; it is {rank}"
    if winner is best:
        return f"{text}."
    return f"{text}. While {lead} ({verdict.chance(winner)}), {winner.name} is {saving(winner, best)}."


def saving(cheap: Row, dear: Row) -> str:
    """How much cheaper, to two digits."""
    times = dear.cost / cheap.cost
    return "about as cheap" if times < 1.05 else f"{two_digits(times)}x cheaper"


def two_digits(number: float) -> str:
    """1234.5 -> '1,200'."""
    return f"{round(number, 1 - floor(log10(number))):,.15g}"
