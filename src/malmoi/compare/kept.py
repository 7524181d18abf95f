"""What a student has kept of its teacher, and what it costs, in plain words."""

from __future__ import annotations

import numpy as np

from malmoi.compare.comparison import Comparison
from malmoi.compare.verdict import PER, Row, count_of_costs, saving, show, show_cost
from malmoi.show.templates import latency
from malmoi.util.units import counted, figures, human_bytes


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
            f"{student} agrees with {teacher} by {words} {_with_interval(new, metric)} on "
            f"{counted(number, 'held-out input')}; how right either "
            "is cannot be told, for people have labelled none."
        )
    paid = found.settings.methods[teacher].get("currency", "")
    return f"{text} {_costs(old, new, found.cost_unit, paid)}"


def _with_interval(row: Row, metric: str) -> str:
    found = row.metrics[metric]
    ends = ", ".join(show(metric, found, end) for end in found.interval or ())
    return f"{show(metric, found)} [{ends}]"


def kept(old: Row, new: Row, metric: str) -> str:
    """The new row's quality in percent of the old one's, with its 95% interval (paired bootstrap)."""
    a, b = new.statistics[metric], old.statistics[metric]
    if not a.higher_is_better:
        a, b = b, a
    if b.value == 0:
        return "an unknown share (of nothing)"
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = np.nanpercentile(a.resampled() / b.resampled(), (2.5, 97.5))
    return f"{a.value / b.value:.1%} [{low:.1%}, {high:.1%}]"


def _costs(old: Row, new: Row, unit: str, paid_in: str) -> str:
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
