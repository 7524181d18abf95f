"""A run that keeps to its time: where its steps have become slower, fewer of them are planned.

The learning rate follows the plan, so what was planned, and when, is a part of the run's record: a resume
plans the same again. Without a time, nothing is ever planned anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

from malmoi.learn.distributed import Group
from malmoi.learn.run_config import LoopSpec

LOOKS = 8  # at the clock, in a run
LEAST_STEPS = 4  # between two of them, as steps differ
LATE = 0.9  # of the steps that are left can be afforded: then only so many are planned

Change = tuple[int, int]  # steps done, steps planned from there on


@dataclass(slots=True)
class Pace:
    """end_s: when the time is over, by time.perf_counter; stop_s: when no further step may begin, whatever
    was planned. evaluation_s: how long an evaluation takes.

    changes: of the plan, in order. keep: takes down all of them when there is a new one.
    """

    end_s: float = math.inf
    evaluation_s: float = 0.0
    changes: list[Change] = field(default_factory=list)
    keep: Callable[[list[Change]], None] = lambda _: None
    stop_s: float = math.inf
    _last: tuple[int, float] | None = None  # steps done and the time, at the last look
    _long_s: float = math.inf  # without a look

    @property
    def stopped(self) -> bool:
        """Whether a run had to end where it was."""
        return bool(self.changes) and self.changes[-1][0] == self.changes[-1][1]

    def evaluated(self, start_s: float) -> None:
        """An evaluation, which began then, is over: it takes so long now, and was no part of a step."""
        self.evaluation_s = perf_counter() - start_s
        if self._last is not None:
            self._last = self._last[0], self._last[1] + self.evaluation_s

    def steps(self, step: int, spec: LoopSpec, group: Group) -> int:
        """How many steps the run has, of which `step` are done; by `spec` there were `spec.steps`."""
        steps = next((planned for at, planned in reversed(self.changes) if at <= step), spec.steps)
        if self._last is None:
            now_s = perf_counter()
            self._last, self._long_s = (step, now_s), (self.end_s - now_s) / LOOKS
        elif self.end_s < math.inf and step > self._last[0] and not any(at >= step for at, _ in self.changes):
            affordable = self._now_affordable(step, steps, spec, group)
            if affordable < step + LATE * (steps - step):
                self.changes.append((step, affordable))
                self.keep(self.changes)
                return affordable
        return steps

    def _now_affordable(self, step: int, steps: int, spec: LoopSpec, group: Group) -> int:
        """How many steps there can be in all, where it is time for a look: as many as planned, else."""
        assert self._last is not None
        now_s, (before, then_s) = perf_counter(), self._last
        if group.any(now_s >= self.stop_s):
            return step
        due = step - before >= max(LEAST_STEPS, steps // LOOKS)
        return (
            self._affordable(step, steps, spec, group)
            if group.any(due or now_s - then_s > self._long_s)
            else steps
        )

    def _affordable(self, step: int, steps: int, spec: LoopSpec, group: Group) -> int:
        """How many steps there can be in all at the speed since the last look: the same in every process."""
        assert self._last is not None
        (before, then_s), now_s = self._last, perf_counter()
        self._last = step, now_s
        evaluations = math.ceil(spec.evaluations_in(steps) * (steps - step) / steps)
        left_s = self.end_s - now_s - evaluations * self.evaluation_s
        step_s, left_s = (
            value / group.size
            for value in group.sum_over_processes((now_s - then_s) / (step - before), left_s)
        )
        return step + max(0, int(left_s / max(step_s, 1e-9)))
