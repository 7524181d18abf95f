"""Who wins: ranking, what the test examples show, the cheapest method that is good enough, and why.

Good enough is a claim, and so it must be shown: with 95% confidence a method is at most a margin worse than
the best, or reaches the goal (non-inferiority, as trials of drugs have it). What is not shown counts as not
true: then the best method is recommended, and what is missing is said. Nothing is recommended that does not
beat the floor, which is what answers without learning reach. docs/verdict.md explains each rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import inf
from typing import Any

import numpy as np

from malmoi.core.nouns import Metric
from malmoi.metrics.adequacy import ADEQUACY
from malmoi.metrics.statistics import CONFIDENCE, Difference, Resampled, Statistic, difference, holm, p_value
from malmoi.tasks.base import Task
from malmoi.util.units import counted, figures, latency

OF_100 = {"bleu", "chrf"}  # shown as they are, even where they are below 1
# what a text shares with the right one, which a fluent text of something else does, too
OVERLAP = {"bleu", "chrf", "rouge_l", "rouge_1", "rouge_2"}
MARGIN = 0.02  # of a metric's scale: what the cheaper method may lose to the best at most
MOST_MORE = 100_000  # test examples; a need for more is not worth a number
SAME_COST = 1.5  # costs within this factor count as equal: timing is no surer than that
PER = {1_000: "1,000", 1_000_000: "1 million", 1_000_000_000: "1 billion"}  # predictions that a cost is of


@dataclass(frozen=True, slots=True)
class MethodRow:
    """One method: its metrics over the test examples and its costs, or why there are none (error).

    costs: unit in the key; `cost_per_1000` predictions is in money where a price is known, else in seconds;
    `busy_cores` is there where other programs kept so many cores busy while predictions were timed. seeds: of
    how many runs the metrics are the mean, 0 where a seed changes nothing; spread: how far these lie apart.
    """

    name: str
    family: str
    error: str = ""
    statistics: dict[str, Statistic] = field(default_factory=dict)
    metrics: dict[str, Metric] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)
    predictions: list[Any] = field(default_factory=list)
    note: str = ""  # what a reader of the figures should know
    seeds: int = 0
    spread: str = ""
    confidences: list[float] | None = None  # in its predictions, where it knows that

    @property
    def cost(self) -> float:
        """Of 1,000 predictions."""
        return self.costs["cost_per_1000"]


@dataclass(frozen=True, slots=True)
class Floor:
    """What is reached without learning. name: of its row in a table; words: how."""

    name: str
    words: str
    metrics: Mapping[str, Metric]


NO_FLOOR = Floor("", "", {})


@dataclass(frozen=True, slots=True)
class Claim:
    """That a method is good enough, and what the test examples say of it.

    gap: how far the method is behind the best, or behind the goal (below 0: beyond it). bound: how far it is
    at most, with 95% confidence. p: of the claim that this is within the margin (or 0), before Holm's
    correction.
    """

    gap: float
    bound: float
    p: float


@dataclass(frozen=True, slots=True)
class Doubt:
    """That a method's texts belong to their inputs clearly less than a rival's. lead: of the rival in
    adequacy."""

    rival: str
    lead: Difference


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from the rows by one metric. Every dict is by the method's name."""

    metric: str
    wanted: float | None  # the value that is good enough; None: within the margin of the best
    margin: float  # on the metric's own scale
    ranking: list[MethodRow]  # best first
    left_out: list[MethodRow]  # failed, or without the metric
    against_best: dict[str, Difference]  # how much better the best is
    against_next: dict[str, Difference]  # how much better it is than the next in the ranking
    claims: dict[str, Claim]
    shown: frozenset[str]  # methods whose claims hold, all together with 95% confidence; the best needs none
    floor: Floor = NO_FLOOR
    doubts: Mapping[str, Doubt] = field(default_factory=dict)  # where the metric is one of OVERLAP

    @property
    def best(self) -> MethodRow | None:
        """First in the ranking."""
        return self.ranking[0] if self.ranking else None

    @property
    def good_enough(self) -> list[MethodRow]:
        """Those above the floor that are shown to be good enough, and are not in doubt."""
        return [row for row in self.above_floor if row.name in self.shown and row.name not in self.doubts]

    @property
    def above_floor(self) -> list[MethodRow]:
        """Those that beat the floor, best first; all of them where the metric has none."""
        least = self.floor.metrics.get(self.metric)
        if least is None:
            return self.ranking
        return [row for row in self.ranking if gain(row.metrics[self.metric]) > gain(least)]

    @property
    def winner(self) -> MethodRow | None:
        """The cheapest that is shown to be good enough; the best one of equally cheap ones (SAME_COST).

        Where nothing is shown the best one, unless it is shown to miss the goal. None that is in doubt.
        """
        pool = [row for row in self.candidates if row.name not in self.doubts]
        return best_of_cheapest(pool) if pool else None

    @property
    def candidates(self) -> list[MethodRow]:
        """Those that the metric alone could recommend, best first."""
        return [row for row in self.above_floor if row.name in self.shown or self.falls_to(row)]

    def falls_to(self, row: MethodRow) -> bool:
        """Whether the row is recommended for want of one that is shown to be good enough."""
        if row is not self.best:
            return False
        return self.wanted is None or not (self.good_enough or self.misses(row))

    def misses(self, row: MethodRow) -> bool:
        """Whether the row is shown not to reach the goal: even its interval does not."""
        metric = row.metrics[self.metric]
        assert self.wanted is not None
        most = max(gain(metric, end) for end in metric.interval or (metric.value,))
        return most < gain(metric, self.wanted)

    @property
    def cheaper(self) -> MethodRow | None:
        """The cheapest that is good enough, where it costs less than the winner."""
        found = min(self.good_enough, key=lambda row: row.cost, default=None)
        return found if found and self.winner and found.cost < self.winner.cost else None

    @property
    def hopeful(self) -> MethodRow | None:
        """The cheapest method that may be good enough and is not shown to be, where it would save much."""
        winner = self.winner
        found = [
            row for row in self.above_floor
            if winner and row.name not in {*self.shown, *self.doubts} and row.cost * SAME_COST < winner.cost
            and not (self.misses(row) if self.wanted is not None else self.against_best[row.name].significant)
        ]  # fmt: skip
        return min(found, key=lambda row: row.cost, default=None)

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

    def points(self, value: float) -> str:
        """A difference of values of the metric: `2.1 points`."""
        return points(self.metric, self.ranking[0].metrics[self.metric], value)

    @property
    def num_seeds(self) -> int:
        """Runs of those methods whose result depends on their seed; 0 where there are none."""
        return max((row.seeds for row in self.ranking), default=0)

    @property
    def goal(self) -> str:
        """What is good enough: `accuracy of at least 85.0%`."""
        metric = self.ranking[0].metrics[self.metric]
        bound = "at least" if metric.higher_is_better else "at most"
        return f"{self.words} of {bound} {show(self.metric, metric, self.wanted)}"

    @property
    def margin_words(self) -> str:
        """The margin as a difference: `2 points`."""
        return self.points(self.margin) if self.ranking else ""

    @property
    def floor_words(self) -> str:
        """`answering "yes" to everything (52.5%)`; "" where the metric has no floor."""
        least = self.floor.metrics.get(self.metric)
        return "" if least is None else f"{self.floor.words} ({show(self.metric, least)})"

    def standing(self, row: MethodRow) -> str:
        """What is shown of the row beside the best, in a few words; "" of the best."""
        if row not in self.above_floor:
            return "not above the floor"
        if row is self.best:
            return ""
        claim = self.claims[row.name]
        if self.wanted is None and row.name in self.shown:
            return f"at most {self.points(claim.bound)} worse"
        return "worse" if self.against_best[row.name].significant else "not told apart"

    def missing(self, row: MethodRow, num_test: int) -> int | None:
        """About how many more test examples would show the claim, if its gap stays what it is.

        The part of the bound that is chance shrinks with the root of their number. None: no number would, or
        it is the chance of the seeds, too, which examples leave as it is.
        """
        claim, margin = self.claims[row.name], self.margin if self.wanted is None else 0.0
        room = margin - claim.gap
        if room <= 0 or claim.bound <= claim.gap or self.num_seeds > 1:
            return None
        more = num_test * (((claim.bound - claim.gap) / room) ** 2 - 1)
        return round_up(more) if 0 < more <= MOST_MORE else None


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


