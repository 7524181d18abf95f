"""Errors meant for the user: one line that says what is wrong, where, and the fix."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

MOST_CHARACTERS = 1000  # of an error's line

# What working with a damaged value raises where nothing has checked it; RecursionError is a RuntimeError.
DAMAGE = (
    ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip


class UserError(ValueError):
    """A mistake that the user can fix: "WHERE: WHAT; FIX" in one line, which is all that is shown of it.

    A line names an option as `out`, between backticks; the command line shows its own flag instead. It may
    quote a file of others: it becomes one line of printable characters, not too long.
    """

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(one_line(f"{where}: " * bool(where) + what + f"; {fix}" * bool(fix)))


def one_line(text: str, most: int = MOST_CHARACTERS) -> str:
    """The text with its white space as single spaces, unprintable characters escaped, its middle cut out
    where it has over `most` characters (the beginning says where, the end how to fix it)."""
    if len(text) > most:
        head = most * 2 // 3
        text = f"{text[:head]} ... {text[head - most :]}"
    words = " ".join(re.split(r"[\t\n\v\f\r]+ *", text.strip()))
    return "".join(it if it.isprintable() else repr(it)[1:-1] for it in words)


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error line about an unknown `name`: the closest known one, else all of them."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"
