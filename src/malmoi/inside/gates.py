"""What a recurrent layer keeps, writes and shows at every token, computed one step at a time.

The fused kernels give only the hidden states; here each step is written out as in the papers (LSTM:
Hochreiter & Schmidhuber 1997, the forget gate of Gers et al. 2000; GRU: Cho et al. 2014; RNN: Elman 1990),
with torch's order of the gates.

Shape letters: T positions, D width, X width of the input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Step = tuple[Tensor, Tensor, dict[str, Tensor]]  # the new hidden_D and memory_D, the gates_D by name


@dataclass(frozen=True, slots=True)
class Trace:
    """One layer over one row.

    gates: name -> gate_TD from 0 to 1. memory_TD: the cell of an LSTM, else the state.
    """

    gates: dict[str, Tensor]
    hidden_TD: Tensor
    memory_TD: Tensor

    def first(self, count: int) -> Trace:
        """The first positions, on the processor."""
        gates = {name: gate_TD[:count].cpu() for name, gate_TD in self.gates.items()}
        return Trace(gates, self.hidden_TD[:count].cpu(), self.memory_TD[:count].cpu())

    def turned(self) -> Trace:
        """Of a layer that read the text from its end: in the order of the text."""
        gates = {name: gate_TD.flip(0) for name, gate_TD in self.gates.items()}
        return Trace(gates, self.hidden_TD.flip(0), self.memory_TD.flip(0))


@torch.no_grad()
def trace(cells: nn.RNNBase, x_TX: Tensor, state: Any = None, layer: int = 0) -> Trace:
    """One layer (from 0) of one-directional `cells` over a row.

    state: as torch takes it, of one row; None: zeros.
    """
    found = None
    for number in range(layer + 1):
        found = _layer(cells, number, x_TX if found is None else found.hidden_TD, state)
    assert found is not None
    return found


def _layer(cells: nn.RNNBase, number: int, x_TX: Tensor, state: Any) -> Trace:
    parts = state if isinstance(state, tuple) else (state,) if state is not None else ()
    zeros_D = x_TX.new_zeros(cells.hidden_size)
    hidden_D, *rest = [part[number].flatten() for part in parts] or [zeros_D]
    memory_D, steps = (rest or [zeros_D])[0], []
    for x_X in x_TX:
        hidden_D, memory_D, gates = STEPS[cells.mode](cells.all_weights[number], x_X, hidden_D, memory_D)
        steps.append((hidden_D, memory_D, gates))
    hidden, memory, shut = zip(*steps, strict=True)
    gates_TD = {name: torch.stack([gates[name] for gates in shut]) for name in shut[0]}
    return Trace(gates_TD, torch.stack(hidden), torch.stack(memory))


def _lstm(weights: Sequence[Tensor], x_X: Tensor, hidden_D: Tensor, memory_D: Tensor) -> Step:
    w_in, w_hidden, b_in, b_hidden = weights
    sums_4D = functional.linear(x_X, w_in, b_in) + functional.linear(hidden_D, w_hidden, b_hidden)
    write_D, keep_D, new_D, show_D = sums_4D.chunk(4)
    write_D, keep_D, show_D = write_D.sigmoid(), keep_D.sigmoid(), show_D.sigmoid()
    memory_D = keep_D * memory_D + write_D * new_D.tanh()
    gates = {"forget gate": keep_D, "input gate": write_D, "output gate": show_D}
    return show_D * memory_D.tanh(), memory_D, gates


def _gru(weights: Sequence[Tensor], x_X: Tensor, hidden_D: Tensor, memory_D: Tensor) -> Step:
    del memory_D  # the state is the memory
    w_in, w_hidden, b_in, b_hidden = weights
    from_x, from_h = functional.linear(x_X, w_in, b_in), functional.linear(hidden_D, w_hidden, b_hidden)
    (reset_x, keep_x, new_x), (reset_h, keep_h, new_h) = from_x.chunk(3), from_h.chunk(3)
    reset_D, keep_D = (reset_x + reset_h).sigmoid(), (keep_x + keep_h).sigmoid()
    hidden_D = (1 - keep_D) * (new_x + reset_D * new_h).tanh() + keep_D * hidden_D
    return hidden_D, hidden_D, {"update gate": keep_D, "reset gate": reset_D}


def _rnn(weights: Sequence[Tensor], x_X: Tensor, hidden_D: Tensor, memory_D: Tensor) -> Step:
    del memory_D
    w_in, w_hidden, b_in, b_hidden = weights
    hidden_D = (functional.linear(x_X, w_in, b_in) + functional.linear(hidden_D, w_hidden, b_hidden)).tanh()
    return hidden_D, hidden_D, {}


STEPS: dict[str, Callable[[Sequence[Tensor], Tensor, Tensor, Tensor], Step]] = {
    "LSTM": _lstm, "GRU": _gru, "RNN_TANH": _rnn,
}  # fmt: skip
