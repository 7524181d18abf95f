from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional

from malmoi.core.tensors import IGNORE, TokenBatch
from malmoi.learn import losses
from malmoi.learn.losses import LinearCrossEntropy, next_token_loss
from malmoi.models.build import build_model
from malmoi.models.config import TransformerConfig
from malmoi.models.output import target_log_probabilities
from tests.models.variants import VOCAB, make_model


@pytest.mark.parametrize("chunk_bytes", [1, 1 << 24])
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_equals_torch_with_its_gradients(
    monkeypatch: pytest.MonkeyPatch, chunk_bytes: int, scale: float
) -> None:
    monkeypatch.setattr(
        losses, "_CHUNK_BYTES", (chunk_bytes, chunk_bytes)
    )  # 1: as many chunks as there can be
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(150, 8, generator=generator, requires_grad=True)
    weight = torch.randn(11, 8, generator=generator, requires_grad=True)
    targets = torch.randint(0, 11, (150,), generator=generator)
    targets[::7] = IGNORE
    total = LinearCrossEntropy.apply(x, weight, targets)
    assert isinstance(total, torch.Tensor)
    found = torch.autograd.grad(scale * total, (x, weight))
    wanted_total = functional.cross_entropy(x @ weight.T, targets, reduction="sum")
    wanted = torch.autograd.grad(scale * wanted_total, (x, weight))
    torch.testing.assert_close(total, wanted_total)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("function", [LinearCrossEntropy.apply, target_log_probabilities])
def test_capped_logits_have_the_gradients_of_torch(function: Any) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(90, 8, requires_grad=True), torch.randn(11, 8, requires_grad=True)
    targets = torch.randint(0, 11, (90,))
    sign = 1 if function == LinearCrossEntropy.apply else -1
    total = sign * function(x, weight, targets, 2.0).sum()
    wanted_total = functional.cross_entropy(2 * torch.tanh(x @ weight.T / 2), targets, reduction="sum")
    torch.testing.assert_close(total, wanted_total)
    wanted = torch.autograd.grad(wanted_total, (x, weight))
    torch.testing.assert_close(torch.autograd.grad(total, (x, weight)), wanted)


@pytest.mark.parametrize("function", [LinearCrossEntropy.apply, target_log_probabilities])
def test_a_frozen_matrix_gets_no_gradient_and_x_the_same(function: Any) -> None:
    torch.manual_seed(0)
    x, weight, targets = torch.randn(9, 4), torch.randn(7, 4), torch.randint(0, 7, (9,))
    found: list[torch.Tensor | None] = []
    for frozen in (False, True):
        x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_(not frozen)
        (2 * function(x, weight, targets).sum()).backward()
        found.append(x.grad)
        assert (weight.grad is None) == frozen
    torch.testing.assert_close(found[0], found[1])


def test_one_set_of_ignored_targets_costs_nothing() -> None:
    x, weight = torch.randn(4, 3, requires_grad=True), torch.randn(5, 3)
    total = LinearCrossEntropy.apply(x, weight, torch.full((4,), IGNORE))
    assert isinstance(total, torch.Tensor)
    total.backward()
    assert total.item() == 0
    assert x.grad is not None
    assert not x.grad.any()


def test_a_fresh_model_knows_nothing() -> None:
    torch.manual_seed(0)
    model = build_model(TransformerConfig(vocab_size=50, context=8, layers=2, width=16, heads=2))
    ids = torch.randint(0, 50, (8, 8))
    loss = next_token_loss(model, TokenBatch(ids, ids.roll(-1, 1)))
    assert loss.count == 64
    assert loss.sum.item() / loss.count == pytest.approx(math.log(50), rel=0.02)


def test_parts_of_a_batch_add_up() -> None:
    torch.manual_seed(0)
    model = build_model(TransformerConfig(vocab_size=50, context=8, layers=1, width=16, heads=2))
    ids, targets = torch.randint(0, 50, (2, 6, 8))
    targets[0, :5] = IGNORE  # parts of unequal counts
    next_token_loss(model, TokenBatch(ids, targets)).sum.backward()
    whole = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    for rows in (slice(0, 1), slice(1, 6)):
        next_token_loss(model, TokenBatch(ids[rows], targets[rows])).sum.backward()
    parts = [p.grad for p in model.parameters() if p.grad is not None]
    torch.testing.assert_close(parts, whole)


@pytest.mark.parametrize("trained", [0, 1, 5])
def test_only_trained_positions_get_logits(trained: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen, real = make_model("llama"), list[int](), losses._chunk

    def counted(x_CD: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append(len(x_CD))
        return real(x_CD, *rest)

    ids_BT = torch.randint(VOCAB, (2, 9))
    targets_BT = torch.full((2, 9), IGNORE)
    targets_BT[0, :trained] = ids_BT[0, :trained]
    monkeypatch.setattr(losses, "_chunk", counted)
    found = next_token_loss(model, TokenBatch(ids_BT, targets_BT))
    assert (sum(seen), found.count) == (trained, trained)
    logits_BTV = model.logits(model.hidden(TokenBatch(ids_BT)))
    wanted = functional.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), reduction="sum")
    torch.testing.assert_close(found.sum, wanted if trained else torch.tensor(0.0))
    parameters = list(model.parameters())
    grads = torch.autograd.grad(found.sum, parameters, allow_unused=True)
    if trained:
        for grad, other in zip(
            grads, torch.autograd.grad(wanted, parameters, allow_unused=True), strict=True
        ):
            torch.testing.assert_close(grad, other, rtol=1e-3, atol=1e-5)
