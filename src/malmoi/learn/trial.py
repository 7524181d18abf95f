"""Trial steps before the run: how many rows fit in memory at once, how fast they are, how many time affords.

Shape letters: B rows, T positions.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from malmoi.learn.distributed import ALONE, Group
from malmoi.learn.loop import Loop, Objective, compute_loss, device_of
from malmoi.learn.run_config import LoopSpec
from malmoi.models.language import LanguageModel
from malmoi.models.lora import trained_parameters
from malmoi.util.hardware import current_memory_bytes, matmul_flops_per_s, memory_limit_bytes, training_dtype
from malmoi.util.threads import share_cores

Spec = TypeVar("Spec", bound=LoopSpec)

CALIBRATION_STEPS = 6  # at most; the first, which warms up, not counted
_MEMORY_SHARE = 0.6  # of what is free; the rest is for temporaries, the evaluation and other programs
_BYTES_OF_TRAINING = 12  # in fp32: a weight's gradient and AdamW's two moments


@dataclass(frozen=True, slots=True)
class Trial(Generic[Spec]):
    """What one trial step found. `spec` has micro_batch and dtype settled."""

    spec: Spec
    tokens_per_s: float
    memory_bytes: float  # expected at the peak of a step, above what the process holds without the model
    flops_per_s: float  # the measured ceiling of a matrix product in the run's precision

    def seconds(self, context: int) -> float:
        """Expected training time without evaluations."""
        return self.spec.steps * self.spec.batch * context / self.tokens_per_s

    def utilisation(self, model: LanguageModel, context: int, tokens_per_s: float) -> float:
        """MFU: the share of the ceiling that the model's own arithmetic reaches (Chowdhery et al. 2022)."""
        return model.flops_per_token(context) * tokens_per_s / self.flops_per_s


def try_step(
    model: LanguageModel, objective: Objective[Any, Any], spec: Spec, rows: int | None = None
) -> Trial[Spec]:
    """Settle the micro-batch (unless given) and the precision; time one micro-batch. Weights do not change.

    rows: this process's share of the batch, all of it by default. The random state is put back, so that a
    trial changes nothing that follows.
    """
    share_cores()
    dtype = training_dtype(spec.dtype, model.device, model.config.width)
    rows = rows or spec.batch
    with _random_state_kept():
        memory_bytes = _memory(model, objective, dtype)
        candidates = (
            [spec.micro_batch] if spec.micro_batch else _fitting(model, objective, rows, memory_bytes)
        )
        micro_rows, seconds = _first_that_runs(model, objective, dtype, candidates)
    flops = matmul_flops_per_s(model.device, torch.bfloat16 if dtype == "bf16" else torch.float32)
    settled = spec.model_copy(update={"micro_batch": micro_rows, "dtype": dtype})
    return Trial(settled, micro_rows * objective.context / seconds, memory_bytes(micro_rows), flops)


def rows_at_once(model: nn.Module, objective: Objective[Any, Any], rows: int, dtype: str) -> int:
    """How many of `rows` rows fit in memory at once, for a loop that needs no forecast of its time."""
    with _random_state_kept():
        candidates = _fitting(model, objective, rows, _memory(model, objective, dtype))
        if device_of(model).type == "cuda":
            return _first_that_runs(model, objective, dtype, candidates)[0]
    return candidates[0]


