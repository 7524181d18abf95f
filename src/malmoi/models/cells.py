"""Recurrent cells: what a layer makes of a token and its state. A new one is a class and a line.

The line is in `malmoi.models.config:CELLS`, which does not need PyTorch.

Shape letters: B rows (or none: one row), T positions, X width of the input, D width, L layers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from malmoi.models.config import CELLS
from malmoi.util.hardware import has_bf16_lstm
from malmoi.util.tables import entry

Parts = tuple[Tensor, ...]  # of a state: what the layer shows first, what it remembers last


class Cell(ABC):
    """A kind of recurrent layer: its arithmetic, PyTorch's kernel of it where there is one, its words.

    num_parts: tensors of a state. num_sums: vectors of width D that the weights make of a token. title and
    memory, for people: "an LSTM" remembers in "the cell"; explained: what its gates mean.
    """

    title: ClassVar[str]
    memory: ClassVar[str] = "the state"
    explained: ClassVar[str]
    num_parts: ClassVar[int] = 1
    num_sums: ClassVar[int]
    kernel: ClassVar[Any] = None  # a subclass of nn.RNNBase, where there is one

    @abstractmethod
    def compute(
        self, weights: Sequence[Tensor], x_BX: Tensor, parts_BD: Parts
    ) -> tuple[Parts, dict[str, Tensor]]:
        """The state after a token, and each gate, from 0 to 1, by its name: written out as in the paper.

        weights: of one layer: (num_sums D, X) for the token, (num_sums D, D) for the state, both biases.
        """

    def step(self, weights: Sequence[Tensor], x_BX: Tensor, parts_BD: Parts) -> Parts:
        """The state after a token."""
        return self.compute(weights, x_BX, parts_BD)[0]

    def stack(self, x_width: int, width: int, layers: int = 1, dropout: float = 0.0) -> RecurrentLayers:
        """Layers with the interface of `nn.LSTM(batch_first=True)`."""
        if self.kernel is None:
            return SteppedLayers(self, x_width, width, layers, dropout)
        return self.kernel(x_width, width, layers, batch_first=True, dropout=dropout)


class SteppedLayers(nn.Module):
    """Layers of a cell that PyTorch has no kernel for, one step after another: slow, and right."""

    def __init__(self, cell: Cell, x_width: int, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.cell, self.hidden_size, self.num_layers, self.dropout = cell, width, layers, dropout
        for layer in range(layers):
            rows = cell.num_sums * width
            shapes = {"weight_ih": (rows, width if layer else x_width), "weight_hh": (rows, width)}
            for name, shape in (shapes | {"bias_ih": (rows,), "bias_hh": (rows,)}).items():
                parameter = nn.Parameter(torch.empty(shape).uniform_(-(width**-0.5), width**-0.5))
                self.register_parameter(f"{name}_l{layer}", parameter)

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """Of each layer, in the order of `nn.RNNBase`."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return [[getattr(self, f"{name}_l{layer}") for name in names] for layer in range(self.num_layers)]

    def forward(self, rows: Tensor | PackedSequence, state: Parts | Tensor | None = None) -> tuple[Any, Any]:
        """y_BTD and the state after each row's last token, as of `nn.RNNBase`; packed rows stay packed."""
        if isinstance(rows, PackedSequence):
            x_BTX, lengths_B = pad_packed_sequence(rows, batch_first=True)
            y_BTD, after = self._read(x_BTX, lengths_B, state)
            return pack_padded_sequence(y_BTD, lengths_B, batch_first=True, enforce_sorted=False), after
        return self._read(rows, None, state)

    def _read(self, x_BTX: Tensor, lengths_B: Tensor | None, state: Parts | Tensor | None) -> tuple[Any, Any]:
        given = state if isinstance(state, tuple) else (state,) if state is not None else ()
        zeros_BD = x_BTX.new_zeros(len(x_BTX), self.hidden_size)
        ends: list[Parts] = []
        for layer, weights in enumerate(self.all_weights):
            parts = tuple(part_LBD[layer] for part_LBD in given) or (zeros_BD,) * self.cell.num_parts
            shown: list[Tensor] = []
            for at, x_BX in enumerate(x_BTX.unbind(1)):
                after = self.cell.step(weights, x_BX, parts)
                if lengths_B is not None:  # a row that has ended keeps its state
                    goes_on_B1 = (lengths_B > at).to(x_BX.device)[:, None]
                    after = tuple(torch.where(goes_on_B1, *two) for two in zip(after, parts, strict=True))
                parts = after
                shown.append(parts[0])
            ends.append(parts)
            x_BTX = torch.stack(shown, 1)
            if layer + 1 < self.num_layers:
                x_BTX = functional.dropout(x_BTX, self.dropout, self.training)
        found = tuple(torch.stack(part) for part in zip(*ends, strict=True))
        return x_BTX, found if self.cell.num_parts > 1 else found[0]


RecurrentLayers = nn.RNNBase | SteppedLayers


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


