"""Recurrent layers written out step by step, against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from malmoi.core.tensors import TokenBatch
from malmoi.inside.attention import record
from malmoi.inside.gates import trace
from malmoi.models.cells import cell_named
from malmoi.models.config import CELLS
from malmoi.models.encoder import Encoder, EncoderConfig
from tests.models.variants import RECURRENTS, VOCAB, make_model

GATES = {
    "rnn": set(),
    "gru": {"update gate", "reset gate"},
    "lstm": {"forget gate", "input gate", "output gate"},
}


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("family", CELLS)
def test_hidden_states_equal_torchs(family: str, begun: bool) -> None:
    torch.manual_seed(0)
    cells = cell_named(family).stack(12, 10, 3)
    x_BTX = torch.randn(1, 8, 12)
    state = torch.randn(3, 1, 10) if begun else None
    if begun and family == "lstm":
        state = (torch.randn(3, 1, 10), torch.randn(3, 1, 10))
    wanted_BTD, after = cells(x_BTX, state)
    found = trace(cells, x_BTX[0], state, layer=2)
    torch.testing.assert_close(found.hidden_TD, wanted_BTD[0], rtol=0, atol=1e-5)
    last = after[1] if isinstance(after, tuple) else after
    torch.testing.assert_close(found.memory_TD[-1], last[2, 0], rtol=0, atol=1e-5)
    assert set(found.gates) == GATES[family]
    for gate_TD in found.gates.values():
        assert gate_TD.shape == (8, 10)
        assert ((gate_TD > 0) & (gate_TD < 1)).all()


@pytest.mark.parametrize("name", RECURRENTS)
def test_the_last_layer_of_a_language_model(name: str) -> None:
    model = make_model(name, scale=2.0)
    row_BT = torch.randint(VOCAB, (1, 9))
    (call,) = record(model, lambda: model.hidden(TokenBatch(row_BT))).carried
    found = trace(call.cells, call.x_TD, call.state, layer=RECURRENTS[name].layers - 1)
    torch.testing.assert_close(
        found.hidden_TD, model.hidden(TokenBatch(row_BT))[0].detach(), rtol=0, atol=1e-5
    )


def test_both_directions_of_an_encoder() -> None:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(family="lstm", vocab_size=VOCAB, layers=1, width=16)).eval()
    row_BT = torch.randint(VOCAB, (1, 6))
    mask_BT = torch.ones_like(row_BT, dtype=torch.bool)
    left, right = record(encoder, lambda: encoder(row_BT, mask_BT)).carried
    assert (left.part, right.part) == ("forwards", "backwards")
    found_TD = torch.cat(
        (trace(left.cells, left.x_TD).hidden_TD, trace(right.cells, right.x_TD).turned().hidden_TD), dim=-1
    )
    torch.testing.assert_close(found_TD, encoder(row_BT, mask_BT)[0].detach(), rtol=0, atol=1e-5)


def test_a_shut_forget_gate_forgets() -> None:
    cells = nn.LSTM(2, 3, batch_first=True)
    with torch.no_grad():
        for parameter in cells.parameters():
            parameter.zero_()
        cells.bias_ih_l0[3:6] = -50.0
    found = trace(cells, torch.ones(4, 2), (torch.ones(1, 1, 3), torch.full((1, 1, 3), 9.0)))
    assert float(found.memory_TD.abs().max()) < 1e-6
    assert float(found.gates["forget gate"].max()) < 1e-6
    assert found.first(2).hidden_TD.shape == (2, 3)
