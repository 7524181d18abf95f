"""Attention over whole rows in blocks of queries, for bf16 on a processor.

PyTorch's fused kernel is slow there, most of all backward. The scores of one block, written out, are a few
batched matrix products at the processor's bf16 speed: twice as fast at 512 positions (docs/decisions.md).

Shape letters: B rows, H heads, N = B H, T positions, Q queries of a block, S keys that a block may see,
C head width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

_BLOCK = 128  # queries at once; fewer compute less above the diagonal, more make larger products


def _blocks(length: int, window: int | None) -> Iterator[tuple[slice, slice]]:
    """Which queries, and the keys that the first or the last of them may see."""
    for start in range(0, length, _BLOCK):
        stop = min(start + _BLOCK, length)
        yield slice(start, stop), slice(max(0, start - window + 1) if window else 0, stop)


def _probabilities(q_NQC: Tensor, k_NSC: Tensor, bias_BQS: Tensor, scale: float) -> Tensor:
    """p_NQS = softmax(scale q k^T + bias); one bias for all rows, or one each."""
    if len(bias_BQS) == 1:
        return torch.baddbmm(bias_BQS, q_NQC, k_NSC.mT, alpha=scale).softmax(-1)
    scores_NQS = torch.bmm(q_NQC, k_NSC.mT).mul_(scale)
    scores_NQS.unflatten(0, (len(bias_BQS), -1)).add_(bias_BQS[:, None])
    return scores_NQS.softmax(-1)


class BlockAttention(torch.autograd.Function):
    """Forward keeps queries, keys and values only; backward computes the probabilities again."""

    @staticmethod
    def forward(
        ctx: Any,
        q_BHTC: Tensor,
        k_BHTC: Tensor,
        v_BHTC: Tensor,
        bias_BTT: Tensor,
        window: int | None,
        scale: float,
    ) -> Tensor:
        q_NTC, k_NTC, v_NTC = (x.flatten(0, 1) for x in (q_BHTC, k_BHTC, v_BHTC))
        ctx.save_for_backward(q_NTC, k_NTC, v_NTC, bias_BTT)
        ctx.window, ctx.scale = window, scale
        y_NTC = torch.empty_like(q_NTC)
        for queries, keys in _blocks(q_NTC.shape[1], window):
            p_NQS = _probabilities(q_NTC[:, queries], k_NTC[:, keys], bias_BTT[:, queries, keys], ctx.scale)
            torch.bmm(p_NQS, v_NTC[:, keys], out=y_NTC[:, queries])
        return y_NTC.view(q_BHTC.shape)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        q_NTC, k_NTC, v_NTC, bias_BTT = ctx.saved_tensors
        dy_BHTC = grad_outputs[0]
        dy_NTC = dy_BHTC.flatten(0, 1)
        dq_NTC, dk_NTC, dv_NTC = torch.empty_like(q_NTC), torch.zeros_like(k_NTC), torch.zeros_like(v_NTC)
        for queries, keys in _blocks(q_NTC.shape[1], ctx.window):
            q_NQC, dy_NQC, k_NSC = q_NTC[:, queries], dy_NTC[:, queries], k_NTC[:, keys]
            p_NQS = _probabilities(q_NQC, k_NSC, bias_BTT[:, queries, keys], ctx.scale)
            dp_NQS = torch.bmm(dy_NQC, v_NTC[:, keys].mT)
            ds_NQS = torch.ops.aten._softmax_backward_data(dp_NQS, p_NQS, -1, p_NQS.dtype)
            dv_NTC[:, keys].baddbmm_(p_NQS.mT, dy_NQC)
            dk_NTC[:, keys].baddbmm_(ds_NQS.mT, q_NQC, alpha=ctx.scale)
            dq_NTC[:, queries] = torch.bmm(ds_NQS, k_NSC)
        shape = dy_BHTC.shape
        return dq_NTC.mul_(ctx.scale).view(shape), dk_NTC.view(shape), dv_NTC.view(shape), None, None, None


def as_bias(mask_B1TT: Tensor, dtype: torch.dtype) -> Tensor:
    """bias_BTT to add to scores: 0 where the mask allows, minus infinity elsewhere."""
    return torch.zeros(mask_B1TT.shape, dtype=dtype).masked_fill_(~mask_B1TT, float("-inf")).squeeze(1)