def with_interval(row: MethodRow, metric: str) -> str:
    """The row's value and between which ones it lies: `86.1% [82.5%, 89.2%]`."""
    found = row.metrics[metric]
    ends = ", ".join(show(metric, found, end) for end in found.interval or ())
    return f"{show(metric, found)} [{ends}]"


def points(name: str, metric: Metric, value: float) -> str:
    """A difference of two values of a metric: `2.1 points` of a share or of 100, else as it is."""
    share = metric.higher_is_better and metric.value <= 1 and name not in OF_100
    if not share and name not in OF_100:
        return figures(value, 2)
    return f"{100 * value if share else value:.2g} points"


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
    """The best that answers without learning reach: the most frequent one, the input itself, or none."""
    blind: dict[tuple[str, str], list[Any]] = {("no answer", "no answer to anything"): [None] * len(test)}
    for words, answer in task.kind.blind([one.target for one in train]).items():
        blind["one answer", f"answering {words} to everything"] = [answer] * len(test)
    if task.kind.is_text:
        blind["the input", "repeating the input"] = [task.key(one.input) for one in test]
    found = [Floor(*words, task.score(answers, test)) for words, answers in blind.items()]
    return max(found, key=lambda one: gain(one.metrics[task.metric]) if task.metric in one.metrics else -inf)


