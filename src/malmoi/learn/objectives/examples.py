"""Labelled examples: batches of rows of like length, early stopping, and the best weights at the end.

A time budget becomes a number of steps after a short calibration; a recorded number of steps is replayed
as it is, so that a repeated fit is the same fit.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, ClassVar, Generic, TypeVar

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt
from torch import nn

from malmoi.core.config import StrictModel
from malmoi.core.nouns import LATE, Budget, Example, Say, Work
from malmoi.data.batches import Buckets, mixed, within
from malmoi.learn.distributed import ALONE, Group, join_group
from malmoi.learn.job import run_loop
from malmoi.learn.loop import Loop, Net, Objective, StepReport
from malmoi.learn.optim import Schedule
from malmoi.learn.record import Record, pace_of, recorded
from malmoi.learn.run_config import LoopSpec, OptimSpec
from malmoi.learn.trial import Affordable, affordable_steps, rows_at_once
from malmoi.util.units import counted

Row = TypeVar("Row")
Chosen = tuple[Sequence[Any], np.random.Generator]  # rows, and what draws what is hidden of them
PART_TOKENS = 8192  # padded tokens that go through a model at once
FEW_STEPS = 25  # below that a fit says that its budget was too small
STEPS_OF_EVALUATION = 25  # at least, between two evaluations


class FitSpec(OptimSpec):
    """How to fit. evaluations: how often, at most, the validation examples are looked at in a whole fit.

    patience: after how many of them without a better value to stop. The best weights are kept.
    """

    schedule: Schedule = "cosine"
    floor: Annotated[float, Field(ge=0, le=1)] = 0.02
    batch: PositiveInt = 32
    epochs: PositiveFloat = 10.0
    evaluations: PositiveInt = 10
    patience: PositiveInt = 4


class FitPlan(LoopSpec):
    """A `FitSpec` for the loop."""

    lr_name = "lr"
    save_s: ClassVar[float] = 60.0

    evaluations: PositiveInt
    patience: PositiveInt

    @property
    def tries(self) -> int | None:
        return self.patience

    def evaluations_in(self, steps: int) -> int:
        """Few in a short fit, where they would cost much."""
        return max(1, min(self.evaluations, steps // STEPS_OF_EVALUATION))

    def evaluates_after(self, step: int) -> bool:
        """`evaluations_in` times, evenly, the last step among them."""
        count = self.evaluations_in(self.steps)
        return step * count // self.steps > (step - 1) * count // self.steps

    def saves_after(self, step: int) -> bool:
        return self.evaluates_after(step)


class LabelledRows(Objective[Net, Chosen], Generic[Net, Row]):
    """Rows to learn from, which a subclass makes a loss of, and judges by others."""

    def __init__(self, rows: Sequence[Row], length: Callable[[Row], int], spec: FitSpec) -> None:
        """length: tokens that a row takes."""
        self.rows, self.length, self.spec = rows, length, spec
        lengths = [length(row) for row in rows]
        self.context, self._longest = max(lengths), rows[lengths.index(max(lengths))]
        self.buckets = Buckets(lengths, spec.batch, spec.seed)

    @property
    def rows_per_epoch(self) -> int:
        return len(self.rows)

    def part(self, step: int, start: int, stop: int, rank: int = 0) -> Chosen:
        rows = [self.rows[i] for i in self.buckets.batch(step)[start:stop]]
        return rows, np.random.default_rng(mixed(self.spec.seed, step, rank))

    def parts(self, step: int, group: Group, batch: int, rows: int) -> Iterator[Chosen]:
        """As many rows at once as go through the model, which are more of short ones."""
        del batch
        whole = len(self.buckets.batch(step))  # at the end of an epoch there may be fewer
        first, end = (whole * rank // group.size for rank in (group.rank, group.rank + 1))
        chosen, random = self.part(step, first, end, group.rank)
        for part in self.within(chosen, rows):
            yield chosen[part], random

    def within(self, rows: Sequence[Row], most: int) -> list[slice]:
        """Parts of rows, sorted by length, that go through the model at once. most: of the
        longest rows; where it is less than a batch, memory is short."""
        limit = min(PART_TOKENS, most * self.context) if most < self.spec.batch else PART_TOKENS
        return within([self.length(row) for row in rows], limit)

    def trial(self, rows: int) -> Chosen:
        return [self._longest] * min(rows, max(1, PART_TOKENS // self.context)), np.random.default_rng(0)

    def micro_batches(self, rows: int, device: Any) -> list[int]:
        del device
        return [rows >> n for n in range(rows.bit_length())]


def planned_steps(
    model: nn.Module, objective: LabelledRows[Any, Any], plan: FitPlan, spec: FitSpec, work: Work,
    group: Group = ALONE,
) -> Affordable:  # fmt: skip
    """How many steps a fit takes: the recorded number, else the spec's epochs or what the budget affords."""
    if work.budget.steps is not None:
        return Affordable(work.budget.steps)
    steps = epochs_steps(objective, spec)
    if (left_s := work.budget.left_s) is None:
        return Affordable(steps)
    if group.any(left_s <= 0):
        return Affordable(1)
    work.say("trying how long a step takes")
    found = affordable_steps(model, objective, plan, left_s, group)
    return found._replace(steps=min(steps, found.steps))


