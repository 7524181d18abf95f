"""What more labels would bring: a learning curve with few fits, its forecast, and who would then win.

Each family learns from an eighth, a quarter, half and all of the labels (of many, from a sixteenth, too), the
smaller parts several times, as they differ most. `malmoi.metrics.power_law` goes on with the curve.

Shape letters: D draws, M multiples.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import isfinite, sqrt
from typing import Any

import numpy as np
from pydantic import Field, PositiveFloat

from malmoi.compare.settings import sample
from malmoi.compare.verdict import OF_100, best_possible, points, show
from malmoi.core.config import StrictModel
from malmoi.core.errors import UserError
from malmoi.core.nouns import Budget, Examples, Metric, Say, Work, silent
from malmoi.data.splits import Splits
from malmoi.methods.registry import make_method
from malmoi.metrics.power_law import Floats, fit_power_law
from malmoi.metrics.statistics import Statistic
from malmoi.tasks.base import Task
from malmoi.util.units import counted, human_seconds

SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)
MULTIPLES = (2, 4)
FEWEST_LABELS = 80
SMALLEST = 10  # labels to learn from
REPEATED = 2_000  # labels that all repeats of one size have together, about
MOST_REPEATS, LEAST_REPEATS = 8, 2
LEAST_DEVIATION = 0.002  # of the scale: no curve is a power law to the last digit
TURNS = 50
SHARED = 0.5  # of what chance the test examples bring, how much two methods have in common
LIKELY, SURE = 0.75, 0.95
LITTLE = 0.01  # of the scale


class PlanSettings(StrictModel):
    """methods: name -> options, each a family. budget_seconds: for the training of each fit."""

    methods: dict[str, dict[str, Any]] = Field(min_length=1)
    budget_seconds: PositiveFloat | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """The metric after learning from so many labels: the mean of several fits, and its standard error."""

    labels: int
    value: float
    deviation: float
    fits: int


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a method would reach with `multiple` times the labels. win: how likely it would be the best."""

    multiple: int
    labels: int
    value: float
    interval: tuple[float, float]  # 95%
    gain: float  # on what was measured today; above 0: better
    # on what the curve says of today, where chance counts less
    gain_interval: tuple[float, float]
    win: float


@dataclass(frozen=True, slots=True)
class FamilyPlan:
    """One method's curve and its forecast. error: why there is none."""

    name: str
    points: tuple[CurvePoint, ...] = ()
    outlooks: tuple[Outlook, ...] = ()
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class LabelPlan:
    """Everything that is shown of a plan; families: the best one of today first, failed ones last."""

    task: str
    metric: str
    higher_is_better: bool
    labels: int
    tests: int
    notes: tuple[str, ...]
    families: tuple[FamilyPlan, ...]
    sentence: str

    def show(self, value: float) -> str:
        """A value of the metric as people read it."""
        return show(self.metric, Metric(0.0, higher_is_better=self.higher_is_better), value)

    def points(self, gain: float) -> str:
        """A difference of the metric, in the same way."""
        return points(self.metric, Metric(0.0, higher_is_better=self.higher_is_better), gain)


@dataclass(frozen=True, slots=True)
class _Curve:
    name: str
    points: tuple[CurvePoint, ...]
    chance: float  # the standard error that the test examples bring
    best: float  # what cannot be surpassed; 0 of a measure that is lower where better
    scale: float
    sign: int


def make_plan(
    task: Task[Any, Any], train: Examples, valid: Examples | None, settings: PlanSettings, say: Say = silent
) -> LabelPlan:
    """Measure each family's learning curve and forecast it. valid: what it is measured on; without
    it a part of `train` is held out, another one for each repeat.

    Raises UserError where there are too few labels for a curve, or no family can be measured.
    """
    task, why = task.for_training(train)
    parts = cache(lambda repeat: task.split(train, valid, seed=settings.seed + repeat))
    labels = _labels(parts(0))
    if labels < FEWEST_LABELS:
        raise UserError(
            f"only {counted(labels, 'label')} to learn from, too few for a learning curve",
            fix=f"give {FEWEST_LABELS} or more",
        )
    methods = {name: make_method(name, task, options) for name, options in settings.methods.items()}
    curves, failed, seconds = list[_Curve](), list[FamilyPlan](), dict[str, float]()
    for name in methods:
        start_s = time.perf_counter()
        try:
            curves.append(_curve(task, name, settings, parts, fixed_test=valid is not None, say=say))
        except UserError as error:
            failed.append(FamilyPlan(name, error=str(error)))
            say(f"{name}: left out: {error}")
        seconds[name] = time.perf_counter() - start_s
    if not curves:
        raise UserError(f"no method has a learning curve; {failed[0].name}: {failed[0].error}")
    families = _forecast(curves, labels, seconds)
    sign = curves[0].sign
    found = LabelPlan(
        task.name,
        task.metric,
        sign > 0,
        labels,
        len(parts(0).test),
        (*parts(0).notes, *filter(None, [why])),
        (*families, *failed),
        "",
    )
    return replace(found, sentence=advice(found))