def judge(
    rows: Sequence[MethodRow], metric: str, wanted: float | None = None, floor: Floor = NO_FLOOR,
    margin: float | None = None, right_adequacy: Statistic | None = None,
) -> Verdict:  # fmt: skip
    """Rank by `metric`, the cheaper one first where equal, and say what the examples show.

    wanted: the value that is good enough, else what is at most `margin` worse than the best is; of the
    metric's scale, None for MARGIN of it. right_adequacy: of the right answers, where it can be measured.
    """
    left_out = [row for row in rows if metric not in row.metrics]
    ranking = [row for row in rows if metric in row.metrics]
    ranking.sort(key=lambda row: (-gain(row.metrics[metric]), row.cost))
    of_each = {row.name: Resampled.of(row.statistics[metric]) for row in ranking}
    before = {a: difference(of_each[ranking[0].name], it) for a, it in list(of_each.items())[1:]}
    after = {a.name: difference(of_each[a.name], of_each[b.name]) for a, b in pairwise(ranking)}
    if margin is None:
        margin = margin_of(metric, ranking[0].metrics[metric]) if ranking else 0.0
    claims = {name: _claim(name, of_each, wanted, margin) for name in of_each}
    candidates = [name for name in of_each if wanted is not None or name != ranking[0].name]
    shown = holm({name: claims[name].p for name in candidates})
    found = Verdict(metric, wanted, margin, ranking, left_out, before, after, claims, frozenset(shown), floor)
    if metric not in OVERLAP or right_adequacy is None:
        return found
    return replace(found, doubts=_doubts(found.above_floor, Resampled.of(right_adequacy)))


def margin_of(name: str, best: Metric) -> float:
    """MARGIN on the metric's own scale: to 1, to 100, or, where that has no end, to the best's value."""
    return MARGIN * (100 if name in OF_100 else 1 if best.higher_is_better else abs(best.value))


