"""What cleaning a data set did, or would find, on a terminal."""

from __future__ import annotations

from collections.abc import Callable

from rich.table import Table
from rich.text import Text

from malmoi.data.cleaning import Cleaned, Totals
from malmoi.data.cleaning_rules import Cleaning
from malmoi.show.terminal import console
from malmoi.util.units import counted, human_bytes

Words = Callable[[str], str]


def show_cleaning(found: Cleaned, cleaning: Cleaning, words: Words = str) -> None:
    """What each rule found, with the first place; then how much there was before and is now."""
    asked = cleaning if cleaning.acts else cleaning.every_rule()
    did = "dropped" if found.after else "found"
    table = Table("rule", did, "share", "what", box=None, pad_edge=False)
    table.columns[1].justify = table.columns[2].justify = "right"
    for name, count in found.dropped.items():
        if count:
            share = f"{count / max(1, found.before.rows):.2%}"
            table.add_row(name, f"{count:,}", share, Text(f"{asked.what(name)}; {_first(found, name)}"))
    for name, count in found.changed.items():
        if count:
            table.add_row(name, f"{count:,}", "", Text(_changed(name, asked)))
    if nothing := [name for name, count in (found.dropped | found.changed).items() if not count]:
        table.add_row("others", "0", "", Text(", ".join(nothing)))
    console.print(table, soft_wrap=False)
    console.print(_amount("before", found.before))
    if found.after:
        console.print(_amount("after", found.after))
        data, dropped, summary = found.files
        console.print(
            Text(f"written: {data}; what was dropped, with reasons: {dropped}; all figures: {summary}")
        )
    elif not cleaning.acts:
        console.print(
            Text(words("nothing is written; name what to do with `fix`, `drop` or `redact`, and `out`"))
        )
    else:
        console.print(Text(words("nothing is written; give `out`")))


def _first(found: Cleaned, name: str) -> str:
    return f"the first: {found.first.get(name, 'by another rule')}"


def _changed(name: str, asked: Cleaning) -> str:
    if name in asked.fix:
        return asked.what(name) if name == "boilerplate" else f"texts with {asked.what(name)}"
    return "pieces of personal data"


def _amount(when: str, totals: Totals) -> Text:
    languages = ", ".join(f"{name} {count:,}" for name, count in totals.languages.items() if count)
    size = f"{totals.characters:,} characters, {human_bytes(totals.bytes)}"
    return Text(f"{when:6} {counted(totals.rows, 'row')}, {size} ({languages or 'no text'})")