# ---- the curve


def _labels(splits: Splits) -> int:
    return len(splits.train) + len(splits.valid)


def _curve(
    task: Task[Any, Any], name: str, settings: PlanSettings, parts: Callable[[int], Splits], *,
    fixed_test: bool, say: Say,
) -> _Curve:  # fmt: skip
    """Fit a method to growing parts of the labels and measure it. Raises UserError where it cannot learn."""
    labels = _labels(parts(0))
    values: dict[int, dict[int, float]] = {}  # labels -> repeat -> value
    statistics: list[Statistic] = []
    for share in SHARES:
        count = round(share * labels)
        if len(parts(0).train) * share < SMALLEST:
            continue
        repeats = 1 if fixed_test and share == 1 else min(MOST_REPEATS, max(LEAST_REPEATS, REPEATED // count))
        start_s = time.perf_counter()
        for repeat in range(repeats):
            try:
                statistics.append(_measured(task, name, settings, parts(repeat), share, repeat))
            except UserError:  # such as one label only in a small part
                if share == 1:
                    raise
                continue
            values.setdefault(count, {})[repeat] = statistics[-1].value
        if found := values.get(count):
            took = human_seconds(time.perf_counter() - start_s)
            middle = np.mean(list(found.values()))
            say(f"{name}: {task.metric} {middle:.4f} with {counted(count, 'label')} ({took})")
    if len(values) < 3:
        raise UserError("it cannot learn from small parts of these labels; give more")
    last = statistics[-1]
    best = 0.0 if not last.higher_is_better else best_possible(task.metric, last)
    scale = best if last.higher_is_better else abs(last.value) or 1.0
    if not isfinite(scale) or not all(isfinite(it) for some in values.values() for it in some.values()):
        raise UserError(f"its {task.metric} is not finite")
    points = _points(values if fixed_test else _on_one_part(values), scale)
    chance = _chance(last, 1 if fixed_test else len(values[labels]))
    return _Curve(name, points, chance, best, scale, 1 if last.higher_is_better else -1)


def _measured(
    task: Task[Any, Any], name: str, settings: PlanSettings, splits: Splits, share: float, seed: int
) -> Statistic:
    """The primary metric on the test part after learning from a share of the labels, drawn by the seed."""
    train, valid = (
        part if share == 1 else sample(part, max(1, round(share * len(part))), settings.seed + seed)
        for part in (splits.train, splits.valid)
    )
    method = make_method(name, task, settings.methods[name])
    method.check(train)
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # of small parts with many labels
        method.fit(train, valid, Work(Budget(settings.budget_seconds)))
    inputs, targets = [one.input for one in splits.test], [one.target for one in splits.test]
    likelihoods = method.log_likelihood(inputs, targets) if task.kind.is_text else None
    found = task.statistics(method.predict(inputs).values, splits.test, likelihoods)
    if task.metric not in found:
        raise UserError(f"it offers no {task.metric}")
    return found[task.metric]


def _on_one_part(values: Mapping[int, Mapping[int, float]]) -> dict[int, dict[int, float]]:
    """The values less what is each repeat's own, as its test part is harder or easier than the others'.

    Means of sizes and of repeats, in turn, until they stay (two-way analysis of variance, some cells empty).
    """
    own = dict.fromkeys(sorted({repeat for found in values.values() for repeat in found}), 0.0)
    for _ in range(TURNS):
        means = {n: float(np.mean([v - own[r] for r, v in found.items()])) for n, found in values.items()}
        for repeat in own:
            left = [found[repeat] - means[n] for n, found in values.items() if repeat in found]
            own[repeat] = float(np.mean(left))
    middle = float(np.mean(list(own.values())))
    return {n: {r: v - own[r] + middle for r, v in found.items()} for n, found in values.items()}


def _points(values: Mapping[int, Mapping[int, float]], scale: float) -> tuple[CurvePoint, ...]:
    """The mean of each size. What chance adds to one fit is pooled over the sizes that have several: its
    variance falls with the number of labels."""
    sizes = {count: list(found.values()) for count, found in sorted(values.items())}
    several = {count: found for count, found in sizes.items() if len(found) > 1}
    freedom = sum(len(found) - 1 for found in several.values())
    total = sum(count * (len(found) - 1) * float(np.var(found, ddof=1)) for count, found in several.items())
    variance, least = total / max(1, freedom), LEAST_DEVIATION * scale  # of one label
    return tuple(
        CurvePoint(count, float(np.mean(found)), sqrt(variance / count / len(found) + least**2), len(found))
        for count, found in sizes.items()
    )


def _chance(statistic: Statistic, parts: int) -> float:
    """The standard error of the metric over the test examples; parts: how many such parts it is a mean of."""
    metric = statistic.metric()
    low, high = metric.interval or (metric.value, metric.value)
    return (high - low) / 3.92 / sqrt(parts)


# ---- the forecast


def _forecast(curves: Sequence[_Curve], labels: int, seconds: Mapping[str, float]) -> list[FamilyPlan]:
    """Each curve's outlooks, the best family of today first."""
    counts = [labels, *(multiple * labels for multiple in MULTIPLES)]
    common_D = np.random.default_rng(1).standard_normal(len(_draws(curves[0], counts, 0)))
    values: dict[str, Floats] = {}
    for number, curve in enumerate(curves):
        own_D = np.random.default_rng(2 + number).standard_normal(len(common_D))
        by_chance_D = curve.chance * (sqrt(SHARED) * common_D + sqrt(1 - SHARED) * own_D)
        values[curve.name] = _draws(curve, counts, number) + by_chance_D[:, None]
    sign = curves[0].sign
    best_DM = np.max([sign * found for found in values.values()], axis=0)
    plans = [
        FamilyPlan(
            curve.name, curve.points, tuple(
                _outlook(curve, values[curve.name], at, counts[at], best_DM[:, at]) for at in (1, 2)
            ), seconds[curve.name],
        )
        for curve in curves
    ]  # fmt: skip
    return sorted(plans, key=lambda plan: -sign * plan.points[-1].value)


def _draws(curve: _Curve, counts: Sequence[int], seed: int) -> Floats:
    """values_DM of the metric at each of the counts."""
    errors = [curve.sign * (curve.best - point.value) for point in curve.points]
    law = fit_power_law(
        [point.labels for point in curve.points], np.maximum(errors, 0.0).tolist(),
        [point.deviation for point in curve.points],
    )  # fmt: skip
    return curve.best - curve.sign * law.draws(counts, seed)


def _outlook(curve: _Curve, values_DM: Floats, at: int, labels: int, best_D: Floats) -> Outlook:
    value_D, today_D, today = values_DM[:, at], values_DM[:, 0], curve.points[-1].value
    ends = np.minimum(curve.sign * np.percentile(value_D, (2.5, 97.5)), curve.sign * curve.best)
    low, high = sorted((curve.sign * ends).tolist())
    gain_D = curve.sign * (value_D - today_D)
    gain_low, gain_high = np.percentile(gain_D, (2.5, 97.5))
    return Outlook(
        MULTIPLES[at - 1], labels, float(np.median(value_D)), (low, high),
        float(curve.sign * (np.median(value_D) - today)), (float(gain_low), float(gain_high)),
        float(np.mean(curve.sign * value_D >= best_D)),
    )  # fmt: skip


# ---- words


def advice(plan: LabelPlan) -> str:
    """What more labels would bring, and which family would then win, in plain sentences."""
    families = [family for family in plan.families if not family.error]
    today, words = families[0], plan.metric.replace("_", " ")
    text = (
        f"With {counted(plan.labels, 'label')}, {today.name} is best: {words} "
        f"{plan.show(today.points[-1].value)}."
    )
    for at, multiple in enumerate(MULTIPLES):
        winner = max(families, key=lambda family: family.outlooks[at].win)
        outlook = winner.outlooks[at]
        low, high = (plan.show(end) for end in outlook.interval)
        gained = winner.outlooks[at].gain if winner is today else 0.0
        text += (
            f" With {multiple}x ({outlook.labels:,}), expect {plan.show(outlook.value)} "
            f"[{low} to {high}] of {winner.name}"
        )
        text += f", {plan.points(gained)} more" if gained > 0 and plan.higher_is_better else ""
        text += _who(families, outlook.win, winner.name, today.name) + "."
    return text + _worth(plan, today)


def _who(families: Sequence[FamilyPlan], win: float, winner: str, today: str) -> str:
    if len(families) == 1:
        return ""
    if win < LIKELY:
        return "; which family would then win cannot be told"
    still = f"{winner} would still win" if winner == today else f"{winner} would then win"
    return f"; {still}" if win >= SURE else f"; probably {still}"


def _worth(plan: LabelPlan, today: FamilyPlan) -> str:
    """What more labels bring the best family of today, and whether that is worth labelling."""
    last = today.outlooks[-1]
    low, high = (plan.points(end) for end in last.gain_interval)
    scale = 100 if plan.metric in OF_100 else 1 if plan.higher_is_better else abs(today.points[-1].value)
    verdict = ": hardly worth labelling" if last.gain_interval[1] < LITTLE * scale else ""
    unit = "" if plan.higher_is_better else f" {plan.metric.replace('_', ' ')}"
    return f" {last.multiple}x the labels would bring {today.name} {low.split()[0]} to {high}{unit}{verdict}."