def _doubts(rows: Sequence[MethodRow], right: Resampled) -> dict[str, Doubt]:
    """Of each method whose adequacy is worse by more than MARGIN than a rival's, and than that of the right
    answers, which a mere echo of the input may exceed. Holm over its rivals."""
    of_each = {row.name: Resampled.of(row.statistics[ADEQUACY]) for row in rows if ADEQUACY in row.statistics}
    found: dict[str, Doubt] = {}
    for name, one in of_each.items():
        p_values = {
            rival: max(p_value(it.least_lead(one) > MARGIN), p_value(right.least_lead(one) > MARGIN))
            for rival, it in of_each.items() if rival != name
        }  # fmt: skip
        if shown := holm(p_values):
            rival = max(sorted(shown), key=lambda rival: of_each[rival].value)
            found[name] = Doubt(rival, difference(of_each[rival], one))
    return found


def _claim(name: str, of_each: Mapping[str, Resampled], wanted: float | None, margin: float) -> Claim:
    """That a method reaches what is wanted, or is within the margin of the best of all.

    The best is chosen again in each resample, so that it is not taken for granted which one it is. The group
    more that is weighed speaks against the claim.
    """
    one = of_each[name]
    if wanted is not None:
        gaps_R, gap, most = one.sign * (wanted - one.worst_R), one.sign * (wanted - one.value), 0.0
    else:
        leads = [it.most_lead(one) for other, it in of_each.items() if other != name]
        gaps_R, most = np.max([np.zeros_like(one.worst_R), *leads], axis=0), margin
        gap = max(one.sign * (it.value - one.value) for it in of_each.values())
    known_R = gaps_R[~np.isnan(gaps_R)]
    bound = float(np.percentile(known_R, 100 * CONFIDENCE)) if len(known_R) else inf
    return Claim(gap, max(bound, gap), p_value(gaps_R <= most))


def advice(verdict: Verdict, num_test: int) -> str:
    """What to do, in a few plain sentences."""
    failed = [row.name for row in verdict.left_out if row.error]
    text = _chosen(verdict, num_test)
    if failed and verdict.ranking:
        text += f" Failed: {', '.join(failed)}; the table says why."
    return text


def _chosen(verdict: Verdict, num_test: int) -> str:
    best, winner, words, quality = verdict.best, verdict.winner, verdict.words, verdict.quality
    if best is None:
        reasons = (f"{row.name} ({row.error or 'offers no such measure'})" for row in verdict.left_out)
        return f"No method can be compared by {words}: {'; '.join(reasons)}."
    if not verdict.above_floor:
        found = f"the best is {best.name} with {quality(best)}"
        return f"No method beats {verdict.floor_words} in {words}: {found}. None is recommended."
    doubted = [row for row in verdict.candidates if row.name in verdict.doubts]
    if doubted and winner is None:
        return _disagreement(verdict, doubted[0])
    text = _won(verdict, best, winner) if verdict.wanted is None else _enough(verdict, best, winner)
    text += "".join(f" {row.name} is left out: {_doubted(verdict, row)}." for row in doubted)
    if winner and (cheaper := verdict.cheaper):
        lower = f"{cheaper.name} ({quality(cheaper)}) is {saving(cheaper, winner)}"
        text += f" {lower}; costs within {SAME_COST:g}x count as equal."
    if hopeful := verdict.hopeful:
        text += f" {_open(verdict, hopeful, num_test)}"
    return text


def _disagreement(verdict: Verdict, row: MethodRow) -> str:
    """Why none is recommended, where only such methods would be that are in doubt."""
    words = verdict.words
    good = "is the best" if row is verdict.best else "is good enough"
    return (
        f"The measures disagree: {row.name} {good} by {words} ({verdict.quality(row)}), but "
        f"{_doubted(verdict, row)}. By {words} alone none is recommended: read the texts side by side, or "
        "let a language model judge them."
    )


