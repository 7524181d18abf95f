"""RNN, LSTM and GRU language models: one state, carried from token to token.

Shape letters: B rows, T positions, D width, L layers.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from malmoi.core.tensors import TokenBatch
from malmoi.models.config import RecurrentConfig
from malmoi.models.language import LanguageModel
from malmoi.models.state import RecurrentState, State
from malmoi.util.hardware import has_bf16_lstm

ONE_STEP = {"rnn": torch.rnn_tanh_cell, "lstm": torch.lstm_cell, "gru": torch.gru_cell}


class AutocastLSTM(nn.LSTM):
    """PyTorch's LSTM; under autocast it stays in fp32 on processors that have none in bf16."""

    def forward(self, input: Any, hx: Any = None) -> Any:  # the names are PyTorch's
        if not torch.is_autocast_enabled("cpu") or not self.stays_in_fp32:
            return super().forward(input, hx)
        hx = hx and tuple(part.float() for part in hx)
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.float(), hx)

    @property
    def stays_in_fp32(self) -> bool:
        """Whether bf16 has no effect on it here."""
        return next(self.parameters()).device.type == "cpu" and not has_bf16_lstm()


CELLS = {"rnn": nn.RNN, "lstm": AutocastLSTM, "gru": nn.GRU}


def computed_in(model: nn.Module, dtype: str) -> str:
    """What a model trains in, as a user reads it: the precision, and which layers do not have it here."""
    kept = any(isinstance(module, AutocastLSTM) and module.stays_in_fp32 for module in model.modules())
    if dtype == "bf16" and kept:
        return "bf16 (LSTM layers in fp32: this processor has none in bf16)"
    return dtype


def open_forget_gates(cells: nn.RNNBase) -> None:
    """An LSTM's forget gates start open (Jozefowicz et al. 2015), so gradients travel far."""
    if isinstance(cells, nn.LSTM):
        for name, parameter in cells.named_parameters():
            if name.startswith("bias_ih"):  # gates are stored as input, forget, cell, output
                nn.init.ones_(parameter.data[cells.hidden_size : 2 * cells.hidden_size])


class Recurrent(LanguageModel):
    """Embedding, recurrent layers (Elman 1990; Hochreiter & Schmidhuber 1997; Cho et al. 2014), output."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        self.config: RecurrentConfig = config  # pyright: ignore[reportIncompatibleVariableOverride] (never reassigned)
        self.embed = nn.Embedding(config.vocab_size, config.width)
        between = config.dropout if config.layers > 1 else 0.0
        self.cells = CELLS[config.family](
            config.width, config.width, config.layers, batch_first=True, dropout=between
        )
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        self._initialise()

    def _initialise(self) -> None:
        """Small embeddings, open forget gates."""
        nn.init.normal_(self.embed.weight, std=0.02)
        nn.init.normal_(self.head.weight, std=0.02)
        if self.config.tied:
            self.head.weight = self.embed.weight
        open_forget_gates(self.cells)

    def new_state(self, rows: int, capacity: int = 0) -> RecurrentState:
        del capacity  # the state does not grow
        shape = (self.config.layers, rows, self.config.width)
        zeros_LBD = torch.zeros(shape, dtype=self.dtype, device=self.device)
        parts = (zeros_LBD, zeros_LBD.clone()) if self.config.family == "lstm" else (zeros_LBD,)
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
        return state.parts_LBD if self.config.family == "lstm" else state.parts_LBD[0]

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
            before_BD = [part_LBD[layer] for part_LBD in state.parts_LBD]
            is_lstm = self.config.family == "lstm"
            after_BD = ONE_STEP[self.config.family](x_BD, before_BD if is_lstm else before_BD[0], *weights)
            after.append(after_BD if is_lstm else (after_BD,))
            x_BD = after[-1][0]
        state.parts_LBD = tuple(torch.stack(part) for part in zip(*after, strict=True))
        return x_BD[:, None]
