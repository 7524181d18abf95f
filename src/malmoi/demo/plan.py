"""What the demo tells, and how much time each act has."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from malmoi.show.demo_report import show_act


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """How much time there is for training, and how many rows there are."""

    models_s: float  # the LSTM and the GPT together
    tuning_s: float | None  # of the foundation model; None: the one that ships tuned is asked
    reading_s: float  # its reading of the user's text
    network_s: float  # each small network of each task
    others_s: float  # at most: each other method, most of which need a second
    rows: int  # of a task, to learn from
    test_rows: int
    pairs: int  # of sentences, in each language, for grammar and for logic
    acts_s: tuple[float, ...]  # what each act takes, about


WHOLE = DemoPlan(30.0, 90.0, 60.0, 3.5, 20.0, 2000, 100, 100, (10.0, 55.0, 115.0, 185.0))
QUICK = DemoPlan(8.0, None, 8.0, 0.8, 4.0, 400, 30, 24, (4.0, 16.0, 12.0, 45.0))
ACTS = (
    "Text becomes tokens",
    "One minute of training: noise becomes words",
    "Hours of reading: a foundation model, tuned to answer",
    "Seven tasks: a small model for each, or one for all",
)
OWN_ACTS = (*ACTS[:2], "Hours of reading: the foundation model goes on with your text")


@dataclass(slots=True)
class Clock:
    """Which act is on, and how long each took, by the wall clock."""

    plan: DemoPlan
    acts: tuple[str, ...] = ACTS
    parts: list[tuple[str, float]] = field(default_factory=list)
    last_s: float = field(default_factory=time.perf_counter)

    def begin(self, number: int) -> None:
        """Announce an act (from 1), and about how long the rest takes."""
        count = len(self.acts)
        show_act(number, count, self.acts[number - 1], sum(self.plan.acts_s[number - 1 : count]))

    def lap(self, name: str) -> None:
        """The part of that name is over."""
        now_s = time.perf_counter()
        self.parts.append((name, now_s - self.last_s))
        self.last_s = now_s
