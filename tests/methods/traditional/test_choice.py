"""What counts and chooses keeps to its time, by a clock of its own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import NamedTuple

import pytest

from malmoi.core import nouns
from malmoi.core.nouns import Budget, Example, Work
from malmoi.methods.traditional.choice import LEAST_EXAMPLES, LEAST_ITERATIONS, TimeKeeper


class Setting(NamedTuple):
    c: int
    view: str


FIELDS = {"c": (1, 2, 3), "view": ("words", "letters")}
VALUES = {1: 0.1, 2: 0.3, 3: 0.2, "words": 0.0, "letters": 0.5}
START = Setting(1, "words")


class Clock:
    """Time passes where work is done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(nouns, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def keeper(self, seconds: float | None) -> TimeKeeper:
        """Of a budget that begins now."""
        return TimeKeeper.of(Work(Budget(seconds)))

    def value(self, setting: Setting) -> float:
        """Of a setting; it takes 10 seconds."""
        self.now += 10
        return VALUES[setting.c] + VALUES[setting.view]

    def iterate(self, count: int) -> None:
        """A second an iteration."""
        self.now += count


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.mark.parametrize(
    ("seconds", "found", "tries", "left_out"),
    [
        (None, Setting(2, "letters"), 4, []),
        (51, Setting(2, "letters"), 4, []),
        (45, Setting(2, "words"), 3, ["1 of 4 settings"]),
        (35, Setting(2, "words"), 2, ["2 of 4 settings"]),
        (1, START, 1, ["3 of 4 settings"]),
        (0, START, 0, ["4 of 4 settings"]),
    ],
)
def test_settings_are_tried_as_long_as_the_last_fit_has_its_time(
    seconds: float | None, found: Setting, tries: int, left_out: list[str], clock: Clock
) -> None:
    keeper = clock.keeper(seconds)
    assert keeper.best(START, FIELDS, clock.value) == found
    assert clock.now == 1000 + 10 * tries
    assert keeper.left_out == left_out


def test_of_equal_settings_the_first_is_taken_whichever_is_tried_first(clock: Clock) -> None:
    assert clock.keeper(None).best(Setting(3, "words"), FIELDS, lambda _: 1.0) == START


@pytest.mark.parametrize(("seconds", "count"), [(None, 50), (80, 50), (25, 21), (0, LEAST_ITERATIONS)])
def test_a_solver_has_as_many_iterations_as_there_is_time_for(
    seconds: float | None, count: int, clock: Clock
) -> None:
    keeper = clock.keeper(seconds)
    assert keeper.iterations(clock.iterate, 50) == count
    assert keeper.left_out == ([f"{50 - count} of 50 iterations"] if count < 50 else [])


def test_a_try_that_would_take_too_long_is_foreseen(clock: Clock) -> None:
    keeper = clock.keeper(60)
    keeper.expect(clock.iterate, 50)
    assert keeper.best(START, FIELDS, clock.value) == START
    assert keeper.left_out == ["4 of 4 settings"]


@pytest.mark.parametrize(("seconds", "least"), [(None, 1000), (200, 100), (0, LEAST_EXAMPLES)])
def test_examples_are_taken_for_a_share_of_the_time(seconds: float | None, least: int, clock: Clock) -> None:
    keeper, taken = clock.keeper(seconds), list[int]()
    for item in keeper.some(range(1000), 0.5):
        taken.append(item)
        clock.now += 1
    assert least <= len(taken) < least + LEAST_EXAMPLES
    assert len(set(taken)) == len(taken)
    assert (taken == sorted(taken)) is (seconds is None), "where some are left out, they are from everywhere"
    left = [] if seconds is None else [f"{1000 - len(taken)} of 1,000 examples"]
    assert keeper.left_out == left


def test_what_was_chosen_by_is_learned_where_there_is_time(clock: Clock) -> None:
    examples = [Example("a", "b")]
    keeper = clock.keeper(30)
    keeper.timed(lambda: clock.value(START))
    assert keeper.also(examples, 1.5) == examples
    assert keeper.also(examples, 2.5) == ()
    assert keeper.facts(examples, ()) == {
        "learned_from": {"train": 1, "valid": 0},
        "note": "the budget of 30 s left no time for learning from the 1 example that it chose by",
    }


def test_recorded_steps_leave_nothing_out(clock: Clock) -> None:
    keeper = TimeKeeper.of(Work(Budget(0, steps=3)))
    assert keeper.best(START, FIELDS, clock.value) == Setting(2, "letters")
    assert keeper.note == ""
