"""Causal self-attention with grouped heads, and what each position may see.

Shape letters: B rows, T queries, S keys, H heads, K key-value heads, C head width, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from malmoi.models.blocks import rotate
from malmoi.models.config import TransformerConfig
from malmoi.models.state import KVState


@dataclass(frozen=True, slots=True)
class Sight:
    """What is the same for every layer of one forward pass.

    mask_B1TS: which keys each query may see (None: all earlier ones, or all where T is 1).
    tables: rotary cos and sin, or None. index_BT: where new keys go in the cache, or None without one.
    length: how many cached positions to look at.
    """

    mask_B1TS: Tensor | None
    tables: tuple[Tensor, Tensor] | None
    index_BT: Tensor | None = None
    length: int = 0


def causal_mask(queries_BT: Tensor, keys_BS: Tensor, window: int | None) -> Tensor:
    """mask_BTS: a query sees the keys at its own and earlier positions, at most `window` of them."""
    distance_BTS = queries_BT[:, :, None] - keys_BS[:, None, :]
    mask_BTS = distance_BTS >= 0
    return mask_BTS & (distance_BTS < window) if window else mask_BTS


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017), grouped (Ainslie et al. 2023), with optional QK-norm."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_width = config.heads, config.num_kv_heads, config.size_of_head
        self.widths = [self.heads * self.head_width] + 2 * [self.kv_heads * self.head_width]
        self.qkv = nn.Linear(config.width, sum(self.widths), bias=config.bias)
        self.out = nn.Linear(self.widths[0], config.width, bias=config.bias)
        self.q_norm = nn.RMSNorm(self.head_width, eps=config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(self.head_width, eps=config.norm_eps) if config.qk_norm else nn.Identity()

    def project(self, x_BTD: Tensor, sight: Sight) -> tuple[Tensor, Tensor, Tensor]:
        """Queries q_BHTC and keys, values k_BKTC, v_BKTC, normed and turned by their positions."""
        q, k, v = self.qkv(x_BTD).split(self.widths, dim=-1)
        q_BTHC = self.q_norm(q.unflatten(-1, (self.heads, -1)))
        k_BTKC = self.k_norm(k.unflatten(-1, (self.kv_heads, -1)))
        if sight.tables is not None:
            q_BTHC, k_BTKC = rotate(q_BTHC, sight.tables), rotate(k_BTKC, sight.tables)
        v_BTKC = v.unflatten(-1, (self.kv_heads, -1))
        return q_BTHC.transpose(1, 2), k_BTKC.transpose(1, 2), v_BTKC.transpose(1, 2)

    def forward(self, x_BTD: Tensor, sight: Sight, state: KVState | None = None, layer: int = 0) -> Tensor:
        q_BHTC, k_BKTC, v_BKTC = self.project(x_BTD, sight)
        if state is not None:
            k_BKTC, v_BKTC = self._remember(k_BKTC, v_BKTC, sight, state, layer)
        if self.kv_heads != self.heads:  # every group's head, materialised: enable_gqa does the same
            groups = self.heads // self.kv_heads
            k_BKTC, v_BKTC = k_BKTC.repeat_interleave(groups, 1), v_BKTC.repeat_interleave(groups, 1)
        causal = sight.mask_B1TS is None and q_BHTC.shape[2] > 1
        y_BHTC = functional.scaled_dot_product_attention(
            q_BHTC, k_BKTC, v_BKTC, attn_mask=sight.mask_B1TS, is_causal=causal
        )
        return self.out(y_BHTC.transpose(1, 2).flatten(2))

    @staticmethod
    def _remember(
        k_BKTC: Tensor, v_BKTC: Tensor, sight: Sight, state: KVState, layer: int
    ) -> tuple[Tensor, Tensor]:
        """Write the new keys and values into the cache; return all that are in sight."""
        assert sight.index_BT is not None
        keys_BKSC, values_BKSC = state.keys_LBKSC[layer], state.values_LBKSC[layer]
        rows_B1 = torch.arange(len(k_BKTC), device=k_BKTC.device)[:, None]
        keys_BKSC[rows_B1, :, sight.index_BT] = k_BKTC.transpose(1, 2).to(keys_BKSC.dtype)
        values_BKSC[rows_B1, :, sight.index_BT] = v_BKTC.transpose(1, 2).to(values_BKSC.dtype)
        return keys_BKSC[:, :, : sight.length], values_BKSC[:, :, : sight.length]
