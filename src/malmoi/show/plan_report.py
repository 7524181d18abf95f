"""What more labels would bring, and what to label next, on a terminal."""

from __future__ import annotations

from collections.abc import Callable

from rich.table import Table
from rich.text import Text

from malmoi.compare.label_plan import MULTIPLES, FamilyPlan, LabelPlan, Outlook
from malmoi.compare.next_labels import Planned
from malmoi.core.errors import one_line
from malmoi.show.terminal import console
from malmoi.util.units import counted

TEXTS = 5  # to label next
Words = Callable[[str], str]


def show_plan(found: Planned, words: Words = str) -> None:
    """The curve and the forecast of each family, the sentence, and what to label next."""
    plan = found.plan
    for note in plan.notes:
        console.print(Text(words(note), "dim"))
    table = Table(plan.metric.replace("_", " "), box=None, pad_edge=False)
    for name in (f"today ({plan.labels:,})", *(f"{times}x ({times * plan.labels:,})" for times in MULTIPLES)):
        table.add_column(name, justify="right")
    for family in plan.families:
        table.add_row(family.name, *_cells(plan, family))
    console.print(table, soft_wrap=False)
    console.print(Text(f"\n{plan.sentence}", "bold green"), soft_wrap=False)
    if found.chosen:
        console.print(f"\nlabel next ({counted(len(found.chosen), 'text')}; {found.chosen_by}):")
        for row in found.chosen[:TEXTS]:
            text = " · ".join(one_line(str(value), 200) for value in row.values())
            console.print(Text(f"  {text}"), soft_wrap=False, no_wrap=True, overflow="ellipsis")
        console.print(f"all of them: {', '.join(map(str, found.files))}")


def _cells(plan: LabelPlan, family: FamilyPlan) -> list[str]:
    if family.error:
        return [f"left out: {family.error}"]
    return [plan.show(family.points[-1].value), *(_outlook(plan, one) for one in family.outlooks)]


def _outlook(plan: LabelPlan, one: Outlook) -> str:
    low, high = (plan.show(end) for end in one.interval)
    return f"{plan.show(one.value)} [{low} to {high}]"
