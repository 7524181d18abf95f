"""Fit a model to labelled examples: the one loop behind every neural method, with early stopping.

A time budget becomes a number of steps after a short calibration; a recorded number of steps is replayed
as it is, so that a repeated fit is the same fit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Protocol

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from malmoi.core.nouns import Budget
from malmoi.core.tensors import Loss
from malmoi.learn.optim import make_optimizers
from malmoi.learn.schedule import Schedule
from malmoi.learn.update import OptimSpec, update
from malmoi.util.seeds import mixed

CALIBRATION_STEPS = 6  # at most; the first, which warms up, not counted
STEPS_OF_EVALUATION = 25  # at least so many steps between two evaluations


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

    def evaluations_in(self, steps: int) -> int:
        """How many there are in a fit of so many steps: few in a short one, where they would cost much."""
        return max(1, min(self.evaluations, steps // STEPS_OF_EVALUATION))


class Problem(Protocol):
    """What a fit optimises."""

    model: nn.Module
    steps_per_epoch: int
    dtype: str  # "fp32" or "bf16", in which losses are computed
    judged_by: str  # what `validate` tells: "loss" (turned, so below zero), or a metric's name

    def losses(self, step: int) -> Iterator[Loss]:
        """The parts of one step's batch; a function of the step."""
        ...

    def validate(self) -> float:
        """How good the model is on examples that it does not learn from; higher is better."""
        ...


@dataclass(slots=True)
class FitReport:
    """What a fit did. curve: (step, training loss, validation value as in `Problem`) at each evaluation."""

    steps: int  # planned
    judged_by: str
    best_step: int = 0
    best: float = float("-inf")
    seconds: float = 0.0
    curve: list[tuple[int, float, float]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For a method's report."""
        return asdict(self)


def planned_steps(problem: Problem, spec: FitSpec, budget: Budget) -> int:
    """How many steps a fit takes: the recorded number, else the spec's epochs or what the budget affords."""
    if budget.steps is not None:
        return budget.steps
    steps = max(1, round(spec.epochs * problem.steps_per_epoch))
    left_s = budget.left_s
    return steps if left_s is None else min(steps, affordable_steps(problem, spec, left_s))


def fit(
    problem: Problem, spec: FitSpec, steps: int, say: Callable[[str], None] = lambda _: None
) -> FitReport:
    """Train `problem.model` in place; it ends with the weights that were best in validation."""
    start_s = time.perf_counter()
    report = FitReport(steps, problem.judged_by)
    best = _copied(problem.model)
    for step, loss in _train(problem, spec, steps):
        if not _due(step, steps, spec.evaluations_in(steps)):
            continue
        value = problem.validate()
        report.curve.append((step, loss, value))
        shown = -value if problem.judged_by == "loss" else value
        say(f"step {step}/{steps}  loss {loss:.4f}  valid {problem.judged_by} {shown:.4f}")
        if value > report.best:
            report.best, report.best_step, best = value, step, _copied(problem.model)
        elif _evaluations_since(report) >= spec.patience:
            say(f"no better since step {report.best_step}: stopped")
            break
    _restore(problem.model, best)
    problem.model.eval()
    report.seconds = time.perf_counter() - start_s
    return report


def affordable_steps(problem: Problem, spec: FitSpec, seconds: float) -> int:
    """How many steps, with their evaluations, fit in the budget. The model is as before afterwards."""
    before, start_s = _copied(problem.model), time.perf_counter()
    durations_s: list[float] = []
    last_s = start_s
    for _ in _train(problem, spec, CALIBRATION_STEPS, stride=max(1, problem.steps_per_epoch // 7)):
        now_s = time.perf_counter()
        durations_s.append(now_s - last_s)
        last_s = now_s
        if len(durations_s) > 1 and now_s - start_s > seconds / 2:
            break
    problem.validate()
    evaluation_s = time.perf_counter() - last_s
    _restore(problem.model, before)
    step_s = sum(durations_s[1:]) / (len(durations_s) - 1)
    left_s, steps = seconds - (time.perf_counter() - start_s), 1
    for evaluations in range(spec.evaluations, 0, -1):
        steps = max(1, int((left_s - evaluations * evaluation_s) / step_s))
        if spec.evaluations_in(steps) >= evaluations:
            break
    return steps


def _train(problem: Problem, spec: FitSpec, steps: int, stride: int = 1) -> Iterator[tuple[int, float]]:
    """Take the steps with fresh optimizers; yields (steps done, loss). stride: which batches to take."""
    warmup_steps = min(spec.warmup_steps, steps // 10)
    spec = spec.model_copy(update={"warmup_steps": warmup_steps})
    optimizers = make_optimizers(
        problem.model, spec.optimizer, lr=spec.lr, weight_decay=spec.weight_decay, betas=spec.betas,
        dtype=torch.bfloat16 if problem.dtype == "bf16" else torch.float32,
    )  # fmt: skip
    for step in range(steps):
        problem.model.train()
        torch.manual_seed(mixed(spec.seed, step))  # dropout is a function of seed and step, as batches are
        found = update(problem.model, optimizers, problem.losses(step * stride), spec, step=step, steps=steps)
        problem.model.eval()
        yield step + 1, found.loss


def _due(step: int, steps: int, evaluations: int) -> bool:
    """Whether to evaluate after this step: `evaluations` times, evenly, the last step among them."""
    return step * evaluations // steps > (step - 1) * evaluations // steps


def _evaluations_since(report: FitReport) -> int:
    return sum(step > report.best_step for step, _, _ in report.curve)


def _copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _restore(model: nn.Module, weights: dict[str, Tensor]) -> None:
    model.load_state_dict(weights)
