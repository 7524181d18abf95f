"""A run keeps to its time, and a resume keeps to the run's plan."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from malmoi.core import nouns
from malmoi.core.nouns import Budget, Work
from malmoi.learn import loop, pace, trial
from malmoi.learn.distributed import ALONE
from malmoi.learn.objectives.examples import Chosen, FitPlan, FitSpec, fit
from malmoi.learn.pace import Change, Pace
from malmoi.learn.record import same_threads
from tests.learn.test_fit import Line

SPEC = FitSpec(lr=0.05, warmup_steps=0, batch=16, epochs=40, evaluations=20, patience=20)


class Clock:
    """Time passes where steps are taken: one takes `before_s` up to step `slow_from`, then `after_s`."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, slow_from: int, before_s: float, after_s: float
    ) -> None:
        self.now = 1000.0
        self.slow_from, self.before_s, self.after_s = slow_from, before_s, after_s
        for module in (nouns, trial, loop):
            monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: self.now))
        monkeypatch.setattr(pace, "perf_counter", lambda: self.now)

    def tick(self, step: int) -> None:
        """A step is taken."""
        self.now += self.before_s if step < self.slow_from else self.after_s


class TimedLine(Line):
    """Its steps take their time; it is killed when it comes to step `killed_at`."""

    def __init__(self, clock: Clock, killed_at: int | None = None) -> None:
        super().__init__(spec=SPEC)
        self.clock, self.killed_at = clock, killed_at
        self.first_step: int | None = None

    def part(self, step: int, start: int, stop: int, rank: int = 0) -> Chosen:
        if step == self.killed_at:
            raise KeyboardInterrupt
        self.first_step = step if self.first_step is None else self.first_step
        self.clock.tick(step)
        return super().part(step, start, stop, rank)


def run(
    pace_: Pace, steps: int, step_s: list[float], patch: pytest.MonkeyPatch, evaluation_s: float = 0.0
) -> tuple[int, float]:
    """How many steps are taken, and how long that takes; `step_s` of each."""
    clock = SimpleNamespace(now=0.0)
    patch.setattr(pace, "perf_counter", lambda: clock.now)
    step = 0
    spec = FitPlan.model_validate(SPEC.model_dump(exclude={"epochs"}) | {"micro_batch": 16, "steps": steps})
    while step < (steps := pace_.steps(step, spec, ALONE)):
        spec = spec.model_copy(update={"steps": steps})
        clock.now += step_s[step]
        step += 1
        if evaluation_s and spec.evaluates_after(step):
            start_s = clock.now
            clock.now += evaluation_s
            pace_.evaluated(start_s)
    return step, clock.now


