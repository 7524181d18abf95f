"""A cascade on the terminal."""

from __future__ import annotations

from rich.table import Table

from malmoi.compare.cascades import CascadeReport, Side, promised
from malmoi.show.terminal import console
from malmoi.util.units import human_seconds, latency


def show_cascade(report: CascadeReport) -> None:
    """What it promises, what it could promise instead, and what it saves."""
    cheap, strong = report.names
    console.print(f"{promised(report)}.", style="bold")
    table = Table("at most wrong", f"{cheap} answers alone", box=None, pad_edge=False)
    for most, found in report.others.items():
        shown = "not shown" if found is None else f"{found.answered / found.count:.1%}"
        table.add_row(f"{most:.0%}", shown)
    console.print(table)
    sides = Table("", "right as a whole", "one prediction", box=None, pad_edge=False)
    for name, side in ((cheap, report.cheap), (strong, report.strong), ("both", report.both)):
        sides.add_row(name, *_cells(side))
    console.print(sides)
    if (saved_s := report.saved_s) is not None:
        less, took = "less" if saved_s > 0 else "more", human_seconds(abs(saved_s))
        console.print(f"A million predictions take {took} {less} than by {strong} alone.")


def _cells(side: Side) -> tuple[str, str]:
    right, seconds = side.right, side.seconds
    low, high = (right and right.interval) or (0.0, 1.0)
    share = "" if right is None else f"{right.value:.1%} ({low:.1%} to {high:.1%})"
    return share, "" if seconds is None else latency(seconds)
