"""Labels that are probably wrong, on a terminal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.table import Table
from rich.text import Text

from malmoi.core.errors import one_line
from malmoi.methods.suspects import Suspect, Suspects
from malmoi.show.terminal import console
from malmoi.text.units import OUTSIDE
from malmoi.util.units import counted

SHOWN = 20  # suspects
LABEL, PLACE = 24, 32  # columns that a label and a place take at most
AROUND = 30  # characters beside the part of a text that is suspected
NARROW = 70  # columns of a terminal, below which a place is shown by its line alone
Words = Callable[[str], str]


def show_suspects(found: Suspects, out: Path | None, words: Words = str) -> None:
    """The first of them in a table, how many there are, and where all are."""
    narrow = console.width < NARROW
    most = LABEL // 2 if narrow else LABEL
    rows = [("line" if narrow else "where", "given", "likely", "sure")]
    rows += [_place(one, narrow) for one in found.rows[:SHOWN]]
    cells = [[_cut(Text(cell), most if 0 < at < 3 else PLACE) for at, cell in enumerate(row)] for row in rows]
    widths = [max(cell.cell_len for cell in column) for column in zip(*cells, strict=True)]
    left = max(LABEL // 2, console.width - sum(widths) - 2 * len(widths))
    table = Table(*(cell.plain for cell in cells[0]), "text", box=None, pad_edge=False)
    for row, one in zip(cells[1:], found.rows, strict=False):
        table.add_row(*row, _cut(_part(one), left))
    for note in found.notes:
        console.print(Text(note, "yellow"))
    if found.rows:
        console.print(table, soft_wrap=False)
    count = counted(len(found.rows), "suspect")
    where = f"; all are in {out}" if out else "; `out` FILE keeps all" if len(found.rows) > SHOWN else ""
    order = f"{count} among {counted(found.judged, 'example')}, the least probable label first"
    console.print(Text(f"{order}{words(where)}"))


def _place(one: Suspect, narrow: bool) -> tuple[str, str, str, str]:
    place = one.where.rpartition(":")[2] if narrow else Path(one.where).name
    return place, _name(one.given), _name(one.likely), f"{one.likely_probability:.0%}"


def _cut(text: Text, most: int) -> Text:
    """At most so many columns of a terminal."""
    text.truncate(most, overflow="ellipsis")
    return text


def _name(label: str) -> str:
    return "(none)" if label == OUTSIDE else label


def _part(one: Suspect) -> Text:
    """The text in one line; of a part of one, what stands around it."""
    before, inside, after = one.text[: one.start], one.text[one.start : one.end], one.text[one.end :]
    text = Text(("…" if len(before) > AROUND else "") + one_line(before[-AROUND:]), "dim")
    text.append(" " if before[-1:].isspace() else "")
    text.append(one_line(inside, 200), "" if inside == one.text else "bold")
    return text.append(" " if after[:1].isspace() else "").append(one_line(after[:AROUND]), "dim")
