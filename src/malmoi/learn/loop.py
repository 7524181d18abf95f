"""The training loop, the one for every model: rows -> loss -> gradients -> step.

What is learned is an `Objective`; those that there are lie in `malmoi.learn.objectives`. Batches are a
function of (seed, step), so a resume is exact.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from malmoi.core.errors import UserError
from malmoi.core.tensors import Loss
from malmoi.data.batches import mixed
from malmoi.learn.checkpoint import load_checkpoint, save_checkpoint
from malmoi.learn.distributed import ALONE, Group
from malmoi.learn.optim import learning_rate_factor, make_optimizers
from malmoi.learn.pace import Pace
from malmoi.learn.run_config import LoopSpec
from malmoi.models.lora import trained_parameters
from malmoi.util.threads import share_cores

Net = TypeVar("Net", bound=nn.Module)
Part = TypeVar("Part")  # some rows of a batch
CPU_TOKENS = 8192  # of a CPU's micro-batch: more tokens are no faster, they only leave the caches


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one optimizer step did. Losses are nats per token; validation is None between evaluations.

    measures: what else the objective tells of the step ("margin") and of the validation ("valid_margin").
    """

    step: int  # steps done
    loss: float
    gradient_norm: float
    lr: float
    tokens_per_s: float
    valid_loss: float | None = None
    valid_bits_per_byte: float | None = None
    measures: dict[str, float] = field(default_factory=dict)


class Objective(ABC, Generic[Net, Part]):
    """What a model learns: the rows of every step, a function of (seed, step), and how it is judged.

    context: tokens of a row, padding counted. judged_by: the measure of `evaluate` by which the best weights
    are chosen, where they are; less is better of "loss", more of any other.
    """

    context: int
    judged_by: str = "loss"

    @property
    @abstractmethod
    def rows_per_epoch(self) -> int:
        """How many rows there are to learn from."""

    @abstractmethod
    def part(self, step: int, start: int, stop: int) -> Part:
        """Rows `start` to `stop` of the global batch at `step`."""

    @abstractmethod
    def trial(self, rows: int) -> Part:
        """`rows` rows that take as much time and memory as any, for `malmoi.learn.trial`."""

    @abstractmethod
    def loss(self, model: Net, part: Part) -> Loss:
        """The summed loss of some rows, with gradients; `part` goes to the model's device here."""

    @abstractmethod
    def evaluate(self, loss: Callable[[Part], Loss], rows: int, limit: int | None = None) -> dict[str, float]:
        """Measures of the validation rows, `rows` of them at a time: "loss" (the mean), and others.

        limit: how many tokens (or pairs) to look at, by default what the objective was made with.
        """

    def parts(self, step: int, group: Group, batch: int, rows: int) -> Iterator[Part]:
        """This process's share of the global batch of `batch` rows at `step`, `rows` of them at a time."""
        first, end = group.share(batch)
        for start in range(first, end, rows):
            yield self.part(step, start, min(start + rows, end))

    def micro_batches(self, rows: int, device: torch.device) -> list[int]:
        """How many of `rows` rows may be read at once, the most first; memory decides among them."""
        divisors = [n for n in range(rows, 0, -1) if rows % n == 0]
        # on a GPU they are tried one after another until one does not run out of memory
        return [n for n in divisors if device.type == "cuda" or n * self.context <= CPU_TOKENS] or [1]


@dataclass(slots=True)
class Best:
    """The best weights that a loop has seen, where it ends with them.

    curve: (steps done, training loss, validation value, of which more is better) of each evaluation.
    """

    weights: dict[str, Tensor]
    step: int = 0
    value: float = -math.inf
    curve: list[tuple[int, float, float]] = field(default_factory=list)

    @property
    def evaluations_since(self) -> int:
        """How many have found nothing better."""
        return sum(step > self.step for step, _, _ in self.curve)

    def see(self, step: int, loss: float, value: float, model: nn.Module) -> None:
        """An evaluation."""
        self.curve.append((step, loss, value))
        if value > self.value:
            self.step, self.value, self.weights = step, value, _copied(model)


