"""Prompt lookup: guess how a text goes on by what followed the same words earlier in it.

What copies from its prompt (quotes, names, JSON that repeats the input) is guessed right most of the time,
and several guesses are checked in one step of the model: speculative decoding (Leviathan et al. 2023) whose
draft costs nothing (Saxena 2023). A guess is taken only where it is what the model says.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

LENGTHS = (3, 2)  # of the end that is looked up; the longer one says more
MOST_TOKENS = 16  # of a step that checks guesses: one more costs more than it may save
STEP_TOKENS = 4  # what a step costs beside its tokens, in tokens: measured, 4 to 7 with Gemma 3 270M
RATE = 1 / 8  # how far one check moves what is known of a row
WAIT = 32  # tokens without a guess, until one that seemed not to pay is tried again
_SIZE = array("i").itemsize


class Guesses(NamedTuple):
    """How many tokens were guessed and checked, and how many of them were right."""

    checked: int = 0
    right: int = 0

    def plus(self, checked: int, right: int) -> Guesses:
        return Guesses(self.checked + checked, self.right + right)


@dataclass(slots=True)
class Lookup:
    """The guesses of one row, and how good they are.

    chance: that a guess holds if those before it do: 1/2 at first, then what the last ones were. As many
    tokens are guessed as all hold with a chance that pays: a step of B rows costs each of them 4/B + 1 tokens
    (see STEP_TOKENS) and a guess costs one, so it must be right in B of B + 4 cases. Where a single guess
    does not pay, one is tried every 32 tokens, which costs a text that copies nothing 1 to 3%.
    """

    chance: float = 0.5
    waited: int = 0
    _text: bytearray = field(default_factory=bytearray, repr=False)  # the ids, as far as they were looked at

    def guess(self, ids: Sequence[int], most: int, rows: int) -> list[int]:
        """Up to `most` tokens that may follow, for a row that steps together with others: `rows` in all."""
        count = min(most, MOST_TOKENS // rows - 1, self._count(rows))
        if count <= 0:
            return []
        self._text += array("i", ids[len(self._text) // _SIZE :]).tobytes()
        for length in LENGTHS:
            at = self._after(ids[-length:])
            if at is not None:  # and what repeats itself goes on so
                return [ids[at + i % (len(ids) - at)] for i in range(count)]
        return []

    def check(self, guessed: int, right: int) -> None:
        """How many of the guessed tokens were right, up to the first wrong one."""
        if guessed:
            self.waited = 0
        for holds in [True] * right + [False] * (right < guessed):
            self.chance += RATE * (holds - self.chance)

    def _count(self, rows: int) -> int:
        """How many guesses pay."""
        least = rows / (rows + STEP_TOKENS)
        if self.chance < least:
            self.waited += 1
            return int(self.waited > WAIT)
        return sum(self.chance**count >= least for count in range(1, MOST_TOKENS))

    def _after(self, end: Sequence[int]) -> int | None:
        """Where the text goes on after the last earlier place with these tokens, its end."""
        wanted = array("i", end).tobytes()
        at = self._text.rfind(wanted, 0, len(self._text) - _SIZE)
        while at > 0 and at % _SIZE:  # between two tokens
            at = self._text.rfind(wanted, 0, at + len(wanted) - 1)
        return at // _SIZE + len(end) if at >= 0 else None