def _doubted(verdict: Verdict, row: MethodRow) -> str:
    """`its texts belong to their inputs clearly less often (adequacy 8.7% against 82.0% of ibm1)`."""
    rival = next(one for one in verdict.ranking if one.name == verdict.doubts[row.name].rival)
    here, there = (show(ADEQUACY, one.metrics[ADEQUACY]) for one in (row, rival))
    measured = f"{ADEQUACY} {here} against {there} of {rival.name}"
    return f"its texts belong to their inputs clearly less often ({measured})"


def _won(verdict: Verdict, best: MethodRow, winner: MethodRow | None) -> str:
    """Without a wanted value."""
    words, quality = verdict.words, verdict.quality
    if len(verdict.ranking) == 1:
        return f"{best.name} reaches {words} {quality(best)}; there is no other to compare it with."
    assert winner is not None
    if winner is not best:
        bound = verdict.points(verdict.claims[winner.name].bound)
        return (
            f"{winner.name} is good enough: {words} {quality(winner)}, with 95% confidence at most {bound} "
            f"below the best ({best.name}, {quality(best)}), and {saving(winner, best)}."
        )
    other = verdict.ranking[1]
    text = f"{best.name} is the best: {words} {quality(best)} against {quality(other)} of {other.name}"
    if not verdict.against_best[other.name].significant:
        bound = verdict.points(verdict.claims[best.name].bound)
        text += f", which may be chance: another may be up to {bound} better"
    cheapest = verdict.front[0]
    if cheapest is best:
        return f"{text}. No method is much cheaper."
    if cheapest is verdict.hopeful:
        return f"{text}."
    return f"{text}. {cheapest.name} ({quality(cheapest)}) is {saving(cheapest, best)}."


def _enough(verdict: Verdict, best: MethodRow, winner: MethodRow | None) -> str:
    wanted, number = verdict.goal, len(verdict.good_enough)
    found = f"the best is {best.name} with {verdict.quality(best)}"
    if winner is None:
        return f"No method reaches {wanted}; {found}."
    if not number:
        found = f"the best is {best.name} with {with_interval(best, verdict.metric)}"
        return f"No method is shown to reach {wanted}; {found}, and so it is recommended."
    cheap = "the best of the cheapest" if verdict.cheaper else "the cheapest"
    rank = "the only method that is" if number == 1 else f"{cheap} of the {number} methods that are"
    text = f"{winner.name} is shown to be good enough: {verdict.quality(winner)} for {wanted}; it is {rank}"
    if winner is best:
        return f"{text}."
    return f"{text}. While {found}, {winner.name} is {saving(winner, best)}."


def _open(verdict: Verdict, row: MethodRow, num_test: int) -> str:
    """What the examples leave open of a cheaper method, and how many more would tell."""
    assert verdict.winner is not None
    text = f"{row.name} ({verdict.quality(row)}) is {saving(row, verdict.winner)} and may be good enough"
    claim, have = verdict.claims[row.name], counted(num_test, "test example")
    if verdict.wanted is None:
        bound, margin = verdict.points(claim.bound), verdict.margin_words
        text += f", but {have} only show that it is at most {bound} below the best ({margin} is the margin)"
    else:
        text += f", but {have} do not show it"
    if more := verdict.missing(row, num_test):
        return f"{text}; about {more:,} more would, if the figures stay as they are."
    return f"{text}; label more{' or take more seeds' * (verdict.num_seeds > 1)} to know."


def round_up(number: float) -> int:
    """To two digits: what would do, not less."""
    size = 10 ** max(0, int(np.log10(max(1.0, number))) - 1)
    return int(np.ceil(number / size)) * size


def saving(cheap: MethodRow, dear: MethodRow) -> str:
    """How much cheaper, to two digits."""
    times = dear.cost / cheap.cost
    return "about as cheap" if times < 1.05 else f"{figures(times, 2)}x cheaper"
