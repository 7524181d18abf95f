"""Attention over whole rows in blocks of queries, for bf16 on a processor without our kernels.

PyTorch's fused kernel is slow there, most of all backward. The scores of one block, written out, are a few
batched matrix products at the processor's bf16 speed: twice as fast at 512 positions (docs/decisions.md).
Keys that none of a block's queries may see, of other documents or before a window, cost nothing.

Shape letters: B rows, H heads, T positions, Q queries of a block, S keys that a block may see, C head width,
N = heads of the rows that a block is of.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_BLOCK = 128  # queries at once; fewer compute less above the diagonal, more make larger products
# Keys begin at a multiple of it: a product of a shape that it has not met costs PyTorch more than some keys.
_KEYS = 64


@dataclass(frozen=True, slots=True)
class QueryBlock:
    """Some queries of some rows, the keys that any of them may see, and what to add to their scores.

    bias_1QS: 0 where the mask allows, minus infinity elsewhere.
    """

    rows: slice
    queries: slice
    keys: slice
    bias_1QS: Tensor


def blocks_of(mask_B1TT: Tensor, dtype: torch.dtype) -> tuple[QueryBlock, ...]:
    """All blocks of a causal mask: for each row, or for all at once where there is one mask for all."""
    return tuple(_blocks(mask_B1TT.squeeze(1), dtype))


def _blocks(mask_BTT: Tensor, dtype: torch.dtype) -> Iterator[QueryBlock]:
    length = mask_BTT.shape[1]
    for start in range(0, length, _BLOCK):
        stop = min(start + _BLOCK, length)
        seen_BS = mask_BTT[:, start:stop, :stop].any(dim=1)
        for row, seen in enumerate(seen_BS.int().argmax(dim=1).tolist()):
            rows = slice(None) if len(mask_BTT) == 1 else slice(row, row + 1)
            first = seen - seen % _KEYS
            allowed_QS = mask_BTT[row, start:stop, first:stop]
            bias_QS = torch.zeros(allowed_QS.shape, dtype=dtype).masked_fill_(~allowed_QS, float("-inf"))
            yield QueryBlock(rows, slice(start, stop), slice(first, stop), bias_QS[None])


class BlockAttention(torch.autograd.Function):
    """Forward keeps queries, keys and values only; backward computes the probabilities again."""

    @staticmethod
    def forward(
        ctx: Any, q_BHTC: Tensor, k_BHTC: Tensor, v_BHTC: Tensor, blocks: Sequence[QueryBlock], scale: float
    ) -> Tensor:
        ctx.save_for_backward(q_BHTC, k_BHTC, v_BHTC)
        ctx.blocks, ctx.scale = blocks, scale
        y_BHTC = torch.empty_like(q_BHTC, memory_format=torch.contiguous_format)
        for block in blocks:
            q_NQC, y_NQC = _part(q_BHTC, block.rows, block.queries), _part(y_BHTC, block.rows, block.queries)
            k_NSC, v_NSC = (_part(it, block.rows, block.keys) for it in (k_BHTC, v_BHTC))
            torch.bmm(_probabilities(q_NQC, k_NSC, block.bias_1QS, scale), v_NSC, out=y_NQC)
        return y_BHTC

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        given_BHTC, dy_BHTC = ctx.saved_tensors, grad_outputs[0].contiguous()
        dq_BHTC, dk_BHTC, dv_BHTC = grads_BHTC = tuple(
            torch.zeros_like(it, memory_format=torch.contiguous_format) for it in given_BHTC
        )
        for block in ctx.blocks:
            wheres = (block.queries, block.keys, block.keys)
            parts = zip((*given_BHTC, *grads_BHTC), (*wheres, *wheres), strict=True)
            q_NQC, k_NSC, v_NSC, dq_NQC, dk_NSC, dv_NSC = (_part(it, block.rows, at) for it, at in parts)
            dy_NQC = _part(dy_BHTC, block.rows, block.queries)
            p_NQS = _probabilities(q_NQC, k_NSC, block.bias_1QS, ctx.scale)
            dp_NQS = torch.bmm(dy_NQC, v_NSC.mT)
            ds_NQS = torch.ops.aten._softmax_backward_data(dp_NQS, p_NQS, -1, p_NQS.dtype)
            dv_NSC.baddbmm_(p_NQS.mT, dy_NQC)
            dk_NSC.baddbmm_(ds_NQS.mT, q_NQC, alpha=ctx.scale)
            torch.baddbmm(dq_NQC, ds_NQS, k_NSC, beta=0, alpha=ctx.scale, out=dq_NQC)
        return dq_BHTC, dk_BHTC, dv_BHTC, None, None


def _part(x_BHTC: Tensor, rows: slice, positions: slice) -> Tensor:
    """A view of some rows' heads at some positions."""
    return x_BHTC[rows].flatten(0, 1)[:, positions]


def _probabilities(q_NQC: Tensor, k_NSC: Tensor, bias_1QS: Tensor, scale: float) -> Tensor:
    """p_NQS = softmax(scale q k^T + bias)."""
    return torch.baddbmm(bias_1QS, q_NQC, k_NSC.mT, alpha=scale).softmax(-1)
