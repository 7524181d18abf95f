"""Self-attention with grouped heads, attention to a source, and what each position may see.

Shape letters: B rows, T queries, S keys, H heads, K key-value heads, J some of both, G heads of a group,
C head width, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from malmoi.models.block_attention import BlockAttention, QueryBlock
from malmoi.models.blocks import OffsetRMSNorm, Positions, RMSNorm, rotate
from malmoi.models.config import TransformerConfig
from malmoi.models.native import attention as ours
from malmoi.models.native import fused
from malmoi.models.state import KVState


@dataclass(frozen=True, slots=True)
class Memory:
    """An encoded source, as a decoder sees it. Rows come first in every tensor, source positions second.

    kv_BSJ: for each layer of a Transformer the keys and values of its cross-attention, computed once.
    """

    ids_BS: Tensor
    mask_BS: Tensor  # True: a real position
    encoded_BSD: Tensor
    kv_BSJ: tuple[Tensor, ...] = ()

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """All tensors, as the constructor of `of` takes them."""
        return (self.ids_BS, self.mask_BS, self.encoded_BSD, *self.kv_BSJ)

    @classmethod
    def of(cls, parts: Sequence[Tensor]) -> Memory:
        """The inverse of `parts`."""
        ids_BS, mask_BS, encoded_BSD, *kv_BSJ = parts
        return cls(ids_BS, mask_BS, encoded_BSD, tuple(kv_BSJ))


@dataclass(frozen=True, slots=True)
class Sight:
    """What is the same for every layer of a kind in one forward pass.

    mask_B1TS: which keys each query may see (None: all earlier ones, or all where T is 1). first_BT: the same
    as our kernels want it, where they are how to attend; there is no mask then.
    tables: rotary cos and sin, or None. positions: where new keys go in the cache, if there is one.
    length: how many cached positions to look at. blocks: the mask as `block_attention` wants it, where that
    is how to attend. both_ways: the mask decides alone, nothing is causal. memory: for cross-attention.
    """

    mask_B1TS: Tensor | None
    tables: tuple[Tensor, Tensor] | None
    positions: Positions
    length: int
    first_BT: Tensor | None = None
    blocks: tuple[QueryBlock, ...] | None = None
    both_ways: bool = False
    memory: Memory | None = None


def causal_mask(queries_BT: Tensor, keys_BS: Tensor, window: int | None) -> Tensor:
    """mask_BTS: a query sees the keys at its own and earlier positions, at most `window` of them."""
    distance_BTS = queries_BT[:, :, None] - keys_BS[:, None, :]
    mask_BTS = distance_BTS >= 0
    return mask_BTS & (distance_BTS < window) if window else mask_BTS


def attend_all(q_BHTC: Tensor, k_BHSC: Tensor, v_BHSC: Tensor, mask_B1TS: Tensor, scale: float) -> Tensor:
    """What each query reads from the keys that the mask allows.

    In bf16 on a processor the scores are written out, which is 2 to 3 times as fast as the fused kernel.
    """
    if q_BHTC.device.type != "cpu" or q_BHTC.dtype != torch.bfloat16:
        return functional.scaled_dot_product_attention(
            q_BHTC, k_BHSC, v_BHSC, attn_mask=mask_B1TS, scale=scale
        )
    scores_BHTS = torch.matmul(q_BHTC * scale, k_BHSC.mT).masked_fill(~mask_B1TS, float("-inf"))
    return torch.matmul(scores_BHTS.softmax(-1), v_BHSC)


def attend_capped(
    q_BHTC: Tensor, k_BHSC: Tensor, v_BHSC: Tensor, mask_B1TS: Tensor | None, scale: float, cap: float
) -> Tensor:
    """Attention whose scores s become cap tanh(s / cap): Gemma 2. None as a mask: as `Sight` says."""
    scores_BHTS = torch.tanh(torch.matmul(q_BHTC, k_BHSC.mT) * (scale / cap)) * cap
    num_queries, num_keys = scores_BHTS.shape[2:]
    if mask_B1TS is None and num_queries > 1:
        mask_B1TS = scores_BHTS.new_ones(num_queries, num_keys, dtype=torch.bool).tril()
    if mask_B1TS is not None:
        scores_BHTS = scores_BHTS.masked_fill(~mask_B1TS, float("-inf"))
    return torch.matmul(scores_BHTS.softmax(-1, dtype=torch.float32).to(v_BHSC.dtype), v_BHSC)


class CrossAttention(nn.Module):
    """Multi-head attention of a target's positions to a source's (Vaswani et al. 2017)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.head_width, width = config.size_of_head, config.width
        self.query = nn.Linear(width, config.heads * self.head_width, bias=config.has_bias("qkv"))
        self.kv = nn.Linear(width, 2 * config.heads * self.head_width, bias=config.has_bias("qkv"))
        self.out = nn.Linear(config.heads * self.head_width, width, bias=config.has_bias("out"))

    def forward(self, x_BTD: Tensor, memory: Memory, layer: int) -> Tensor:
        q_BHTC = self.query(x_BTD).unflatten(-1, (-1, self.head_width)).transpose(1, 2)
        kv_BJSC = memory.kv_BSJ[layer].unflatten(-1, (-1, self.head_width)).transpose(1, 2)
        k_BHSC, v_BHSC = kv_BJSC.to(q_BHTC.dtype).chunk(2, dim=1)
        mask_B11S = memory.mask_BS[:, None, None]
        y_BHTC = attend_all(q_BHTC, k_BHSC, v_BHSC, mask_B11S, self.head_width**-0.5)
        return self.out(y_BHTC.transpose(1, 2).flatten(2))


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017), grouped (Ainslie et al. 2023), with optional QK-norm."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_width = config.heads, config.num_kv_heads, config.size_of_head
        self.has_qk_norm, self.softcap = config.qk_norm, config.attention_softcap
        self.scale = (config.query_scalar or self.head_width) ** -0.5
        self.widths = [self.heads * self.head_width] + 2 * [self.kv_heads * self.head_width]
        self.qkv = nn.Linear(config.width, sum(self.widths), bias=config.has_bias("qkv"))
        self.out = nn.Linear(self.widths[0], config.width, bias=config.has_bias("out"))
        norm = OffsetRMSNorm if config.norm_offset else RMSNorm
        self.q_norm = norm(self.head_width, eps=config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = norm(self.head_width, eps=config.norm_eps) if config.qk_norm else nn.Identity()

    def project(self, x_BTD: Tensor, sight: Sight) -> tuple[Tensor, Tensor, Tensor]:
        """Queries q_BHTC and keys, values k_BKTC, v_BKTC, normed and turned by their positions."""
        heads = (self.heads, self.kv_heads)
        qkv_BTJC = self.qkv(x_BTD).unflatten(-1, (-1, self.head_width))
        if fused.has_kernels(qkv_BTJC) and fused.fits(self.head_width):
            norms = [it for it in (self.q_norm, self.k_norm) if isinstance(it, RMSNorm)]
            spec = fused.HeadsSpec(*heads, norms[0].epsilon if norms else 0.0)
            weights = (norms[0].factors, norms[1].factors) if norms else None
            return fused.split_heads(qkv_BTJC, spec, sight.tables, weights)
        qk_BTJC, v_BTKC = qkv_BTJC.split((sum(heads), self.kv_heads), dim=2)
        if self.has_qk_norm:
            q_BTHC, k_BTKC = qk_BTJC.split(heads, dim=2)
            qk_BTJC = torch.cat((self.q_norm(q_BTHC), self.k_norm(k_BTKC)), dim=2)
        if sight.tables is not None:
            qk_BTJC = rotate(qk_BTJC, sight.tables)
        q_BTHC, k_BTKC = qk_BTJC.split(heads, dim=2)
        return q_BTHC.transpose(1, 2), k_BTKC.transpose(1, 2), v_BTKC.transpose(1, 2)

    def forward(self, x_BTD: Tensor, sight: Sight, state: KVState | None = None, layer: int = 0) -> Tensor:
        q_BHTC, k_BKTC, v_BKTC = self.project(x_BTD, sight)
        if state is not None:
            k_BKTC, v_BKTC = self._remember(k_BKTC, v_BKTC, sight, state, layer)
        y_BHTC = self.attend(q_BHTC, k_BKTC, v_BKTC, sight)
        return self.out(y_BHTC.transpose(1, 2).flatten(2))

    def attend(self, q_BHTC: Tensor, k_BKSC: Tensor, v_BKSC: Tensor, sight: Sight) -> Tensor:
        """What each query reads from the keys and values of its group."""
        groups, mask_B1TS, scale = self.heads // self.kv_heads, sight.mask_B1TS, self.scale
        if sight.first_BT is not None:
            return ours.attend(q_BHTC, k_BKSC, v_BKSC, sight.first_BT, scale)
        if self.softcap is not None:
            k_BHSC, v_BHSC = (x_BKSC.repeat_interleave(groups, 1) for x_BKSC in (k_BKSC, v_BKSC))
            return attend_capped(q_BHTC, k_BHSC, v_BHSC, mask_B1TS, scale, self.softcap)
        attend = functional.scaled_dot_product_attention
        if q_BHTC.shape[2] == 1:  # a group's heads are queries of its one key head: the cache is not copied
            q_BKGC = q_BHTC.reshape(-1, self.kv_heads, groups, self.head_width)
            if groups == 1 and q_BHTC.dtype == torch.bfloat16 and q_BHTC.device.type == "cpu":
                # two queries take half of one's time
                q_BKGC = q_BKGC.expand(-1, -1, 2, -1)
            y_BKGC = attend(q_BKGC, k_BKSC, v_BKSC, attn_mask=mask_B1TS, scale=scale)
            return y_BKGC[:, :, :groups].reshape(q_BHTC.shape)
        if groups > 1:  # every group's head, materialised: enable_gqa does the same
            k_BKSC, v_BKSC = k_BKSC.repeat_interleave(groups, 1), v_BKSC.repeat_interleave(groups, 1)
        if sight.both_ways and mask_B1TS is not None:
            return attend_all(q_BHTC, k_BKSC, v_BKSC, mask_B1TS, scale)
        if sight.blocks is not None:
            return BlockAttention.apply(q_BHTC, k_BKSC, v_BKSC, sight.blocks, scale)
        causal = mask_B1TS is None
        return attend(q_BHTC, k_BKSC, v_BKSC, attn_mask=mask_B1TS, is_causal=causal, scale=scale)

    @staticmethod
    def _remember(
        k_BKTC: Tensor, v_BKTC: Tensor, sight: Sight, state: KVState, layer: int
    ) -> tuple[Tensor, Tensor]:
        """Write the new keys and values into the cache; return all that are in sight."""
        keys_BKSC, values_BKSC = state.layers[layer]
        if isinstance(sight.positions, slice):
            keys_BKSC[:, :, sight.positions] = k_BKTC
            values_BKSC[:, :, sight.positions] = v_BKTC
        else:
            rows_B1 = torch.arange(len(k_BKTC), device=k_BKTC.device)[:, None]
            keys_BKSC[rows_B1, :, sight.positions] = k_BKTC.transpose(1, 2).to(keys_BKSC.dtype)
            values_BKSC[rows_B1, :, sight.positions] = v_BKTC.transpose(1, 2).to(values_BKSC.dtype)
        dtype = k_BKTC.dtype
        return keys_BKSC[:, :, : sight.length].to(dtype), values_BKSC[:, :, : sight.length].to(dtype)