def epochs_steps(objective: LabelledRows[Any, Any], spec: FitSpec) -> int:
    """As many steps as the spec's epochs are."""
    return max(1, round(spec.epochs * objective.buckets.steps_per_epoch))


def identity(options: StrictModel, *parts: Sequence[Example[Any, Any]]) -> Record:
    """What a fit depends on: its options, and a hash of each part of the examples."""
    rows = ([(one.input, one.references) for one in part] for part in parts)
    hashes = [hashlib.sha256(repr(part).encode()).hexdigest() for part in rows]
    return {"options": options.model_dump(mode="json"), "examples": hashes}


def fit(
    model: nn.Module, objective: LabelledRows[Any, Any], spec: FitSpec, dtype: str, work: Work = Work(),
    words: str = "", asked: Record | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train `model` in place; it ends with the weights that were best in validation. Returns what happened.

    words: what a step consists of, for people; without them nothing is said of the plan. asked: what the fit
    depends on, by which an unfinished one in the folder of `work` is known. Ctrl-C saves a checkpoint there.
    Among what is returned, steps: as planned at the end; curve: (steps done, training loss, validation value,
    of which more is better) of each evaluation; note: what a budget did not pay for, or ''.
    """
    start_s, group, say = time.perf_counter(), join_group(), work.say
    plan = FitPlan.model_validate({
        **{name: getattr(spec, name) for name in OptimSpec.model_fields}, "dtype": dtype,
        "batch": spec.batch, "evaluations": spec.evaluations, "patience": spec.patience, "micro_batch": 1,
    })  # fmt: skip
    rows = rows_at_once(model, objective, spec.batch, dtype)
    plan = plan.model_copy(update={"micro_batch": rows})
    steps, evaluation_s = recorded(
        work.folder, asked or {}, lambda: planned_steps(model, objective, plan, spec, work, group), group, say
    )
    if words:
        say(f"{counted(steps, 'step')} of {words}")
    plan = plan.model_copy(update={"steps": steps, "warmup_steps": min(spec.warmup_steps, steps // 10)})
    pace = pace_of(work.folder, work.budget, evaluation_s, say, group)
    loop = Loop(model, objective, plan, work.folder, group, pace)
    loop.resume(say)
    run_loop(loop, lambda found: _report(loop, found, say))
    assert loop.best is not None
    loop.take_best()
    model.eval()
    return {
        "steps": loop.spec.steps, "judged_by": objective.judged_by, "best_step": loop.best.step,
        "best": loop.best.value, "seconds": time.perf_counter() - start_s, "curve": loop.best.curve,
        "note": _unpaid(loop, epochs_steps(objective, spec), work.budget),
    }  # fmt: skip


def _unpaid(loop: Loop[Any, Any], whole: int, budget: Budget) -> str:
    """What a budget did not pay for: a line for people, or ''. whole: the steps of the spec's epochs."""
    steps = loop.spec.steps
    notes = [f"it was stopped at {1 + LATE:g} times its budget"] * loop.pace.stopped
    if steps < min(FEW_STEPS, whole):
        notes.append(f"the budget paid for {counted(steps, 'step')} only; give it more time")
    elif steps < whole and budget.end_s < math.inf:
        notes.append(f"the budget paid for {steps:,} of {counted(whole, 'step')}")
    return "; ".join(notes)


def _report(loop: Loop[Any, Any], found: StepReport, say: Say) -> None:
    """A line for each evaluation."""
    best, name = loop.best, loop.objective.judged_by
    if best is None or not best.curve or best.curve[-1][0] != found.step:
        return
    shown = found.valid_loss if name == "loss" else found.measures[f"valid_{name}"]
    say(f"step {found.step}/{loop.spec.steps}  loss {found.loss:.4f}  valid {name} {shown:.4f}")
    if best.evaluations_since >= (loop.spec.tries or 0):
        say(f"no better since step {best.step}: stopped")
