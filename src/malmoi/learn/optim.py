"""Optimizers (AdamW for everything, or Muon for the matrices inside the model) and learning rates.

Shape letters: K matrices, M rows, N columns of one matrix.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from malmoi.models.attention import Attention, CrossAttention
from malmoi.models.blocks import SwiGLU
from malmoi.models.cells import RecurrentLayers
from malmoi.models.heads import CRF
from malmoi.models.lora import LoRALinear

_STACKED_NUMBERS = 1 << 22  # in one stack of matrices: enough to keep a processor busy, and 50 MB at most

OptimizerKind = Literal["adamw", "muon"]
Schedule = Literal["cosine", "wsd", "constant"]


def orthogonalised(matrices_KMN: Tensor, iterations: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly: singular values all near 1 (Jordan et al. 2024).

    Newton-Schulz iteration with the quintic polynomial of the Muon authors, in the precision of its input.
    """
    tall = matrices_KMN.shape[-2] > matrices_KMN.shape[-1]
    x = matrices_KMN.mT if tall else matrices_KMN
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
        x = torch.baddbmm(x, polynomial, x, beta=3.4445)
    return x.mT if tall else x


class Muon(Optimizer):
    """Momentum whose update is orthogonalised (Jordan et al. 2024), scaled to AdamW's size (Liu et al. 2025).

    The scale 0.2 sqrt(max(M, N)) gives updates the root mean square of AdamW's, so that both optimizers
    take the same learning rate. Fused matrices (query-key-value, gate-up) are orthogonalised in `parts`.
    Matrices of one shape are orthogonalised together, in `dtype`.
    """

    def __init__(
        self, params: Iterable[dict[str, Any]], lr: float, momentum: float = 0.95, weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "parts": ()})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        assert closure is None
        by_shape: dict[tuple[float, torch.Size], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for group in self.param_groups:
            moved = (self._advance(p, group) for p in group["params"] if p.grad is not None)
            for weight_MN, direction_MN in chain.from_iterable(moved):
                by_shape[group["lr"], weight_MN.shape].append((weight_MN, direction_MN))
        for (lr, shape), pairs in by_shape.items():
            together = max(1, _STACKED_NUMBERS // shape.numel())
            for start in range(0, len(pairs), together):
                weights, directions = zip(*pairs[start : start + together], strict=True)
                updates_KMN = orthogonalised(torch.stack(directions).to(self.dtype)).float()
                for weight_MN, update_MN in zip(weights, updates_KMN, strict=True):
                    weight_MN.add_(update_MN, alpha=-lr * 0.2 * max(shape) ** 0.5)

    def _advance(self, parameter: Tensor, group: dict[str, Any]) -> Iterator[tuple[Tensor, Tensor]]:
        """Decay the weight, move the momentum on; each part's (weight_MN, direction_MN)."""
        gradient = parameter.grad
        assert gradient is not None
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum"]
        momentum.lerp_(gradient, 1 - group["momentum"])
        nesterov = gradient.lerp(momentum, group["momentum"])
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parts = group["parts"] or (len(parameter),)
        yield from zip(parameter.split(parts), nesterov.split(parts), strict=True)


def make_optimizers(
    model: nn.Module, kind: OptimizerKind, *, lr: float, weight_decay: float, betas: tuple[float, float],
    dtype: torch.dtype = torch.float32,
) -> list[Optimizer]:  # fmt: skip
    """One optimizer for `adamw`, two for `muon`. Vectors (norms, biases) are not decayed.

    Frozen parameters are in none of them.
    dtype: in which Muon orthogonalises; weights and momentum are fp32 always.
    """
    matrices = _inner_matrices(model) if kind == "muon" else {}
    rest = [p for p in model.parameters() if p.requires_grad and p not in matrices]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizers: list[Optimizer] = [AdamW(groups, lr=lr, betas=betas, fused=True)]
    if matrices:
        muon_groups = [{"params": [matrix], "parts": parts} for matrix, parts in matrices.items()]
        optimizers.append(Muon(muon_groups, lr=lr, weight_decay=weight_decay, dtype=dtype))
    return optimizers


def _inner_matrices(model: nn.Module) -> dict[Tensor, tuple[int, ...]]:
    """The matrices that Muon takes, each with the rows of its fused parts.

    All but embeddings, what a module named `head` holds (the output), the scores of a CRF, LoRA's thin
    matrices (which are no map of their own, only their product is) and what is frozen.
    """
    outer = {
        parameter
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding | CRF | LoRALinear) or name.rpartition(".")[2] == "head"
        for parameter in module.parameters()
    }
    found: dict[Tensor, tuple[int, ...]] = {
        parameter: () for parameter in model.parameters() if parameter.ndim == 2 and parameter not in outer
    }
    for module in model.modules():
        if isinstance(module, Attention):
            heads = (module.heads, module.kv_heads, module.kv_heads)
            found[module.qkv.weight] = tuple(count * module.head_width for count in heads)
        elif isinstance(module, CrossAttention):
            found[module.kv.weight] = (len(module.kv.weight) // 2,) * 2
        elif isinstance(module, SwiGLU):
            found[module.gate_up.weight] = (len(module.gate_up.weight) // 2,) * 2
        elif isinstance(module, RecurrentLayers):
            for name, parameter in module.named_parameters():
                if name.startswith("weight"):
                    found[parameter] = (module.hidden_size,) * (len(parameter) // module.hidden_size)
    return {matrix: parts for matrix, parts in found.items() if matrix is not None and matrix.requires_grad}


def learning_rate_factor(
    step: int, *, steps: int, kind: Schedule, warmup_steps: int, floor: float, decay_fraction: float
) -> float:
    """The factor at `step` (0-based) of `steps`.

    All warm up linearly from 1/warmup_steps. `cosine` (Loshchilov & Hutter 2017) falls to `floor` over the
    rest; `wsd`, warm-up-stable-decay (Hu et al. 2024), stays at 1 and falls linearly to `floor` over the last
    `decay_fraction`; `constant` stays at 1.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if kind == "constant":
        return 1.0
    if kind == "cosine":
        done = (step - warmup_steps) / max(1, steps - warmup_steps)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    decay_steps = max(1, round(steps * decay_fraction))
    left = max(0, steps - step) / decay_steps
    return floor + (1 - floor) * min(1.0, left)
