"""How far long work has come, said now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from malmoi.util.units import counted, human_seconds

ON_TERMINAL_S, ELSEWHERE_S = 5.0, 30.0  # people watch a terminal; a log keeps every line


def pause_s() -> float:
    """How long to be silent between two lines that go to standard output."""
    return ON_TERMINAL_S if sys.stdout and sys.stdout.isatty() else ELSEWHERE_S


class Progress:
    """Says how many of `total` are done and how long the others will take; called with how many are.

    What is done within `every_s` seconds is not worth a line.
    """

    def __init__(
        self, total: int, noun: str, say: Callable[[str], None], every_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._total, self._noun, self._say, self._every_s, self._clock = total, noun, say, every_s, clock
        self._began_s = self._said_s = clock()

    def __call__(self, done: int) -> None:
        now_s = self._clock()
        if not 0 < done < self._total or now_s - self._said_s < self._every_s:
            return
        self._said_s = now_s
        left_s = (now_s - self._began_s) / done * (self._total - done)
        self._say(f"{done:,} of {counted(self._total, self._noun)}, {human_seconds(left_s)} left")
