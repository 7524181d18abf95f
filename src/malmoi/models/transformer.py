"""One decoder Transformer for GPT-2, Llama, Mistral, Qwen and Gemma: its config chooses the blocks.

Shape letters: B rows, T positions, S cached positions, D width.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn

from malmoi.core.errors import UserError
from malmoi.core.tensors import TokenBatch
from malmoi.models.attention import Attention, Memory, Sight, causal_mask
from malmoi.models.block_attention import QueryBlock, blocks_of
from malmoi.models.blocks import Positions, make_feed_forward, make_norm
from malmoi.models.config import LayerKind, TransformerConfig
from malmoi.models.language import LanguageModel
from malmoi.models.native import fused
from malmoi.models.native.attention import first_keys
from malmoi.models.rope import Rotary
from malmoi.models.state import KVState, State


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x)): the pre-norm residual block."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention_norm = make_norm(config, config.width)
        self.attention = Attention(config)
        self.feed_forward_norm = make_norm(config, config.width)
        self.feed_forward = make_feed_forward(config)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()

    def forward(self, x_BTD: Tensor, sight: Sight, state: KVState | None, layer: int) -> Tensor:
        x_BTD = x_BTD + self.dropout(self.attention(self.attention_norm(x_BTD), sight, state, layer))
        return x_BTD + self.dropout(self.feed_forward(self.feed_forward_norm(x_BTD)))


class SandwichBlock(Block):
    """What attention and feed-forward give is normed before it is added, too (Gemma 2)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.attention_post_norm = make_norm(config, config.width)
        self.feed_forward_post_norm = make_norm(config, config.width)

    def forward(self, x_BTD: Tensor, sight: Sight, state: KVState | None, layer: int) -> Tensor:
        y_BTD = self.attention(self.attention_norm(x_BTD), sight, state, layer)
        x_BTD = x_BTD + self.dropout(self.attention_post_norm(y_BTD))
        y_BTD = self.feed_forward(self.feed_forward_norm(x_BTD))
        return x_BTD + self.dropout(self.feed_forward_post_norm(y_BTD))


