"""One optimizer step, the same in every training loop: add up gradients, divide once, clip, move."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat
from torch import nn
from torch.optim import Optimizer

from malmoi.core.config import StrictModel
from malmoi.core.errors import UserError
from malmoi.core.tensors import Loss
from malmoi.learn.distributed import ALONE, Group
from malmoi.learn.optim import OptimizerKind
from malmoi.learn.schedule import Schedule, learning_rate_factor

Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimSpec(StrictModel):
    """How weights move, in every kind of training."""

    optimizer: OptimizerKind = "adamw"
    lr: PositiveFloat = 1e-3
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    clip: PositiveFloat = 1.0
    schedule: Schedule = "cosine"
    warmup_steps: NonNegativeInt = 100
    floor: Annotated[float, Field(ge=0, le=1)] = 0.1
    decay_fraction: Annotated[float, Field(gt=0, le=1)] = 0.2
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


class Update(NamedTuple):
    """What one step did. loss: the mean over everything that was trained; measures: this process's means."""

    loss: float
    gradient_norm: float
    lr: float
    measures: dict[str, float]


def update(
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    losses: Iterable[Loss],
    spec: OptimSpec,
    *,
    step: int,
    steps: int,
    group: Group = ALONE,
    lr_name: str = "lr",
) -> Update:
    """Step number `step` (from 0) of `steps` over the summed losses of this process's parts of the batch.

    Each loss goes backward before the next is computed, so memory is that of one part. Raises UserError,
    which tells to lower `lr_name`, where the gradient is not finite.
    """
    total, count = 0.0, 0
    measures: Counter[str] = Counter()
    for loss in losses:
        loss.sum.backward()
        total, count = total + loss.sum.item(), count + loss.count
        measures.update(loss.measures)
    means = {name: value / max(1, count) for name, value in measures.items()}
    total, count = group.sum_over_processes(total, count)
    count = max(1, count)  # a batch may have nothing to learn, as one without a hidden token
    parameters = [p for p in model.parameters() if p.grad is not None]
    gradients = [p.grad for p in parameters if p.grad is not None]
    group.sum_tensors(gradients)
    for gradient in gradients:
        gradient.div_(count)
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, spec.clip))
    if not math.isfinite(norm):
        raise UserError(
            f"training diverged: the gradient of step {step + 1} is not finite; "
            f"lower {lr_name} (now {spec.lr:g}) and start again with another `out`"
        )
    lr = spec.lr * learning_rate_factor(
        step, steps=steps, kind=spec.schedule, warmup_steps=spec.warmup_steps,
        floor=spec.floor, decay_fraction=spec.decay_fraction,
    )  # fmt: skip
    for optimizer in optimizers:
        for parameters_of_one in optimizer.param_groups:
            parameters_of_one["lr"] = lr
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return Update(total / count, norm, lr, means)
