"""What lies between matrix products, with its gradient, by our kernels: each in one pass over memory.

They take fp32 and bf16, compute in fp32, and can be differentiated once. Shape letters: N rows, D width,
F feed-forward width, B rows of T positions, J heads of queries, keys and values, H of queries, K of keys,
C head width, V vocabulary.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from malmoi.models.native.library import Heads, kernels

Activation = Literal["silu", "gelu"]
Tables = tuple[Tensor, Tensor]  # cos and sin, [T, 1, C] or [B, T, 1, C]

_ACTIVATIONS: dict[Activation, int] = {"silu": 0, "gelu": 1}
_WIDEST_HEAD = 1024
_LEAST_NUMBERS = 1 << 15  # that are worth a second thread


def has_kernels(x: Tensor) -> bool:
    """Whether these functions take such numbers on this machine."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16) and kernels() is not None


def norm(x_ND: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """RMSNorm: weight x / sqrt(mean(x^2) + eps); under autocast in what products are computed in."""
    kind = x_ND.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x_ND.dtype
    found = _Norm.apply(x_ND, weight_D, eps, dtype)
    assert isinstance(found, Tensor)
    return found


def gate(gates_NJ: Tensor, activation: Activation) -> Tensor:
    """activation(first half) * second half of each row."""
    found = _Gate.apply(gates_NJ, _ACTIVATIONS[activation])
    assert isinstance(found, Tensor)
    return found


@dataclass(frozen=True, slots=True)
class HeadsSpec:
    """How many heads of queries, and of keys and of values; eps: of the norms."""

    heads: int
    kv_heads: int
    eps: float = 0.0


def split_heads(
    qkv_BTJC: Tensor, spec: HeadsSpec, tables: Tables | None, weights: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """q_BHTC, k_BKTC, v_BKTC. Queries and keys are normed by the weights_C, if there are any, then turned by
    the tables, if there are any."""
    found = _SplitHeads.apply(qkv_BTJC, *(weights or (None, None)), *(tables or (None, None)), spec)
    assert isinstance(found, tuple)
    return found


def fits(head_width: int) -> bool:
    """Whether `split_heads` takes heads of that width."""
    return head_width <= _WIDEST_HEAD


def cross_entropy(logits_NV: Tensor, targets_N: Tensor, softcap: float | None = None) -> Tensor:
    """Each row's loss (nats); the logits become their gradients. A target below 0 is none.

    softcap: a logit z counts as cap tanh(z / cap). Raises IndexError for a target beyond the vocabulary.
    """
    assert logits_NV.is_contiguous()
    if targets_N.numel() and int(targets_N.max()) >= logits_NV.shape[1]:
        raise IndexError(f"target {int(targets_N.max())} is beyond a vocabulary of {logits_NV.shape[1]}")
    losses_N, targets_N = torch.empty(len(logits_NV)), targets_N.contiguous()
    library().malmoi_cross_entropy(
        logits_NV.data_ptr(), _is_bf16(logits_NV), targets_N.data_ptr(), losses_N.data_ptr(),
        *logits_NV.shape, softcap or 0.0, _threads(logits_NV),
    )  # fmt: skip
    return losses_N


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_D: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        x_ND, weight_D = x_ND.contiguous(), weight_D.float().contiguous()
        y_ND, (rows, width) = torch.empty_like(x_ND, dtype=dtype), _rows(x_ND)
        scales_N = torch.empty(rows)
        library().malmoi_norm(
            x_ND.data_ptr(), _is_bf16(x_ND), weight_D.data_ptr(), y_ND.data_ptr(), _is_bf16(y_ND),
            scales_N.data_ptr(), rows, width, eps, _threads(x_ND),
        )  # fmt: skip
        ctx.save_for_backward(x_ND, weight_D, scales_N)
        return y_ND

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        x_ND, weight_D, scales_N = ctx.saved_tensors
        dy_ND, dx_ND = grad_outputs[0].contiguous(), torch.empty_like(x_ND)
        dweight_D = torch.empty_like(weight_D) if ctx.needs_input_grad[1] else None
        library().malmoi_norm_gradient(
            x_ND.data_ptr(), _is_bf16(x_ND), weight_D.data_ptr(), scales_N.data_ptr(), dy_ND.data_ptr(),
            _is_bf16(dy_ND), dx_ND.data_ptr(), _address(dweight_D), *_rows(x_ND), _threads(x_ND),
        )  # fmt: skip
        return dx_ND, dweight_D, None, None


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gates_NJ: Tensor, activation: int) -> Tensor:
        gates_NJ = gates_NJ.contiguous()
        y_NF = gates_NJ.new_empty(*gates_NJ.shape[:-1], gates_NJ.shape[-1] // 2)
        library().malmoi_gate(
            activation, _is_bf16(gates_NJ), gates_NJ.data_ptr(), y_NF.data_ptr(), *_rows(y_NF), _threads(y_NF)
        )
        ctx.save_for_backward(gates_NJ)
        ctx.activation = activation
        return y_NF

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (gates_NJ,), dy_NF = ctx.saved_tensors, grad_outputs[0].contiguous()
        dgates_NJ = torch.empty_like(gates_NJ)
        library().malmoi_gate_gradient(
            ctx.activation, _is_bf16(gates_NJ), gates_NJ.data_ptr(), dy_NF.data_ptr(), dgates_NJ.data_ptr(),
            *_rows(dy_NF), _threads(dy_NF),
        )  # fmt: skip
        return dgates_NJ, None


class _SplitHeads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, qkv_BTJC: Tensor, q_weight_C: Tensor | None, k_weight_C: Tensor | None, cos: Tensor | None,
        sin: Tensor | None, spec: HeadsSpec,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        (rows, length, _, width), qkv_BTJC = qkv_BTJC.shape, qkv_BTJC.contiguous()
        given = (q_weight_C, k_weight_C, cos, sin)
        read = (qkv_BTJC, *(None if it is None else it.float().contiguous() for it in given))
        found = [qkv_BTJC.new_empty(rows, heads, length, width) for heads in _counts(spec)]
        library().malmoi_split_heads(_heads(read, found, spec), _threads(qkv_BTJC))
        ctx.save_for_backward(*read)
        ctx.spec = spec
        q_BHTC, k_BKTC, v_BKTC = found
        return q_BHTC, k_BKTC, v_BKTC

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        read, given = ctx.saved_tensors, [it.contiguous() for it in grad_outputs]
        dqkv_BTJC, dweights = torch.empty_like(read[0]), (None, None)
        heads = _heads(read, given, ctx.spec)
        if any(ctx.needs_input_grad[1:3]):
            dweights = torch.empty_like(read[1]), torch.empty_like(read[2])
            heads.dq_weight, heads.dk_weight = (it.data_ptr() for it in dweights)
        library().malmoi_split_heads_gradient(heads, dqkv_BTJC.data_ptr(), _threads(dqkv_BTJC))
        return dqkv_BTJC, *dweights, None, None, None


def _heads(read: Sequence[Tensor | None], parts: Sequence[Tensor], spec: HeadsSpec) -> Heads:
    """read: what is split, the norms' weights, cos and sin; parts: of queries, keys and values."""
    qkv_BTJC, q_weight_C, k_weight_C, cos, sin = read
    assert qkv_BTJC is not None
    rows, length, _, width = qkv_BTJC.shape
    stride = length * width if cos is not None and cos.ndim > 3 else 0  # 0: the same tables for every row
    return Heads(
        qkv_BTJC.data_ptr(), *(it.data_ptr() for it in parts), _address(cos), _address(sin),
        _address(q_weight_C), _address(k_weight_C), None, None,
        rows, length, spec.heads, spec.kv_heads, width, stride, _is_bf16(qkv_BTJC), spec.eps,
    )  # fmt: skip


def _counts(spec: HeadsSpec) -> tuple[int, int, int]:
    return spec.heads, spec.kv_heads, spec.kv_heads


def library() -> ctypes.CDLL:
    """Our kernels, where `has_kernels` says that there are some."""
    found = kernels()
    assert found is not None
    return found


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _is_bf16(x: Tensor) -> bool:
    return x.dtype == torch.bfloat16


def _rows(x: Tensor) -> tuple[int, int]:
    """How many, and how wide they are."""
    return x.numel() // x.shape[-1], x.shape[-1]


def _threads(x: Tensor) -> int:
    return torch.get_num_threads() if x.numel() >= _LEAST_NUMBERS else 1
