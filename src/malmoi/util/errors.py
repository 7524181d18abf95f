"""Errors meant for the user: one line that says what is wrong, where, and the mend."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """A mistake that the user can mend. The command line prints its one line and no traceback."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error line about an unknown `name`: the closest known one, else all of them."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"
