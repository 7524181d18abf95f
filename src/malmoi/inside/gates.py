"""What a recurrent layer keeps, writes and shows at every token, computed one step at a time.

The fused kernels give only the hidden states; here each step is computed as `malmoi.models.cells` writes it.

Shape letters: T positions, D width, X width of the input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from malmoi.models.cells import Cell, RecurrentLayers, cell_of


@dataclass(frozen=True, slots=True)
class Trace:
    """One layer over one row.

    gates: name -> gate_TD from 0 to 1. memory_TD: the cell of an LSTM, else the state.
    """

    cell: Cell
    gates: dict[str, Tensor]
    hidden_TD: Tensor
    memory_TD: Tensor

    def first(self, count: int) -> Trace:
        """The first positions, on the processor."""
        gates = {name: gate_TD[:count].cpu() for name, gate_TD in self.gates.items()}
        return Trace(self.cell, gates, self.hidden_TD[:count].cpu(), self.memory_TD[:count].cpu())

    def turned(self) -> Trace:
        """Of a layer that read the text from its end: in the order of the text."""
        gates = {name: gate_TD.flip(0) for name, gate_TD in self.gates.items()}
        return Trace(self.cell, gates, self.hidden_TD.flip(0), self.memory_TD.flip(0))


@torch.no_grad()
def trace(layers: RecurrentLayers, x_TX: Tensor, state: Any = None, layer: int = 0) -> Trace:
    """One layer (from 0) of one-directional `layers` over a row.

    state: as torch takes it, of one row; None: zeros.
    """
    found = None
    for number in range(layer + 1):
        found = _layer(layers, number, x_TX if found is None else found.hidden_TD, state)
    assert found is not None
    return found


def _layer(layers: RecurrentLayers, number: int, x_TX: Tensor, state: Any) -> Trace:
    cell, weights = cell_of(layers), layers.all_weights[number]
    given = state if isinstance(state, tuple) else (state,) if state is not None else ()
    zeros_D = x_TX.new_zeros(layers.hidden_size)
    parts = tuple(part[number].flatten() for part in given) or (zeros_D,) * cell.num_parts
    steps, gates = [], []
    for x_X in x_TX:
        parts, opened = cell.compute(weights, x_X, parts)
        steps.append(parts)
        gates.append(opened)
    return Trace(
        cell,
        {name: torch.stack([opened[name] for opened in gates]) for name in gates[0]},
        torch.stack([parts[0] for parts in steps]), torch.stack([parts[-1] for parts in steps]),
    )  # fmt: skip
