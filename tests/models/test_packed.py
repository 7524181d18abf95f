"""Without our kernels, a packed model answers as the plain one does; in 8 bits nearly so, and the same in any
batch."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from malmoi.core.errors import UserError
from malmoi.models import int8, packed
from malmoi.models.build import build_model
from malmoi.models.config import RecurrentConfig, TransformerConfig
from malmoi.models.formats import find_format
from malmoi.models.int8 import INT8, Int8Embedding, Int8Linear
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
    monkeypatch.setattr(int8, "kernels", lambda: None)


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
def test_int8_is_near_and_rows_of_a_batch_do_not_touch(name: str) -> None:
    torch.manual_seed(0)
    plain = build_model(CONFIGS[name]).eval()
    for parameter in plain.parameters():
        parameter.data.mul_(4)  # logits that differ
    model, ids_BT = copy.deepcopy(plain), torch.randint(300, (5, 10))
    pack(model, INT8)
    found_BTV, wanted_BTV = logits(model, ids_BT), logits(plain, ids_BT)
    assert (found_BTV - wanted_BTV).norm() < 0.1 * wanted_BTV.norm()
    alone_BTV = torch.cat([logits(model, row_BT) for row_BT in ids_BT.split(1)])
    torch.testing.assert_close(found_BTV, alone_BTV, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bias", [False, True])
def test_int8_linear_is_exact_for_rows_apart_and_near_for_values(bias: bool) -> None:
    torch.manual_seed(1)
    linear, x = nn.Linear(96, 40, bias=bias), torch.randn(7, 96) * torch.logspace(-6, 3, 7)[:, None]
    eight = Int8Linear(INT8.rows(linear.weight), linear.bias)
    with torch.inference_mode():
        assert torch.equal(eight(x), torch.cat([eight(row) for row in x.split(1)]))
        torch.testing.assert_close(eight(x), linear(x), rtol=0.0, atol=float(0.03 * x.norm(dim=1).max()))
        error = (eight(x) - linear(x)).norm(dim=1) / linear(x).norm(dim=1)
        assert float(error.max()) < 0.03
        assert torch.equal(
            eight(torch.zeros(1, 96))[0], torch.zeros(40) if linear.bias is None else linear.bias
        )


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 1, 1), (1, 7, 3), (2, 33, 5), (17, 130, 65)])
def test_int8_products_are_those_of_whole_numbers(rows: int, inputs: int, outputs: int) -> None:
    torch.manual_seed(3)
    x, linear = torch.randn(rows, inputs), nn.Linear(inputs, outputs, bias=False)
    eight = Int8Linear(INT8.rows(linear.weight), None)
    steps = x.abs().amax(1, keepdim=True).double() / 127
    wanted = ((x / steps).round() * steps) @ eight.weight.double().T
    torch.testing.assert_close(eight(x).double(), wanted, rtol=1e-4, atol=1e-5)


def test_weights_leave_room_where_the_processor_adds_in_16_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "cpu_flags", lambda: frozenset({"avx2"}))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert int(INT8.rows(torch.randn(4, 8)).numbers_NW.abs().max()) == 63


def test_int8_rows_of_an_embedding_are_those_of_the_tied_output() -> None:
    torch.manual_seed(2)
    model = build_model(CONFIGS["llama"]).eval()
    rows = model.embed.weight.detach().clone()
    pack(model, INT8)
    assert isinstance(model.embed, Int8Embedding)
    assert torch.equal(model.embed.weight, model.head.weight)
    assert model.embed.rows is model.head.rows  # kept once
    half_steps_V1 = rows.abs().amax(1, keepdim=True) / int8.most() / 2
    assert bool(((model.embed.weight - rows).abs() <= 1.001 * half_steps_V1).all())
    ids = torch.tensor([[5, 7]])
    assert torch.equal(model.embed(ids), model.embed.weight[ids])


def test_other_ways_are_refused() -> None:
    with pytest.raises(UserError, match="it can be int8"):
        find_format(quantize="int4")