class LSTM(Cell):
    """Long short-term memory (Hochreiter & Schmidhuber 1997), with the forget gate of Gers et al. (2000)."""

    title, memory, num_parts, num_sums = "an LSTM", "the cell", 2, 4
    kernel = AutocastLSTM
    explained = (
        "The lines are the gates, from 0 (shut) to 1 (open): the forget gate keeps the old cell where "
        "it is open and forgets where it shuts, the input gate saves the new token, the output gate "
        "loads the cell into what the next layer sees."
    )

    def stack(self, x_width: int, width: int, layers: int = 1, dropout: float = 0.0) -> RecurrentLayers:
        """Forget gates start open (Jozefowicz et al. 2015), so gradients travel far."""
        found = super().stack(x_width, width, layers, dropout)
        for name, parameter in found.named_parameters():
            if name.startswith("bias_ih"):  # gates are stored as input, forget, cell, output
                nn.init.ones_(parameter.data[width : 2 * width])
        return found

    def compute(
        self, weights: Sequence[Tensor], x_BX: Tensor, parts_BD: Parts
    ) -> tuple[Parts, dict[str, Tensor]]:
        hidden_BD, memory_BD = parts_BD
        write_BD, keep_BD, new_BD, show_BD = (
            a + b for a, b in zip(*_sums(weights, x_BX, hidden_BD, 4), strict=True)
        )
        write_BD, keep_BD, show_BD = write_BD.sigmoid(), keep_BD.sigmoid(), show_BD.sigmoid()
        memory_BD = keep_BD * memory_BD + write_BD * new_BD.tanh()
        gates = {"forget gate": keep_BD, "input gate": write_BD, "output gate": show_BD}
        return (show_BD * memory_BD.tanh(), memory_BD), gates

    def step(self, weights: Sequence[Tensor], x_BX: Tensor, parts_BD: Parts) -> Parts:
        return torch.lstm_cell(x_BX, parts_BD, *weights)


class GRU(Cell):
    """Gated recurrent units (Cho et al. 2014)."""

    title, num_sums, kernel = "a GRU", 3, nn.GRU
    explained = (
        "The lines are the gates, from 0 (shut) to 1 (open): an open update gate keeps the old state, "
        "a shut one writes the new; the reset gate says how much of the old state is loaded to make "
        "the new one."
    )

    def compute(
        self, weights: Sequence[Tensor], x_BX: Tensor, parts_BD: Parts
    ) -> tuple[Parts, dict[str, Tensor]]:
        hidden_BD = parts_BD[0]
        (reset_x, keep_x, new_x), (reset_h, keep_h, new_h) = _sums(weights, x_BX, hidden_BD, 3)
        reset_BD, keep_BD = (reset_x + reset_h).sigmoid(), (keep_x + keep_h).sigmoid()
        hidden_BD = (1 - keep_BD) * (new_x + reset_BD * new_h).tanh() + keep_BD * hidden_BD
        return (hidden_BD,), {"update gate": keep_BD, "reset gate": reset_BD}

    def step(self, weights: Sequence[Tensor], x_BX: Tensor, parts_BD: Parts) -> Parts:
        return (torch.gru_cell(x_BX, *parts_BD, *weights),)


class RNN(Cell):
    """Elman networks (Elman 1990)."""

    title, num_sums, kernel = "an RNN", 1, nn.RNN
    explained = "An RNN has no gates: every token rewrites all of its state."

    def compute(
        self, weights: Sequence[Tensor], x_BX: Tensor, parts_BD: Parts
    ) -> tuple[Parts, dict[str, Tensor]]:
        (from_x,), (from_h,) = _sums(weights, x_BX, parts_BD[0], 1)
        return ((from_x + from_h).tanh(),), {}

    def step(self, weights: Sequence[Tensor], x_BX: Tensor, parts_BD: Parts) -> Parts:
        return (torch.rnn_tanh_cell(x_BX, *parts_BD, *weights),)


def _sums(weights: Sequence[Tensor], x_BX: Tensor, hidden_BD: Tensor, count: int) -> tuple[Parts, Parts]:
    """What the token and the state add to each of `count` sums."""
    w_in, w_hidden, b_in, b_hidden = weights
    from_x, from_h = functional.linear(x_BX, w_in, b_in), functional.linear(hidden_BD, w_hidden, b_hidden)
    return from_x.chunk(count, -1), from_h.chunk(count, -1)


def cell_named(family: str) -> Cell:
    """The cell of a config's `family`."""
    return entry(CELLS[family])()


def cell_of(layers: RecurrentLayers) -> Cell:
    """The cell of recurrent layers."""
    if isinstance(layers, SteppedLayers):
        return layers.cell
    return next(
        cell for cell in map(cell_named, CELLS) if cell.kernel and issubclass(cell.kernel, type(layers))
    )


def computed_in(model: nn.Module, dtype: str) -> str:
    """What a model trains in, as a user reads it: the precision, and which layers do not have it here."""
    kept = any(isinstance(module, AutocastLSTM) and module.stays_in_fp32 for module in model.modules())
    if dtype == "bf16" and kept:
        return "bf16 (LSTM layers in fp32: this processor has none in bf16)"
    return dtype
