"""A trial step before the run: how many rows fit in memory at once, in which precision, how fast.

Shape letters: B rows, T positions.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from malmoi.learn.run_config import LoopSpec
from malmoi.learn.trainer import Objective, compute_loss
from malmoi.models.language import LanguageModel
from malmoi.models.lora import trained_parameters
from malmoi.util.hardware import current_memory_bytes, matmul_flops_per_s, memory_limit_bytes, training_dtype

Spec = TypeVar("Spec", bound=LoopSpec)

_MEMORY_SHARE = 0.6  # of what is free; the rest is for temporaries, the evaluation and other programs
_CPU_TOKENS = 8192  # rows of a CPU's micro-batch: more tokens are no faster, they only leave the caches
_BYTES_OF_WEIGHT, _BYTES_OF_TRAINING = 4, 12  # in fp32: the weight; its gradient and AdamW's two moments


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
    model: LanguageModel, objective: Objective[Any], spec: Spec, rows: int | None = None
) -> Trial[Spec]:
    """Settle the micro-batch (unless given) and the precision; time one micro-batch. Weights do not change.

    rows: this process's share of the batch, all of it by default. The random state is put back, so that a
    trial changes nothing that follows.
    """
    rows = rows or spec.batch
    random_state = torch.get_rng_state()
    dtype = training_dtype(spec.dtype, model.device, model.config.width)
    context = objective.context
    once, twice = (_saved_bytes(model, objective, count, dtype) for count in (1, 2))
    fixed_bytes, bytes_per_row = max(0, 2 * once - twice), twice - once
    fixed_bytes += _BYTES_OF_WEIGHT * model.num_parameters() + _BYTES_OF_TRAINING * _num_trained(model)
    candidates = (
        [spec.micro_batch] if spec.micro_batch else _fitting(model, fixed_bytes, bytes_per_row, rows, context)
    )
    micro_rows, seconds = _first_that_runs(model, objective, dtype, candidates)
    torch.set_rng_state(random_state)
    flops = matmul_flops_per_s(model.device, torch.bfloat16 if dtype == "bf16" else torch.float32)
    settled = spec.model_copy(update={"micro_batch": micro_rows, "dtype": dtype})
    memory = fixed_bytes + micro_rows * bytes_per_row
    return Trial(settled, micro_rows * context / seconds, memory, flops)


def _num_trained(model: LanguageModel) -> int:
    return sum(parameter.numel() for parameter in trained_parameters(model).values())


def _saved_bytes(model: LanguageModel, objective: Objective[Any], rows: int, dtype: str) -> int:
    """Bytes that a forward pass keeps for the backward pass, each storage counted once, weights left out."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        compute_loss(model, objective, objective.trial(rows), dtype)
    return sum(sizes.values())


def _fitting(
    model: LanguageModel, fixed_bytes: int, bytes_per_row: int, rows: int, context: int
) -> list[int]:
    """Micro-batches that divide the rows and fit in memory, the largest first; at least one row."""
    divisors = [n for n in range(rows, 0, -1) if rows % n == 0]
    if model.device.type == "cuda":
        return divisors  # tried one after another until one does not run out of memory
    free = _MEMORY_SHARE * (memory_limit_bytes() - current_memory_bytes())
    return [
        n for n in divisors if fixed_bytes + n * bytes_per_row <= free and n * context <= _CPU_TOKENS
    ] or [1]


def _first_that_runs(
    model: LanguageModel, objective: Objective[Any], dtype: str, candidates: list[int]
) -> tuple[int, float]:
    """The first micro-batch that fits, and the seconds that its second trial took."""
    *larger, smallest = candidates
    moments = torch.empty(2 * _num_trained(model), device=model.device)  # AdamW will hold as much
    for micro_rows in larger:
        try:
            return micro_rows, _seconds(model, objective, micro_rows, dtype)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
    del moments
    return smallest, _seconds(model, objective, smallest, dtype)


def _seconds(model: LanguageModel, objective: Objective[Any], rows: int, dtype: str) -> float:
    """How long forward and backward take, the second time; no gradient is left behind."""
    part, seconds = objective.trial(rows), 0.0
    try:
        for _ in range(2):
            start_s = time.perf_counter()
            compute_loss(model, objective, part, dtype).sum.backward()
            if model.device.type == "cuda":
                torch.cuda.synchronize(model.device)
            seconds = time.perf_counter() - start_s
    finally:
        model.zero_grad(set_to_none=True)
    return seconds