class Loop(Generic[Net, Part]):
    """Trains one model on one objective, with checkpoints where it has a folder for them.

    `spec.micro_batch` and `spec.dtype` must have been settled (see `malmoi.learn.trial`).
    """

    def __init__(
        self, model: Net, objective: Objective[Net, Part], spec: LoopSpec, folder: Path | None = None,
        group: Group = ALONE, pace: Pace | None = None,
    ) -> None:  # fmt: skip
        assert spec.micro_batch is not None
        share_cores()
        self.model, self.objective, self.spec = model, objective, spec
        self.micro_rows = spec.micro_batch
        self.group, self.pace = group, pace or Pace()
        self.checkpoints = folder and folder / "checkpoints"
        self.optimizers = make_optimizers(
            model, spec.optimizer, lr=spec.lr, weight_decay=spec.weight_decay, betas=spec.betas,
            dtype=torch.bfloat16 if spec.dtype == "bf16" else torch.float32,
        )  # fmt: skip
        self.step = 0
        self.best = None if spec.tries is None else Best(_copied(model))
        self._saved_s = time.perf_counter()

    @property
    def context(self) -> int:
        """Tokens of a row."""
        return self.objective.context

    @property
    def finished(self) -> bool:
        """Whether no step is left, or the last evaluations have found nothing better."""
        tired = self.best is not None and self.best.evaluations_since >= (self.spec.tries or math.inf)
        return self.step >= self.spec.steps or tired

    def resume(self, warn: Callable[[str], None]) -> None:
        """Go on from the newest whole checkpoint, if there is one."""
        found = self.checkpoints and load_checkpoint(self.checkpoints, self.model, self.optimizers, warn)
        if not found:
            return
        self.step = found.step
        if self.best is not None:
            facts: dict[str, Any] = found.facts
            curve = [(step, loss, value) for step, loss, value in facts["curve"]]
            self.best = Best(found.tensors, facts["best_step"], facts["best"], curve)

    def save(self) -> None:
        """Write a checkpoint of now (the first process of the group does)."""
        if self.checkpoints is None or not self.group.first:
            return
        best = self.best
        facts = {} if best is None else {"curve": best.curve, "best_step": best.step, "best": best.value}
        weights = None if best is None else best.weights
        save_checkpoint(self.checkpoints, self.step, self.model, self.optimizers, weights, facts)
        self._saved_s = time.perf_counter()

    def run(self) -> Iterator[StepReport]:
        """Train to the end, one report a step, with checkpoints and evaluations when they are due."""
        self._plan()
        while not self.finished:
            start_s = time.perf_counter()
            done = self.take_step()
            tokens_per_s = self.spec.batch * self.context / (time.perf_counter() - start_s)
            spec = self._plan()
            found = self.evaluate() if spec.evaluates_after(self.step) else {}
            if found and self.best is not None:
                self.best.see(self.step, done.loss, self._value(found), self.model)
            if spec.saves_after(self.step) and time.perf_counter() - self._saved_s >= spec.save_s:
                self.save()
            yield StepReport(
                self.step, done.loss, done.gradient_norm, done.lr, tokens_per_s,
                found.pop("loss", None), found.pop("bits_per_byte", None),
                done.measures | {f"valid_{name}": value for name, value in found.items()},
            )  # fmt: skip

    def _plan(self) -> LoopSpec:
        """The spec from here on: as it was, or with fewer steps where time is short."""
        steps = self.pace.steps(self.step, self.spec, self.group)
        if steps != self.spec.steps:
            self.spec = self.spec.model_copy(update={"steps": steps})
        return self.spec

    def take_best(self) -> None:
        """Put the best weights into the model."""
        assert self.best is not None
        with torch.no_grad():
            for name, parameter in trained_parameters(self.model).items():
                parameter.copy_(self.best.weights[name])

    @torch.no_grad()
    def evaluate(self, limit: int | None = None) -> dict[str, float]:
        """The objective's measures of its validation rows."""
        self.model.eval()
        start_s = time.perf_counter()
        found = self.objective.evaluate(self._loss, self.micro_rows, limit)
        self.pace.evaluated(start_s)
        self.model.train()
        return found

    def _value(self, found: dict[str, float]) -> float:
        """Of an evaluation: the same in every process, so that all take the same weights for the best."""
        value = found[self.objective.judged_by]
        (total,) = self.group.sum_over_processes(-value if self.objective.judged_by == "loss" else value)
        return total / self.group.size

    def _loss(self, part: Part) -> Loss:
        return compute_loss(self.model, self.objective, part, self.spec.dtype)

    def take_step(self) -> StepReport:
        """One optimizer step over the global batch: add up gradients, divide once, clip, move.

        Each part's loss goes backward before the next is computed, so memory is that of one part. Raises
        UserError where the gradient is not finite.
        """
        spec, step = self.spec, self.step
        self.model.train()
        # what dropout drops is a function of seed and step, like the batches, and of the process
        torch.manual_seed(mixed(spec.seed, step, self.group.rank))
        total, count = 0.0, 0
        measures: Counter[str] = Counter()
        for part in self.objective.parts(step, self.group, spec.batch, self.micro_rows):
            loss = self._loss(part)
            loss.sum.backward()
            total, count = total + loss.sum.item(), count + loss.count
            measures.update(loss.measures)
        means = {name: value / max(1, count) for name, value in measures.items()}  # this process's
        total, count = self.group.sum_over_processes(total, count)
        count = max(1, count)  # a batch may have nothing to learn, as one without a hidden token
        norm = self._divide(count)
        lr = self._move()
        self.step += 1
        return StepReport(self.step, total / count, norm, lr, 0.0, measures=means)

    def _divide(self, count: float) -> float:
        """Sum the gradients of all processes, divide them by `count`, clip; returns their norm."""
        parameters = self.group.with_gradients([p for p in self.model.parameters() if p.requires_grad])
        gradients = [p.grad for p in parameters if p.grad is not None]
        self.group.sum_tensors(gradients)
        for gradient in gradients:
            gradient.div_(count)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.spec.clip))
        if not math.isfinite(norm):
            raise UserError(
                f"training diverged: the gradient of step {self.step + 1} is not finite; "
                f"lower {self.spec.lr_name} (now {self.spec.lr:g}) and start again with another `out`"
            )
        return norm

    def _move(self) -> float:
        """Let the optimizers take their step; returns its learning rate."""
        spec = self.spec
        lr = spec.lr * learning_rate_factor(
            self.step, steps=spec.steps, kind=spec.schedule, warmup_steps=spec.warmup_steps,
            floor=spec.floor, decay_fraction=spec.decay_fraction,
        )  # fmt: skip
        for optimizer in self.optimizers:
            for parameters_of_one in optimizer.param_groups:
                parameters_of_one["lr"] = lr
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return lr


def compute_loss(model: Net, objective: Objective[Net, Part], part: Part, dtype: str) -> Loss:
    """The loss of one micro-batch, computed in bf16 or fp32; weights and the sum stay fp32."""
    with torch.autocast(device_of(model).type, torch.bfloat16, enabled=dtype == "bf16"):
        return objective.loss(model, part)


def device_of(model: nn.Module) -> torch.device:
    """Where its weights are."""
    return next(model.parameters()).device


def _copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in trained_parameters(model).items()}