def initialise(model: nn.Module, layers: int) -> None:
    """Normal(0, 0.02), less for what adds to the residual stream: GPT-2 (Radford et al. 2019)."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    for name, parameter in model.named_parameters():
        if name.endswith(("attention.out.weight", "feed_forward.down.weight")):
            nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers))


class FusedStep(Protocol):
    """Computes `Scorer.step` in another way than module by module."""

    most_verified: int  # see `Verifier`

    def __call__(
        self, model: Transformer, ids_BT: Tensor, counts_B: Tensor, state: State, *, last_only: bool = False
    ) -> Tensor:
        """See `Scorer.step`; `model` is the one that this was made for."""
        ...

    def verify(self, model: Transformer, ids_BT: Tensor, counts_B: Tensor, state: State) -> Tensor:
        """See `Verifier.verify`."""
        ...


class Transformer(LanguageModel):
    """A stack of blocks between an embedding and an output matrix."""

    def __init__(self, config: TransformerConfig, block: type[Block] | None = None) -> None:
        super().__init__()
        self.config: TransformerConfig = config  # pyright: ignore[reportIncompatibleVariableOverride]
        self.embed = nn.Embedding(config.vocab_size, config.width)
        learned = config.position == "learned"
        self.positions = nn.Embedding(config.context, config.width) if learned else None
        self.rotary = None if learned else Rotary.of(config)
        apart = config.window_rope_theta is not None
        self.window_rotary = Rotary.of(config, in_window=True) if apart else None
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        block = block or (SandwichBlock if config.post_norm else Block)
        self.blocks = nn.ModuleList(block(config) for _ in range(config.layers))
        self.norm = make_norm(config, config.width)
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        self.softcap = config.logit_softcap
        self.kinds = config.layer_kinds
        self.fused: FusedStep | None = None  # of a model that is packed to answer
        self.cache_dtype: torch.dtype | None = None  # of keys and values; None: that of the model
        initialise(self, config.layers)
        if config.tied:
            self.head.weight = self.embed.weight

    def extend(self, context: int) -> None:
        """See `LanguageModel.extend`. Raises UserError for learned positions, which have an end."""
        if context <= self.context:
            return
        if self.positions is not None:
            raise UserError(f"learned positions end at {self.config.context}; {context} need another model")
        self.config = self.config.model_copy(  # pyright: ignore[reportIncompatibleVariableOverride]
            update={"context": context}
        )
        self.rotary = Rotary.of(self.config).to(self.device)

    @property
    def context(self) -> int:
        """The longest row that is served: up to there a token's rotation does not depend on later ones."""
        return self.config.steady_context

    def new_state(self, rows: int, capacity: int = 0) -> KVState:
        c = self.config
        like = torch.empty(0, dtype=self.cache_dtype or self.dtype, device=self.device)
        return KVState.empty(c.layers, rows, c.num_kv_heads, capacity, c.size_of_head, like)

    def hidden(
        self,
        batch: TokenBatch,
        state: State | None = None,
        memory: Memory | None = None,
        reach: int | None = None,
    ) -> Tensor:
        """See `LanguageModel.hidden`.

        memory: what blocks with cross-attention look at. reach: how long the longest row is after this, where
        that is known; None: as if there were no padding.
        """
        assert state is None or isinstance(state, KVState)
        positions = self._positions(batch, state)
        x_BTD = self.dropout(self.embedded(batch.ids_BT, positions))
        sights = self._sights(batch, positions, state, memory, reach)
        for layer, (block, kind) in enumerate(zip(self.blocks, self.kinds, strict=True)):
            x_BTD = block(x_BTD, sights[kind], state, layer)
        return self.norm(x_BTD)

    def embedded(self, ids: Tensor, positions: Positions) -> Tensor:
        """What the first block reads: the ids' rows, and their positions' where these are learned."""
        x = self.embed(ids)
        if self.config.scaled_embedding:
            x = x * self.config.width**0.5
        if self.positions is None:
            return x
        if isinstance(positions, slice):
            return x + self.positions.weight[positions]
        return x + self.positions(positions.clamp(max=self.config.context - 1))  # padding may lie beyond

    @torch.inference_mode()
    def step(self, ids_BT: Tensor, counts_B: Tensor, state: State, *, last_only: bool = False) -> Tensor:
        """See `Scorer.step`."""
        if self.fused is None:
            return super().step(ids_BT, counts_B, state, last_only=last_only)
        return self.fused(self, ids_BT, counts_B, state, last_only=last_only)

    @property
    def most_verified(self) -> int:
        """See `Verifier`: only our kernels compute the same to the bit however tokens come."""
        return 0 if self.fused is None else self.fused.most_verified

    @torch.inference_mode()
    def verify(self, ids_BT: Tensor, counts_B: Tensor, state: State) -> Tensor:
        """See `Verifier.verify`."""
        assert self.fused is not None
        return self.fused.verify(self, ids_BT, counts_B, state)

    def _read(self, ids_BT: Tensor, counts_B: Tensor, state: State) -> Tensor:
        """Causal attention never looks at the padding to the right; a rotation may depend on real lengths."""
        depends = self.rotary is not None and self.rotary.steady is not None
        reach = int((state.lengths_B + counts_B.cpu()).max()) if depends else None
        return self.hidden(TokenBatch(ids_BT), state, reach=reach)

    def flops_per_token(self, context: int) -> float:
        c = self.config
        attention = 0.0
        for kind in self.kinds:
            most_keys = min(c.window or context, context) if kind.has_window else context
            mean_keys = most_keys * (1 - most_keys / (2 * context))  # causal: half of them without a window
            attention += 12 * c.heads * c.size_of_head * mean_keys
        return 6 * self.num_parameters(embeddings=False) + attention

    def _positions(self, batch: TokenBatch, state: KVState | None) -> Positions:
        """Where the tokens stand; a slice, which is faster, wherever rows agree.

        Learned positions begin again with each document; rotary ones need not where only distances matter.
        """
        length = batch.ids_BT.shape[1]
        if state is not None:
            first, *others = state.lengths_B.tolist()
            fits = self.positions is None or first + length <= self.config.context
            if fits and all(other == first for other in others):
                return slice(first, first + length)
            starts_B1 = state.lengths_B.to(batch.ids_BT.device)[:, None]
            return starts_B1 + torch.arange(length, device=batch.ids_BT.device)
        steady = self.rotary is not None and self.rotary.steady is None
        if steady or batch.documents_BT is None:
            return slice(0, length)
        here_T = torch.arange(length, device=batch.ids_BT.device)
        begins_BT = batch.documents_BT.diff(dim=1, prepend=batch.documents_BT[:, :1]) != 0
        return here_T - (here_T * begins_BT).cummax(dim=1).values

    def _sights(
        self,
        batch: TokenBatch,
        positions: Positions,
        state: KVState | None,
        memory: Memory | None,
        reach: int | None,
    ) -> dict[LayerKind, Sight]:
        """What the layers of each kind see."""
        length = batch.ids_BT.shape[1]
        if state is not None:
            assert batch.documents_BT is None, "a cached row is one document"
            length += int(state.lengths_B.max())
            state.reserve(length)
        sights: dict[LayerKind, Sight] = {}
        for kind in dict.fromkeys(self.kinds):
            window = self.config.window if kind.has_window else None
            tables = self._tables(kind, batch, positions, length, reach or length)
            sight = Sight(None, tables, positions, length, memory=memory)
            if state is None and self.config.attention_softcap is None and fused.has_kernels(self._product()):
                sights[kind] = replace(sight, first_BT=first_keys(length, batch.documents_BT, window))
            else:
                mask_B1TS = self._mask(batch, positions, length, window)
                blocks = self._blocks_of(mask_B1TS, length) if state is None else None
                sights[kind] = replace(sight, mask_B1TS=mask_B1TS, blocks=blocks)
        return sights

    def _product(self) -> Tensor:
        """No numbers, where and as this model's products are."""
        kind = self.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.dtype
        return torch.empty(0, dtype=dtype, device=self.device)

    def rotary_of(self, kind: LayerKind) -> Rotary | None:
        """What turns queries and keys in layers of this kind; None: they are not turned."""
        if not kind.has_rope:
            return None
        return self.window_rotary if kind.has_window and self.window_rotary is not None else self.rotary

    def _tables(
        self, kind: LayerKind, batch: TokenBatch, positions: Positions, length: int, reach: int
    ) -> tuple[Tensor, Tensor] | None:
        """cos and sin that a layer's queries and keys are turned by; None: they are not."""
        if (rotary := self.rotary_of(kind)) is None:
            return None
        if batch.documents_BT is not None and isinstance(positions, Tensor):
            reach = int(positions.max()) + 1
        return rotary.tables(positions, length, reach)

    def _blocks_of(self, mask_B1TT: Tensor | None, length: int) -> tuple[QueryBlock, ...] | None:
        """The mask as block attention wants it, where that is how to attend: in bf16 on a processor."""
        product = self._product()
        if product.device.type != "cpu" or product.dtype != torch.bfloat16:
            return None
        if mask_B1TT is None:
            here_1T = torch.arange(length)[None]
            mask_B1TT = causal_mask(here_1T, here_1T, None)[None]
        return blocks_of(mask_B1TT, product.dtype)

    @staticmethod
    def _mask(batch: TokenBatch, positions: Positions, length: int, window: int | None) -> Tensor | None:
        """mask_B1TS of the keys 0..length-1, or None where `Sight` says so."""
        documents_BT = batch.documents_BT
        usual = isinstance(positions, slice) and batch.ids_BT.shape[1] in (1, length)
        if usual and documents_BT is None and (window or length) >= length:
            return None
        keys_1S = torch.arange(length, device=batch.ids_BT.device)[None]
        if documents_BT is not None:
            same_BTS = documents_BT[:, :, None] == documents_BT[:, None, :]
            return (causal_mask(keys_1S, keys_1S, window) & same_BTS).unsqueeze(1)
        queries_BT = keys_1S[:, positions] if isinstance(positions, slice) else positions
        return causal_mask(queries_BT, keys_1S, window).unsqueeze(1)