@given(
    steps=st.integers(8, 400),
    slow_from=st.floats(0, 1),
    slower=st.floats(0.3, 8),
    noise=st.integers(0, 5),
)
def test_a_run_ends_in_time_whatever_becomes_slower(
    steps: int, slow_from: float, slower: float, noise: int
) -> None:
    step_s = [
        (slower if step >= slow_from * steps else 1.0) + 0.001 * (step % (1 + noise)) for step in range(steps)
    ]
    with pytest.MonkeyPatch.context() as patch:
        taken, seconds = run(Pace(1.05 * steps), steps, step_s, patch)
    between_looks = max(pace.LEAST_STEPS, steps // pace.LOOKS)
    assert seconds <= 1.05 * steps / pace.LATE + between_looks * max(step_s)
    if slower < 1.04:
        assert taken == steps
    if taken < steps:
        assert seconds > 0.5 * steps, "no more is given up than must be"


@pytest.mark.parametrize("steps", [20, 200])
def test_time_is_kept_for_evaluations(steps: int) -> None:
    """The last one takes a third of the time, or several do; steps become slower at a quarter."""
    step_s = [1.0] * (steps // 4) + [2.0] * steps
    count = max(1, steps // 25)
    evaluation_s = steps / 3 / count
    with pytest.MonkeyPatch.context() as patch:
        end_s = steps + count * evaluation_s
        taken, seconds = run(Pace(end_s, evaluation_s), steps, step_s, patch, evaluation_s)
    assert taken < 0.8 * steps
    assert seconds < 1.1 * end_s


def test_without_a_time_the_plan_stays() -> None:
    with pytest.MonkeyPatch.context() as patch:
        assert run(Pace(), 100, [1.0] * 50 + [9.0] * 50, patch) == (100, 500.0)


@pytest.mark.parametrize(("steps", "most", "stopped"), [(3, 1, True), (60, 2, False)])
def test_a_run_is_planned_anew_as_soon_as_it_is_late_and_stopped_at_last(
    steps: int, most: int, stopped: bool
) -> None:
    """Every step takes thirty times as long as was foreseen."""
    found = Pace(steps, stop_s=1.2 * steps)
    with pytest.MonkeyPatch.context() as patch:
        taken, _ = run(found, steps, [30.0] * steps, patch)
    assert taken == most
    assert found.stopped is stopped


def test_changes_are_kept_and_made_again() -> None:
    kept: list[list[Change]] = []
    first = Pace(100, keep=lambda changes: kept.append(list(changes)))
    with pytest.MonkeyPatch.context() as patch:
        taken, _ = run(first, 100, [1.0] * 50 + [2.0] * 50, patch)
        assert kept
        assert kept[-1] == first.changes
        assert taken < 90
        assert run(Pace(changes=first.changes), 100, [5.0] * 100, patch)[0] == taken
        # it waits with further ones until it has come to the last
        slow, before = Pace(1, changes=list(first.changes)), len(first.changes)
        run(slow, 100, [5.0] * 100, patch)
        assert slow.changes[:before] == first.changes


@pytest.mark.parametrize("killed_at", [430, 520])
def test_a_fit_keeps_to_its_budget_and_going_on_changes_nothing(
    killed_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps become three times slower at half of the plan: fewer are taken, and the rate falls sooner."""
    said: list[str] = []

    def fitted(
        folder: Path, seconds: float | None, killed: int | None = None
    ) -> tuple[TimedLine, dict[str, Any]]:
        line = TimedLine(Clock(monkeypatch, 400, 1.0, 3.0), killed)
        work = Work(Budget(seconds), said.append, folder).begin()
        return line, fit(line.model, line, SPEC, "fp32", work)

    whole, found = fitted(tmp_path / "whole", 820)
    record = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert record["steps"] > 700
    assert killed_at < record["changes"][-1][1] == found["steps"] < 700
    assert whole.clock.now - 1000 < 1.1 * 820
    assert any("slower" in line for line in said)
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "run.json").write_text(json.dumps(record))
    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path / "parts", None, killed_at)
    going_on, again = fitted(tmp_path / "parts", None)
    assert again["steps"] == found["steps"]
    assert going_on.first_step, "it goes on from a checkpoint"
    assert torch.equal(whole.model.weight, going_on.model.weight)


def test_a_fit_whose_time_is_over_ends_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of the trial takes a second, a later one two hours."""
    clock = Clock(monkeypatch, 0, 1.0, 1.0)
    line, said = TimedLine(clock), list[str]()

    def slower(line_: str) -> None:
        said.append(line_)
        if "steps of" in line_:
            clock.after_s = 7200.0

    found = fit(line.model, line, SPEC, "fp32", Work(Budget(400), slower).begin(), "a line")
    assert found["steps"] == 1
    assert found["curve"], "it is evaluated at its end"
    assert "stopped at 1.2 times its budget; the budget paid for 1 step only" in found["note"]
    assert any("the time is over: stopped at step 1" in one for one in said)


@pytest.mark.parametrize(("before", "now", "after"), [(1, 2, 1), (2, 1, 1), (2, 2, 2), (None, 2, 2)])
def test_a_resume_has_as_many_threads_as_the_run_began_with(
    before: int | None, now: int, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums in several parts depend on it; but never more than there are now, which somebody has asked for."""
    current, said = [now], list[str]()
    monkeypatch.setattr(torch, "get_num_threads", lambda: current[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda wanted: current.__setitem__(0, wanted))
    same_threads({} if before is None else {"threads": before}, said.append)
    assert current == [after]
    assert bool(said) is (before not in (None, now))
