"""Without our kernels, a packed model answers as the plain one does; in few bits nearly so."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from malmoi.core.errors import UserError
from malmoi.models import packed
from malmoi.models.build import build_model
from malmoi.models.config import RecurrentConfig, TransformerConfig
from malmoi.models.formats import find_format
from malmoi.models.grouped import INT4, INT8, Grouped, GroupedEmbedding, GroupedLinear
from malmoi.models.packed import PackedLinear, pack
from malmoi.util.hardware import onednn_packs

CONFIGS = {
    "llama": TransformerConfig(
        vocab_size=300, context=64, layers=2, width=64, heads=4, kv_heads=2, tied=True
    ),
    "gpt2": TransformerConfig(
        vocab_size=300, context=64, layers=2, width=64, heads=4, norm="layer", position="learned",
        feed_forward="gelu", bias=True,
    ),
    "lstm": RecurrentConfig(family="lstm", vocab_size=300, layers=2, width=64),
}  # fmt: skip
every_model = pytest.mark.parametrize("name", CONFIGS)


@pytest.fixture(autouse=True)
def _without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "kernels", lambda: None)


def logits(model: nn.Module, ids_BT: torch.Tensor) -> torch.Tensor:
    state = model.new_state(len(ids_BT))  # pyright: ignore[reportCallIssue]
    return model.step(ids_BT, torch.full((len(ids_BT),), ids_BT.shape[1]), state)  # pyright: ignore[reportCallIssue]


@every_model
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_model_computes_the_same(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(packed, "_LEAST_NUMBERS", {dtype: 1})
    plain = build_model(CONFIGS[name]).eval().to(dtype)
    model, ids_BT = copy.deepcopy(plain), torch.randint(300, (3, 10))
    pack(model)
    assert isinstance(model.head, PackedLinear) == onednn_packs(dtype)
    assert torch.equal(model.head.weight, plain.head.weight)
    close = 1e-5 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(logits(model, ids_BT), logits(plain, ids_BT), rtol=close, atol=close)


def test_where_onednn_has_no_layout_matrices_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "_LEAST_NUMBERS", {torch.bfloat16: 1})
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    model = build_model(CONFIGS["llama"]).eval().to(torch.bfloat16)
    pack(model)
    assert type(model.head) is nn.Linear
    assert logits(model, torch.randint(300, (3, 10))).isfinite().all()


def test_small_matrices_stay_as_they_are() -> None:
    model = build_model(CONFIGS["llama"]).eval()
    pack(model)
    assert isinstance(model.head, nn.Linear)


@every_model
@pytest.mark.parametrize(("format", "most"), [(INT8, 0.05), (INT4, 0.5)])
def test_few_bits_are_near(format: Grouped, most: float, name: str) -> None:
    torch.manual_seed(0)
    plain = build_model(CONFIGS[name]).eval()
    for parameter in plain.parameters():
        parameter.data.mul_(4)  # logits that differ
    model, ids_BT = copy.deepcopy(plain), torch.randint(300, (5, 10))
    pack(model, format)
    found_BTV, wanted_BTV = logits(model, ids_BT), logits(plain, ids_BT)
    assert (found_BTV - wanted_BTV).norm() < most * wanted_BTV.norm()
    alone_BTV = torch.cat([logits(model, row_BT) for row_BT in ids_BT.split(1)])
    torch.testing.assert_close(found_BTV, alone_BTV, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("format", [INT8, INT4])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 1, 1), (1, 7, 3), (2, 33, 5), (17, 130, 65)])
def test_products_in_groups(format: Grouped, rows: int, inputs: int, outputs: int) -> None:
    torch.manual_seed(3)
    x, linear = torch.randn(rows, inputs), nn.Linear(inputs, outputs)
    found = format.linear(linear, format.rows(linear.weight))
    assert isinstance(found, GroupedLinear)
    torch.testing.assert_close(found(x), x @ found.weight.T + linear.bias)


def test_8_bits_are_the_nearest_steps_of_each_group() -> None:
    torch.manual_seed(2)
    model = build_model(CONFIGS["llama"]).eval()
    assert isinstance(model.embed, nn.Embedding)
    rows = model.embed.weight.detach().clone()
    rows[0, 0] = model.embed.weight.data[0, 0] = 7  # far from the others, and felt in its group alone
    pack(model, INT8)
    assert isinstance(model.embed, GroupedEmbedding)
    assert torch.equal(model.embed.weight, model.head.weight)
    half_steps = rows.view(300, 2, 32).abs().amax(2).repeat_interleave(32, 1) / 127 / 2
    assert bool(((model.embed.weight - rows).abs() <= 1.001 * half_steps).all())
    ids = torch.tensor([[5, 7]])
    assert torch.equal(model.embed(ids), model.embed.weight[ids])


def test_4_bits_hold_what_16_steps_can() -> None:
    steps_NG = torch.rand(6, 3) + 0.1
    exact = (torch.arange(32) % 16 - 5.0).expand(6, 3, 32) * steps_NG[..., None]
    found = INT4.linear(nn.Linear(96, 6), INT4.rows(exact.flatten(1)))
    torch.testing.assert_close(found.weight, exact.flatten(1), rtol=0, atol=1e-5)


def test_4_bits_leave_less_than_the_range_in_even_steps_does() -> None:
    torch.manual_seed(4)
    matrix = torch.randn(50, 320)
    groups = matrix.view(50, 10, 32)
    low, high = groups.aminmax(dim=-1, keepdim=True)
    steps = (high - low) / 15
    even = (((groups - low) / steps).round() * steps + low).flatten(1)
    found = INT4.linear(nn.Linear(320, 50), INT4.rows(matrix))
    assert isinstance(found, GroupedLinear)
    assert float((found.weight - matrix).norm()) < 0.97 * float((even - matrix).norm())


def test_other_ways_are_refused() -> None:
    with pytest.raises(UserError, match="it can be int8, int4"):
        find_format(quantize="int2")
