"""What every recurrent cell keeps: its own arithmetic, step by step, is what its layers compute."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from malmoi.models.cells import Cell, RecurrentLayers, SteppedLayers, cell_named, cell_of
from malmoi.models.config import CELLS, RecurrentConfig

every_cell = pytest.mark.parametrize("name", CELLS)
X, WIDTH, LAYERS, LENGTHS = 5, 6, 2, [7, 1, 4]


def both(cell: Cell) -> tuple[RecurrentLayers, SteppedLayers]:
    """The cell's layers, and the same weights in layers that go step by step."""
    torch.manual_seed(0)
    layers, stepped = cell.stack(X, WIDTH, LAYERS), SteppedLayers(cell, X, WIDTH, LAYERS, 0.0)
    stepped.load_state_dict(layers.state_dict())
    return layers, stepped


def parts(state: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


@every_cell
def test_layers_equal_their_steps(name: str) -> None:
    check_layers(cell_named(name))


def check_layers(cell: Cell) -> None:
    layers, stepped = both(cell)
    assert (type(cell_of(layers)), type(cell_of(stepped))) == (type(cell), type(cell))
    x_BTX = torch.randn(3, 7, X)
    (wanted, before), (found, after) = layers(x_BTX), stepped(x_BTX)
    torch.testing.assert_close(found, wanted)
    for one, other in zip(parts(after), parts(before), strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(stepped(x_BTX, after)[0], layers(x_BTX, before)[0])
    wanted.sum().backward()
    found.sum().backward()
    for one, other in zip(stepped.parameters(), layers.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@every_cell
def test_padding_reaches_no_state(name: str) -> None:
    check_padding(cell_named(name))


def check_padding(cell: Cell) -> None:
    layers, stepped = both(cell)
    x_BTX = torch.randn(3, 7, X)
    packed = pack_padded_sequence(x_BTX, torch.tensor(LENGTHS), batch_first=True, enforce_sorted=False)
    for module in (layers, stepped):
        shown, after = module(packed)
        y_BTD, lengths_B = pad_packed_sequence(shown, batch_first=True)
        assert lengths_B.tolist() == LENGTHS
        for b, length in enumerate(LENGTHS):
            alone_1TD, end = module(x_BTX[b : b + 1, :length])
            torch.testing.assert_close(y_BTD[b : b + 1, :length], alone_1TD)
            for one, other in zip(parts(after), parts(end), strict=True):
                torch.testing.assert_close(one[:, b : b + 1], other)


@every_cell
def test_a_step_is_the_arithmetic_of_the_paper(name: str) -> None:
    check_step(cell_named(name))


def check_step(cell: Cell) -> None:
    weights = cell.stack(X, WIDTH).all_weights[0]
    x_BX, before = torch.randn(3, X), tuple(torch.randn(3, WIDTH) for _ in range(cell.num_parts))
    wanted, gates = cell.compute(weights, x_BX, before)
    for one, other in zip(cell.step(weights, x_BX, before), wanted, strict=True):
        torch.testing.assert_close(one, other)
    assert all(((gate > 0) & (gate < 1)).all() and gate.shape == (3, WIDTH) for gate in gates.values())
    assert all(name in cell.explained for name in gates)


def test_an_unknown_cell_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValidationError, match="no family 'lstmm'; did you mean 'lstm'"):
        RecurrentConfig(family="lstmm", vocab_size=9, layers=1, width=8)
