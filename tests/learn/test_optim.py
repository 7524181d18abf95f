from __future__ import annotations

import pytest
import torch

from malmoi.learn.optim import Muon, make_optimizers, orthogonalised
from malmoi.models.build import build_model
from malmoi.models.config import RecurrentConfig, TransformerConfig

GPT = TransformerConfig(vocab_size=20, context=8, layers=2, width=16, heads=4, kv_heads=2)
LSTM = RecurrentConfig(family="lstm", vocab_size=20, layers=2, width=16)


@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (16, 16)])
def test_orthogonalised_has_singular_values_near_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalised(torch.randn(3, *shape)))
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_orthogonalised_keeps_the_singular_vectors() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(1, 10, 30)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    cosine = (orthogonalised(matrix) * (u @ v)).sum() / (orthogonalised(matrix).norm() * (u @ v).norm())
    assert cosine > 0.97


@pytest.mark.parametrize("config", [GPT, LSTM], ids=lambda config: config.family)
def test_muon_takes_each_inner_matrix_once_and_adamw_the_rest(
    config: TransformerConfig | RecurrentConfig,
) -> None:
    model = build_model(config)
    adamw, muon = make_optimizers(model, "muon", lr=0.1, weight_decay=0.1, betas=(0.9, 0.95))
    taken = [p for optimizer in (adamw, muon) for group in optimizer.param_groups for p in group["params"]]
    assert len(taken) == len(set(taken)) == len(list(model.parameters()))
    in_muon = {p for group in muon.param_groups for p in group["params"]}
    assert model.embed.weight not in in_muon
    assert model.head.weight not in in_muon
    assert all(p.ndim == 2 for p in in_muon)
    for group in muon.param_groups:  # fused matrices come apart into their parts
        for p in group["params"]:
            assert sum(group["parts"]) in (0, len(p))
    vectors = [g for g in adamw.param_groups if any(p.ndim < 2 for p in g["params"])]
    assert all(group["weight_decay"] == 0 for group in vectors)


def test_muon_step_follows_its_formula() -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(6, 10))
    before, gradient = weight.detach().clone(), torch.randn(6, 10)
    weight.grad = gradient.clone()
    Muon([{"params": [weight], "parts": (2, 4)}], lr=0.1, momentum=0.9, weight_decay=0.5).step()
    momentum = 0.1 * gradient
    nesterov = 0.1 * gradient + 0.9 * momentum
    for rows in (slice(0, 2), slice(2, 6)):
        update = orthogonalised(nesterov[None, rows])[0] * 0.2 * 10**0.5
        torch.testing.assert_close(weight.detach()[rows], before[rows] * (1 - 0.05) - 0.1 * update)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_both_learn_a_fixed_batch(kind: str) -> None:
    torch.manual_seed(0)
    model = build_model(GPT)
    optimizers = make_optimizers(model, kind, lr=0.02, weight_decay=0.0, betas=(0.9, 0.95))  # type: ignore[arg-type]
    from malmoi.core.tensors import TokenBatch
    from malmoi.learn.losses import next_token_loss

    ids = torch.randint(0, 20, (2, 9))
    part = TokenBatch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
    for _ in range(60):
        loss = next_token_loss(model, part)
        (loss.sum / loss.count).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert next_token_loss(model, part).sum.item() / 16 < 0.1
