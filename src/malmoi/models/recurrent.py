"""Recurrent language models: one state, carried from token to token.

Shape letters: B rows, T positions, D width, L layers.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from malmoi.core.tensors import TokenBatch
from malmoi.models.cells import cell_named
from malmoi.models.config import RecurrentConfig
from malmoi.models.language import LanguageModel
from malmoi.models.state import RecurrentState, State


class Recurrent(LanguageModel):
    """Embedding, the layers of a cell (see `malmoi.models.cells`), output."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        self.config: RecurrentConfig = config  # pyright: ignore[reportIncompatibleVariableOverride] (never reassigned)
        self.embed = nn.Embedding(config.vocab_size, config.width)
        between = config.dropout if config.layers > 1 else 0.0
        self.cell = cell_named(config.family)
        self.cells = self.cell.stack(config.width, config.width, config.layers, between)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        self._initialise()

    def _initialise(self) -> None:
        """Small embeddings."""
        nn.init.normal_(self.embed.weight, std=0.02)
        nn.init.normal_(self.head.weight, std=0.02)
        if self.config.tied:
            self.head.weight = self.embed.weight

    def new_state(self, rows: int, capacity: int = 0) -> RecurrentState:
        del capacity  # the state does not grow
        shape = (self.config.layers, rows, self.config.width)
        zeros_LBD = torch.zeros(shape, dtype=self.dtype, device=self.device)
        parts = tuple(zeros_LBD.clone() for _ in range(self.cell.num_parts))
        return RecurrentState(parts, torch.zeros(rows, dtype=torch.int64))

    def hidden(self, batch: TokenBatch, state: State | None = None) -> Tensor:
        """x_BTD. Document starts do not reset the state: the fused kernels cannot (see docs/decisions.md)."""
        assert state is None or isinstance(state, RecurrentState)
        x_BTD = self.dropout(self.embed(batch.ids_BT))
        x_BTD, after = self.cells(x_BTD, self._pack(state))
        if state is not None:
            state.parts_LBD = after if isinstance(after, tuple) else (after,)
        return self.dropout(x_BTD)

    def flops_per_token(self, context: int) -> float:
        del context  # the same work at every position
        return 6 * self.num_parameters(embeddings=False)

    def _pack(self, state: RecurrentState | None) -> tuple[Tensor, ...] | Tensor | None:
        if state is None:
            return None
        return state.parts_LBD if self.cell.num_parts > 1 else state.parts_LBD[0]

    def _read(self, ids_BT: Tensor, counts_B: Tensor, state: State) -> Tensor:
        """Rows of unequal length go through packed, so that padding never enters a state."""
        assert isinstance(state, RecurrentState)
        if ids_BT.shape[1] == 1:
            return self._read_one(ids_BT, state)
        if bool((counts_B == ids_BT.shape[1]).all()):
            return self.hidden(TokenBatch(ids_BT), state)
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embed(ids_BT), counts_B.cpu(), batch_first=True, enforce_sorted=False
        )
        y_packed, after = self.cells(packed, self._pack(state))
        state.parts_LBD = cast("tuple[Tensor, ...]", after) if isinstance(after, tuple) else (after,)
        return nn.utils.rnn.pad_packed_sequence(y_packed, batch_first=True, total_length=ids_BT.shape[1])[0]

    def _read_one(self, ids_B1: Tensor, state: RecurrentState) -> Tensor:
        """One token through each layer's cell: the fused kernels prepare their weights anew at every call."""
        x_BD, after = self.embed(ids_B1)[:, 0], []
        for layer, weights in enumerate(self.cells.all_weights):
            after.append(self.cell.step(weights, x_BD, tuple(part[layer] for part in state.parts_LBD)))
            x_BD = after[-1][0]
        state.parts_LBD = tuple(torch.stack(part) for part in zip(*after, strict=True))
        return x_BD[:, None]
