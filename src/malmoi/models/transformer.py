"""One decoder Transformer for GPT-2, Llama, Mistral and Qwen: its config chooses the blocks.

Shape letters: B rows, T positions, S cached positions, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from malmoi.core import TokenBatch
from malmoi.models.attention import Attention, Memory, Sight, causal_mask
from malmoi.models.block_attention import as_bias
from malmoi.models.blocks import Positions, Rotary, make_feed_forward, make_norm
from malmoi.models.config import TransformerConfig
from malmoi.models.language import LanguageModel
from malmoi.models.state import KVState, State
from malmoi.util.errors import UserError


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


class Transformer(LanguageModel):
    """A stack of blocks between an embedding and an output matrix."""

    def __init__(self, config: TransformerConfig, block: type[Block] = Block) -> None:
        super().__init__()
        self.config: TransformerConfig = config  # pyright: ignore[reportIncompatibleVariableOverride]
        self.embed = nn.Embedding(config.vocab_size, config.width)
        learned = config.position == "learned"
        self.positions = nn.Embedding(config.context, config.width) if learned else None
        self.rotary = None if learned else Rotary(config.size_of_head, config.rope_theta, config.context)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.blocks = nn.ModuleList(block(config) for _ in range(config.layers))
        self.norm = make_norm(config, config.width)
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        initialise(self, config.layers)
        if config.tied:
            self.head.weight = self.embed.weight

    def extend(self, context: int) -> None:
        """Let rows have so many positions, to be tuned on them. Raises UserError for learned positions."""
        if self.positions is not None:
            raise UserError(f"learned positions end at {self.config.context}; {context} need another model")
        self.config = self.config.model_copy(  # pyright: ignore[reportIncompatibleVariableOverride]
            update={"context": context}
        )
        rotary = Rotary(self.config.size_of_head, self.config.rope_theta, context)
        self.rotary = rotary.to(self.head.weight.device)

    def new_state(self, rows: int, capacity: int = 0) -> KVState:
        c = self.config
        return KVState.empty(c.layers, rows, c.num_kv_heads, capacity, c.size_of_head, self.head.weight)

    def hidden(self, batch: TokenBatch, state: State | None = None, memory: Memory | None = None) -> Tensor:
        """See `LanguageModel.hidden`. memory: what blocks with cross-attention look at."""
        assert state is None or isinstance(state, KVState)
        positions = self._positions(batch, state)
        x_BTD = self.embed(batch.ids_BT)
        if self.positions is not None:
            x_BTD = x_BTD + (
                self.positions.weight[positions] if isinstance(positions, slice)
                else self.positions(positions.clamp(max=self.config.context - 1))  # padding may lie beyond
            )  # fmt: skip
        x_BTD = self.dropout(x_BTD)
        sight = self._sight(batch, positions, state, memory)
        for layer, block in enumerate(self.blocks):
            x_BTD = block(x_BTD, sight, state, layer)
        return self.norm(x_BTD)

    def flops_per_token(self, context: int) -> float:
        c = self.config
        most_keys = min(c.window or context, context)
        mean_keys = most_keys * (1 - most_keys / (2 * context))  # causal: half of them without a window
        attention = 12 * c.layers * c.heads * c.size_of_head * mean_keys
        return 6 * self.num_parameters(embeddings=False) + attention

    def _positions(self, batch: TokenBatch, state: KVState | None) -> Positions:
        """Where the tokens stand; a slice, which is faster, wherever rows agree.

        Learned positions begin again with each document; rotary ones need not, as only distances matter.
        """
        length = batch.ids_BT.shape[1]
        if state is not None:
            first, *others = state.lengths_B.tolist()
            if first + length <= self.config.context and all(other == first for other in others):
                return slice(first, first + length)
            starts_B1 = state.lengths_B.to(batch.ids_BT.device)[:, None]
            return starts_B1 + torch.arange(length, device=batch.ids_BT.device)
        if self.positions is None or batch.documents_BT is None:
            return slice(0, length)
        here_T = torch.arange(length, device=batch.ids_BT.device)
        begins_BT = batch.documents_BT.diff(dim=1, prepend=batch.documents_BT[:, :1]) != 0
        return here_T - (here_T * begins_BT).cummax(dim=1).values

    def _sight(
        self, batch: TokenBatch, positions: Positions, state: KVState | None, memory: Memory | None
    ) -> Sight:
        length = batch.ids_BT.shape[1]
        if state is not None:
            assert batch.documents_BT is None, "a cached row is one document"
            length += int(state.lengths_B.max())
            state.reserve(length)
        tables = self.rotary.tables(positions, length) if self.rotary is not None else None
        mask_B1TS = self._mask(batch, positions, length)
        bias_BTT = self._bias(mask_B1TS, length) if state is None else None
        return Sight(mask_B1TS, tables, positions, length, bias_BTT, memory=memory)

    def _bias(self, mask_B1TT: Tensor | None, length: int) -> Tensor | None:
        """The mask as block attention wants it, where that is how to attend: in bf16 on a processor."""
        autocast = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if autocast else self.head.weight.dtype
        if self.device.type != "cpu" or dtype != torch.bfloat16:
            return None
        if mask_B1TT is None:
            here_1T = torch.arange(length)[None]
            mask_B1TT = causal_mask(here_1T, here_1T, None)[None]
        return as_bias(mask_B1TT, dtype)

    def _mask(self, batch: TokenBatch, positions: Positions, length: int) -> Tensor | None:
        """mask_B1TS of the keys 0..length-1, or None where `Sight` says so."""
        window, documents_BT = self.config.window, batch.documents_BT
        usual = isinstance(positions, slice) and batch.ids_BT.shape[1] in (1, length)
        if usual and documents_BT is None and (window or length) >= length:
            return None
        keys_1S = torch.arange(length, device=batch.ids_BT.device)[None]
        if documents_BT is not None:
            same_BTS = documents_BT[:, :, None] == documents_BT[:, None, :]
            return (causal_mask(keys_1S, keys_1S, window) & same_BTS).unsqueeze(1)
        queries_BT = keys_1S[:, positions] if isinstance(positions, slice) else positions
        return causal_mask(queries_BT, keys_1S, window).unsqueeze(1)
