"""What the reports show of a task's comparison: every method, and the one model beside the best of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from malmoi.compare.comparison import Comparison
from malmoi.compare.verdict import MethodRow, one_latency, show
from malmoi.show.comparison_report import REPORT
from malmoi.show.demo_report import OneModelLine, TaskCell, TaskLine
from malmoi.tasks.base import is_korean

FAMILIES = ("traditional", "recurrent", "transformer", "prompted")
TITLES = {"prompted": "one model"}
ONE = "prompted"  # the method that asks the model tuned on all tasks


def task_line(found: Comparison) -> TaskLine:
    """What the reports show of one task."""
    verdict, link = found.verdict, f"tasks/{found.settings.task}/{REPORT}"
    cells = {TITLES.get(family, family): list(_cells(found, family)) for family in FAMILIES}
    return TaskLine(found.settings.task, verdict.words, cells, found.advice, link)


def _cells(found: Comparison, family: str) -> Iterator[TaskCell]:
    """The methods of one family, best first."""
    verdict = found.verdict
    for row in verdict.ranking:
        if row.family == family:
            yield TaskCell(row.name, verdict.quality(row), one_latency(row.costs), row is verdict.winner)
    for row in verdict.left_out:
        if row.family == family:
            yield TaskCell(row.name, "failed" if row.error else "n/a", "", False)


def one_model_line(found: Comparison) -> OneModelLine | None:
    """The best small method against the one model; None where either failed."""
    rows = {row.name: row for row in found.verdict.ranking}
    one = rows.pop(ONE, None)
    if one is None or not rows:
        return None
    verdict, small = found.verdict, next(iter(rows.values()))
    korean = [is_korean(found.material.task.key(example.input)) for example in found.material.test]
    places = [[i for i, it in enumerate(korean) if it == wanted] for wanted in (False, True)]
    metric = verdict.metric
    values = [_value(one, metric, at) for at in places]
    return OneModelLine(
        found.settings.task, verdict.words, small.name, verdict.quality(small), verdict.quality(one),
        *("" if value is None else show(metric, one.metrics[metric], value) for value in values),
        figures={
            "metric": metric, "small": {"name": small.name, "value": small.metrics[metric].value},
            "one_model": one.metrics[metric].value, "one_model_en": values[0], "one_model_ko": values[1],
        },
    )  # fmt: skip


def _value(row: MethodRow, metric: str, examples: Sequence[int]) -> float | None:
    """A metric over some of the examples only; None where there are none."""
    statistic = row.statistics[metric]
    return replace(statistic, parts_EK=statistic.parts_EK[examples]).value if examples else None