def step_seconds(
    model: nn.Module, objective: Objective[Any, Any], spec: LoopSpec, count: int = CALIBRATION_STEPS,
    *, most_s: float = float("inf"), group: Group = ALONE,
) -> list[float]:  # fmt: skip
    """How long each of a few steps spread over an epoch takes, the first, which warms up, left out.

    Two at least; no more once `most_s` have passed. The learning rate is 0, so weights stay as they are.
    """
    loop = Loop(model, objective, spec.model_copy(update={"lr": 0.0}), group=group)
    stride, found = max(1, objective.rows_per_epoch // spec.batch // 7), list[float]()
    start_s = last_s = time.perf_counter()
    with _random_state_kept():
        while len(found) < count:
            loop.step = len(found) * stride
            loop.take_step()
            now_s = time.perf_counter()
            found.append(now_s - last_s)
            last_s = now_s
            if len(found) > 1 and group.any(now_s - start_s > most_s):
                break
    return found[1:]


class Affordable(NamedTuple):
    """What fits in a time. evaluation_s: how long an evaluation takes, where that is known."""

    steps: int
    evaluation_s: float = 0.0


def affordable_steps(
    model: nn.Module, objective: Objective[Any, Any], spec: LoopSpec, seconds: float, group: Group = ALONE
) -> Affordable:
    """How many steps, with their evaluations, fit in the time. The model is as before afterwards."""
    start_s = time.perf_counter()
    steps_s = step_seconds(model, objective, spec, most_s=seconds / 2, group=group)
    before_s = time.perf_counter()
    if group.any(before_s - start_s > seconds):
        return Affordable(1)
    with _random_state_kept():
        Loop(model, objective, spec).evaluate()
    now_s = time.perf_counter()
    # the same in every process
    step_s, evaluation_s, left_s = (
        value / group.size
        for value in group.sum_over_processes(
            sum(steps_s) / len(steps_s), now_s - before_s, seconds - (now_s - start_s)
        )
    )

    def cost_s(steps: int) -> float:
        return steps * step_s + spec.evaluations_in(steps) * evaluation_s

    return Affordable(max(1, bisect_right(range(1, 1 << 40), left_s, key=cost_s)), evaluation_s)


@contextmanager
def _random_state_kept() -> Iterator[None]:
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


def _num_trained(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in trained_parameters(model).values())


def saved_bytes(model: nn.Module, forward: Callable[[], object]) -> int:
    """Bytes that a forward pass keeps for the backward pass, each storage counted once, weights left out."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    return sum(sizes.values())


def held_bytes(model: nn.Module) -> int:
    """What a model's weights take, in whatever bits they are."""
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


def _memory(model: nn.Module, objective: Objective[Any, Any], dtype: str) -> Callable[[int], float]:
    """The bytes that a step takes at its peak, by the rows that are read at once."""
    parts = [objective.trial(rows) for rows in (1, 2)]
    once, twice = (
        saved_bytes(model, lambda part=part: compute_loss(model, objective, part, dtype)) for part in parts
    )
    fixed_bytes, bytes_per_row = max(0, 2 * once - twice), twice - once
    fixed_bytes += held_bytes(model)
    fixed_bytes += _BYTES_OF_TRAINING * _num_trained(model)
    return lambda rows: fixed_bytes + rows * bytes_per_row


def _fitting(
    model: nn.Module, objective: Objective[Any, Any], rows: int, memory_bytes: Callable[[int], float]
) -> list[int]:
    """Micro-batches that fit in memory, the largest first; at least one row."""
    device = device_of(model)
    candidates = objective.micro_batches(rows, device)
    if device.type == "cuda":
        return candidates  # tried one after another until one does not run out of memory
    free = _MEMORY_SHARE * (memory_limit_bytes() - current_memory_bytes())
    return [n for n in candidates if memory_bytes(n) <= free] or [1]


def _first_that_runs(
    model: nn.Module, objective: Objective[Any, Any], dtype: str, candidates: list[int]
) -> tuple[int, float]:
    """The first micro-batch that fits, and the seconds that its second trial took."""
    *larger, smallest = candidates
    moments = torch.empty(2 * _num_trained(model), device=device_of(model))  # AdamW will hold as much
    for micro_rows in larger:
        try:
            return micro_rows, _seconds(model, objective, micro_rows, dtype)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
    del moments
    return smallest, _seconds(model, objective, smallest, dtype)


def _seconds(model: nn.Module, objective: Objective[Any, Any], rows: int, dtype: str) -> float:
    """How long forward and backward take, the second time; no gradient is left behind."""
    part, seconds, device = objective.trial(rows), 0.0, device_of(model)
    try:
        for _ in range(2):
            start_s = time.perf_counter()
            compute_loss(model, objective, part, dtype).sum.backward()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds = time.perf_counter() - start_s
    finally:
        model.zero_grad(set_to_none=True)
    return seconds
