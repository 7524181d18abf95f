"""Matrices that do not learn, in whatever numbers. Shape letters: N positions, D width, V vocabulary."""

from __future__ import annotations

import copy

import pytest
import torch

from malmoi.core.tensors import TokenBatch
from malmoi.learn.losses import next_token_loss
from malmoi.learn.trial import held_bytes
from malmoi.models import output
from malmoi.models.config import TransformerConfig
from malmoi.models.formats import GroupLayout
from malmoi.models.frozen import FewBits, FrozenLinear, TokenRows
from malmoi.models.grouped import INT4, INT8, Grouped
from malmoi.models.language import LanguageModel
from malmoi.models.lora import (
    Base,
    LoRASpec,
    add_lora,
    frozen_layers,
    give_back,
    hold_base,
    lora_layers,
    merge_lora,
    trained_parameters,
)
from malmoi.models.output import head_log_probabilities, target_log_probabilities
from malmoi.models.packed import source_of
from malmoi.models.transformer import Transformer
from tests.models.variants import make_model, random_ids

IDS_BT = random_ids(2, 12)
BATCH = TokenBatch(IDS_BT, IDS_BT.roll(-1, 1))
TOKENS = [5, int(IDS_BT[0, 3])]
NAMES = ("llama", "llama-bias", "gpt2", "gemma2", "gemma3")


def with_lora(name: str, base: Base | None = None) -> LanguageModel:
    """A model whose thin matrices and new tokens do something, and whose other weights are held so."""
    model = make_model(name)
    torch.manual_seed(0)
    add_lora(model, LoRASpec(rank=2, targets=("attention.qkv", "feed_forward.down")), TOKENS)
    with torch.no_grad():
        for layer in lora_layers(model).values():
            layer.b_OR.normal_(std=0.1)
    if base:
        hold_base(model, base)
    return model


def gradients(model: LanguageModel) -> dict[str, torch.Tensor]:
    next_token_loss(model, BATCH).sum.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("base", ["bf16", "int8", "int4"])
@pytest.mark.parametrize("name", NAMES)
def test_the_gradients_are_those_of_a_base_that_is_the_unpacked_one(name: str, base: Base) -> None:
    held, plain = with_lora(name, base), with_lora(name)
    unpacked = {key: layer.own_rows(slice(None), torch.float32) for key, layer in frozen_layers(held).items()}
    for key, layer in frozen_layers(plain).items():
        assert layer.weight is not None
        layer.weight.data = unpacked[key]
    found, wanted = gradients(held), gradients(plain)
    assert found.keys() == wanted.keys() == trained_parameters(held).keys(), "the base has no gradient"
    for key in found:
        torch.testing.assert_close(found[key], wanted[key], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("base", ["bf16", "int8", "int4"])
def test_giving_back_what_it_was_is_exact(base: Base) -> None:
    held, plain = with_lora("gemma3", base), with_lora("gemma3")
    give_back(held, make_model("gemma3"))
    for model in (held, plain):
        merge_lora(model)
    assert held.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(held.state_dict()[key], it) for key, it in plain.state_dict().items())
    assert held.head.weight is held.embed.weight


def test_few_bits_take_less_and_lose_little() -> None:
    torch.manual_seed(0)
    config = TransformerConfig(vocab_size=512, context=48, layers=2, width=256, heads=4, tied=True)
    whole = Transformer(config)
    sizes, losses = dict[str, int](), dict[str, float]()
    count = whole.num_parameters()
    inner = count - whole.embed.weight.numel()
    for base in ("fp32", "bf16", "int8", "int4"):
        model = copy.deepcopy(whole)
        add_lora(model, LoRASpec(rank=1))
        thin = sum(p.numel() for p in trained_parameters(model).values())
        if base != "fp32":
            hold_base(model, base)  # type: ignore[arg-type]
        assert model.num_parameters() == count + thin
        sizes[base], losses[base] = held_bytes(model) - 4 * thin, next_token_loss(model, BATCH).sum.item()
    assert sizes["bf16"] < 0.51 * sizes["fp32"]
    assert sizes["int8"] < 1.09 * count + 20_000  # a scale of two bytes for 32 numbers; norms and angles
    assert sizes["int4"] < sizes["int8"] - 0.4 * inner
    for base, most in (("bf16", 1e-3), ("int8", 1e-3), ("int4", 1e-2)):
        assert abs(losses[base] / losses["fp32"] - 1) < most


@pytest.mark.parametrize("width", [7, 32, 80])
@pytest.mark.parametrize(
    "format", [INT8, INT4, Grouped("few", GroupLayout(8, 16), 0.1)], ids=lambda it: f"{it.groups}"
)
def test_rows_are_what_the_format_makes_of_them(format: Grouped, width: int) -> None:
    torch.manual_seed(0)
    matrix_OI = torch.randn(33, width)
    linear = torch.nn.Linear(width, 33)
    wanted = format.linear(linear, format.rows(matrix_OI)).weight
    few = FewBits(source_of(matrix_OI, format))
    assert isinstance(wanted, torch.Tensor)
    assert few.numel == matrix_OI.numel()
    torch.testing.assert_close(few.values(slice(None), torch.float32), wanted, rtol=1e-3, atol=2e-3)
    assert torch.equal(
        few.values(torch.tensor([32, 0]), torch.float32),
        few.values(slice(None), torch.float32)[[32, 0]],
    )


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("rows", [1, 7, 100])
def test_a_frozen_head_says_what_a_plain_one_does(
    rows: int, softcap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few rows of the vocabulary, and a few positions, at a time."""
    monkeypatch.setattr(output, "_ROWS", 4)
    monkeypatch.setattr(output, "_LEAST_ROWS", rows)
    monkeypatch.setattr(output, "_CHUNK_NUMBERS", 1)
    torch.manual_seed(0)
    plain = torch.nn.Linear(5, 23, bias=False)
    targets_N, weights_N = torch.tensor([0, 3, 22, 9, 3, 7]), torch.randn(6)
    x_ND, y_ND = (torch.randn(6, 5).mul_(3), torch.empty(6, 5))
    y_ND.copy_(x_ND)
    learned = TokenRows(plain.weight.detach()[[3, 22]], [3, 22])
    head = FrozenLinear(torch.nn.Linear(5, 23, bias=False), learned)
    assert head.weight is not None
    head.weight.data.copy_(plain.weight)
    found_N = head_log_probabilities(head, x_ND.requires_grad_(), targets_N, softcap)
    wanted_N = target_log_probabilities(y_ND.requires_grad_(), plain.weight, targets_N, softcap)
    torch.testing.assert_close(found_N, wanted_N)
    (found_N * weights_N).sum().backward()
    (wanted_N * weights_N).sum().backward()
    torch.testing.assert_close(x_ND.grad, y_ND.grad, atol=1e-5, rtol=1e-5)
    assert plain.weight.grad is not None
    for row, id in zip(learned.rows, learned.ids, strict=True):
        torch.testing.assert_close(row.grad, plain.weight.grad[id], atol=1e-5, rtol=1e-5)
    assert head_log_probabilities(head, x_ND[:0], targets_N[:0], softcap).shape == (0,)
