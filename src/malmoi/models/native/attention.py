"""Causal attention within documents and windows by our kernels, with its gradient; no scores are kept.

They take fp32 and bf16, compute in fp32 but for products of bf16, and can be differentiated once. Shape
letters: B rows, T positions, H heads of queries, K of keys and values, C their width, E that of values.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from malmoi.models.native.fused import library
from malmoi.models.native.library import AttentionCall, View


def first_keys(length: int, documents_BT: Tensor | None, window: int | None) -> Tensor:
    """first_BT, or first_1T for all rows: the first key that each query sees; the last one is its own.

    Positions of one document lie side by side. A query sees at most `window` keys.
    """
    here_1T = torch.arange(length)[None]
    first_BT = torch.zeros_like(here_1T) if window is None else (here_1T - window + 1).clamp_(min=0)
    if documents_BT is None:
        return first_BT
    begins_BT = documents_BT.diff(dim=1, prepend=documents_BT[:, :1]) != 0
    return torch.maximum(first_BT, (here_1T * begins_BT).cummax(dim=1).values)


def attend(q_BHTC: Tensor, k_BKTC: Tensor, v_BKTE: Tensor, first_BT: Tensor, scale: float) -> Tensor:
    """y_BHTE: what each query reads from its keys, from the first on to its own (`first_keys`)."""
    found = _Attend.apply(q_BHTC, k_BKTC, v_BKTE, first_BT, scale)
    assert isinstance(found, Tensor)
    return found


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q_BHTC: Tensor, k_BKTC: Tensor, v_BKTE: Tensor, first_BT: Tensor, scale: float
    ) -> Tensor:
        rows, heads, length, _ = q_BHTC.shape
        # positions before heads, as the product behind takes them
        y_BHTE = q_BHTC.new_empty(rows, length, heads, v_BKTE.shape[-1]).transpose(1, 2)
        sums_BHT = torch.empty(rows, heads, length)
        kept = (*(_dense(it) for it in (q_BHTC, k_BKTC, v_BKTE)), y_BHTE, sums_BHT, first_BT.contiguous())
        ctx.save_for_backward(*kept)
        ctx.scale = scale
        library().malmoi_attention(_described(kept, scale), torch.get_num_threads())
        return y_BHTE

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        kept = ctx.saved_tensors
        dq_BHTC, dk_BKTC, dv_BKTE = (
            torch.empty_like(it, memory_format=torch.contiguous_format) for it in kept[:3]
        )
        dy_BHTE = _dense(grad_outputs[0])
        described = _described(kept, ctx.scale)
        described.dq, described.dk, described.dv, described.dy = (
            _view(it) for it in (dq_BHTC, dk_BKTC, dv_BKTE, dy_BHTE)
        )
        library().malmoi_attention_gradient(described, torch.get_num_threads())
        return dq_BHTC, dk_BKTC, dv_BKTE, None, None


def _described(kept: tuple[Tensor, ...], scale: float) -> AttentionCall:
    q_BHTC, k_BKTC, v_BKTE, y_BHTE, sums_BHT, first_BT = kept
    rows, heads, length, width = q_BHTC.shape
    nothing = [View()] * 4
    return AttentionCall(
        *(_view(it) for it in (q_BHTC, k_BKTC, v_BKTE, y_BHTE)), *nothing,
        sums_BHT.data_ptr(), first_BT.data_ptr(), rows, heads, k_BKTC.shape[1], length, width,
        v_BKTE.shape[-1], length if len(first_BT) > 1 else 0, q_BHTC.dtype == torch.bfloat16, scale,
    )  # fmt: skip


def _view(x_BHTC: Tensor) -> View:
    return View(x_BHTC.data_ptr(), *x_BHTC.stride()[:3])


def _dense(x_BHTC: Tensor) -> Tensor:
    """The same with the numbers of a vector side by side."""
    return x_BHTC if x_BHTC.stride(-1) == 1 else x_BHTC.contiguous()
