"""LoRA layers. Shape letters: B rows, T positions, V vocabulary."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from malmoi.core.errors import UserError
from malmoi.core.tensors import TokenBatch
from malmoi.learn.losses import next_token_loss
from malmoi.learn.optim import make_optimizers
from malmoi.models.language import LanguageModel
from malmoi.models.lora import (
    LoRALinear,
    LoRASpec,
    add_lora,
    lora_layers,
    merge_lora,
    token_rows,
    trained_parameters,
)
from tests.models.variants import TRANSFORMERS, make_model, random_ids

IDS_BT = random_ids(2, 12)


def logits(model: LanguageModel) -> Tensor:
    with torch.inference_mode():
        return model.logits(model.hidden(TokenBatch(IDS_BT)))


def train_a_step(model: LanguageModel, seed: int = 3) -> None:
    """Random thin matrices, as if LoRA had learned something."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for layer in lora_layers(model).values():
            layer.b_OR.normal_(std=0.1)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_nothing_changes_at_first_and_merging_keeps_the_function(name: str) -> None:
    model = make_model(name)
    names, before = set(model.state_dict()), logits(model)
    add_lora(model, LoRASpec(rank=3))
    assert torch.equal(logits(model), before)
    train_a_step(model)
    learned = logits(model)
    assert (learned - before).abs().max() > 0.1
    merge_lora(model)
    assert set(model.state_dict()) == names
    assert all(type(layer) is nn.Linear for layer in model.modules() if isinstance(layer, nn.Linear))
    assert all(parameter.requires_grad for parameter in model.parameters())
    torch.testing.assert_close(logits(model), learned, atol=1e-4, rtol=1e-5)
    assert (model.head.weight is model.embed.weight) == model.config.tied


def test_the_gradients_are_those_of_the_full_matrix() -> None:
    """With W' = W + scale B A: dL/dA = scale B^T dL/dW', dL/dB = scale dL/dW' A^T."""
    torch.manual_seed(0)
    plain = nn.Linear(5, 7)
    layer = LoRALinear(plain, rank=2, scale=1.5)
    nn.init.normal_(layer.b_OR)
    x, full = torch.randn(4, 5), (plain.weight + 1.5 * layer.b_OR @ layer.a_RI).detach().requires_grad_()
    y = nn.functional.linear(x, full, plain.bias)
    torch.testing.assert_close(layer(x), y)
    layer(x).sin().sum().backward()
    y.sin().sum().backward()
    assert full.grad is not None
    torch.testing.assert_close(layer.a_RI.grad, 1.5 * layer.b_OR.detach().T @ full.grad)
    torch.testing.assert_close(layer.b_OR.grad, 1.5 * full.grad @ layer.a_RI.detach().T)
    assert layer.weight.grad is None
    assert layer.bias.grad is None


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_only_the_thin_matrices_get_gradients_and_moments(kind: str) -> None:
    model = make_model("llama-mqa-tied")
    add_lora(model, LoRASpec(rank=2, targets=("attention.qkv", "feed_forward.down")))
    assert set(lora_layers(model)) == {
        f"blocks.{layer}.{target}" for layer in (0, 1) for target in ("attention.qkv", "feed_forward.down")
    }
    next_token_loss(model, TokenBatch(IDS_BT, IDS_BT.roll(-1, 1))).sum.backward()
    thin = {p for layer in lora_layers(model).values() for p in (layer.a_RI, layer.b_OR)}
    assert {p for p in model.parameters() if p.grad is not None} == thin
    frozen = {name: p.clone() for name, p in model.named_parameters() if p not in thin}
    optimizers = make_optimizers(model, kind, lr=0.1, weight_decay=0.1, betas=(0.9, 0.95))  # type: ignore[arg-type]
    for optimizer in optimizers:
        optimizer.step()
    assert len(optimizers) == 1
    assert set(optimizers[0].state) == thin
    assert all(torch.equal(model.get_parameter(name), before) for name, before in frozen.items())


def test_the_seed_decides_the_beginning_and_dropout_ends_with_training() -> None:
    models = []
    for seed in (1, 1, 2):
        model = make_model("llama").train()
        torch.manual_seed(seed)
        add_lora(model, LoRASpec(dropout=0.5))
        models.append(model)
    firsts = [next(iter(lora_layers(model).values())) for model in models]
    assert torch.equal(firsts[0].a_RI, firsts[1].a_RI)
    assert not torch.equal(firsts[0].a_RI, firsts[2].a_RI)
    train_a_step(models[0])
    assert not torch.equal(logits(models[0]), logits(models[0]))
    models[0].eval()
    assert torch.equal(logits(models[0]), logits(models[0]))


@pytest.mark.parametrize(
    ("name", "target", "said"),
    [
        ("llama", "attention.qvk", "did you mean 'attention.qkv'"),
        ("gpt2", "feed_forward.gate_up", "did you mean 'feed_forward.up'"),
        ("lstm", "attention.qkv", "an lstm has none"),
    ],
)
def test_a_target_that_the_model_lacks_is_named(name: str, target: str, said: str) -> None:
    model = make_model(name)
    with pytest.raises(UserError, match=said):
        add_lora(model, LoRASpec(targets=(target,)))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_bf16_learns_too() -> None:
    model = make_model("llama")
    add_lora(model, LoRASpec())
    with torch.autocast("cpu", torch.bfloat16):
        next_token_loss(model, TokenBatch(IDS_BT, IDS_BT.roll(-1, 1))).sum.backward()
    assert all(
        layer.b_OR.grad is not None and layer.b_OR.grad.isfinite().all()
        for layer in lora_layers(model).values()
    )


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("name", ["llama-gqa", "llama-mqa-tied", "gpt2"])
def test_only_the_rows_of_new_tokens_learn(name: str, kind: str) -> None:
    """Their gradients are the whole matrix's, also summed over parts of a batch; nothing else decays."""
    model, plain = make_model(name), make_model(name)
    plain.load_state_dict(model.state_dict())
    tokens = [5, int(IDS_BT[0, 3])]
    add_lora(model, LoRASpec(rank=2), tokens)
    for row in range(2):
        batch = TokenBatch(IDS_BT[row : row + 1], IDS_BT[row : row + 1].roll(-1, 1))
        next_token_loss(model, batch).sum.backward()
        next_token_loss(plain, batch).sum.backward()
    layers = {"embed": plain.embed, "head": plain.head}
    assert set(token_rows(model)) == ({"embed"} if plain.config.tied else {"embed", "head"})
    for layer, rows in token_rows(model).items():
        grad = layers[layer].weight.grad
        assert grad is not None
        for token, row in zip(rows.ids, rows.rows, strict=True):
            torch.testing.assert_close(row.grad, grad[token])
    assert model.embed.weight.grad is None
    assert not {"embed.weight", "head.weight"} & trained_parameters(model).keys()
    for optimizer in make_optimizers(model, kind, lr=0.1, weight_decay=0.1, betas=(0.9, 0.95)):  # type: ignore[arg-type]
        optimizer.step()
    learned = logits(model)
    merge_lora(model)
    torch.testing.assert_close(logits(model), learned, atol=1e-4, rtol=1e-5)
    assert model.state_dict().keys() == plain.state_dict().keys()
    same_V = (model.embed.weight == plain.embed.weight).all(dim=1)
    assert set((~same_V).nonzero()[:, 0].tolist()) == set(tokens)
    next_token_loss(model, TokenBatch(IDS_BT, IDS_BT.roll(-1, 1))).sum.backward()
    assert model.embed.weight.grad is not None, "all of it may be trained again"
