"""Operations whose gradients are written by hand, against autograd on the plain formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from malmoi.core.tensors import TokenBatch
from malmoi.learn.losses import next_token_loss
from malmoi.models.attention import causal_mask
from malmoi.models.block_attention import BlockAttention, blocks_of
from malmoi.models.blocks import RMSNorm, rotate
from malmoi.models.build import build_model
from malmoi.models.config import TransformerConfig
from malmoi.models.native import fused
from malmoi.models.rope import Rotary


@pytest.fixture(autouse=True, params=["our kernels", "PyTorch"])
def computed_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "PyTorch":
        monkeypatch.setattr(fused, "has_kernels", lambda _: False)


def gradients(result: Tensor, *inputs: Tensor) -> list[Tensor]:
    torch.manual_seed(1)
    return list(torch.autograd.grad(result, inputs, torch.randn(result.shape).to(result.dtype)))


@pytest.mark.parametrize("window", [None, 50])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("length", [5, 128, 300])
def test_block_attention_equals_the_fused_kernel(length: int, packed: bool, window: int | None) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, length, 8).requires_grad_().unbind()
    here_1T = torch.arange(length)[None]
    mask_B1TT = causal_mask(here_1T, here_1T, window)[None]
    if packed:
        documents_BT = torch.stack([here_1T[0] >= length // 3, here_1T[0] >= length // 2])
        mask_B1TT = mask_B1TT & (documents_BT[:, :, None] == documents_BT[:, None])[:, None]
    expected = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask_B1TT)
    found = BlockAttention.apply(q, k, v, blocks_of(mask_B1TT, torch.float32), q.shape[-1] ** -0.5)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(gradients(found, q, k, v), gradients(expected, q, k, v), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_rms_norm_equals_pytorchs() -> None:
    torch.manual_seed(0)
    norm, x = RMSNorm(24, eps=1e-6), torch.randn(3, 5, 24, requires_grad=True)
    torch.nn.init.normal_(norm.weight)
    expected = functional.rms_norm(x, (24,), norm.weight, 1e-6)
    torch.testing.assert_close(norm(x), expected)
    for ours, theirs in zip(
        gradients(norm(x), x, norm.weight), gradients(expected, x, norm.weight), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_rotation_equals_complex_multiplication() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 7, 3, 8, requires_grad=True)
    rotary = Rotary(8, 10_000.0, 7)
    angles_TC = torch.outer(torch.arange(7.0), 10_000.0 ** (-torch.arange(0, 8, 2) / 8))
    turned = torch.complex(x[..., :4], x[..., 4:]) * torch.polar(torch.ones(7, 4), angles_TC)[:, None]
    expected = torch.cat((turned.real, turned.imag), dim=-1)
    found = rotate(x, rotary.tables(slice(0, 7), 7))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, x), gradients(expected, x))


GEMMA = {"norm_offset": True, "post_norm": True, "window": 9, "query_scalar": 20, "logit_softcap": 4.0}


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"window": 9},
        {"window": 9, "window_layers": (True, False)},
        GEMMA | {"window_rope_theta": 100.0, "rope_layers": (True, False)},
        GEMMA | {"attention_softcap": 1.5, "scaled_embedding": True, "feed_forward": "geglu"},
    ],
)
def test_bf16_training_agrees_with_fp32(choices: dict[str, Any]) -> None:
    torch.manual_seed(0)
    config = TransformerConfig(
        vocab_size=50, context=40, layers=2, width=32, heads=4, kv_heads=2, qk_norm=True, **choices
    )
    model = build_model(config)
    ids = torch.randint(1, 50, (3, 41))
    part = TokenBatch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.arange(40).expand(3, -1) // 25)

    def loss_and_gradients(enabled: bool) -> tuple[float, Tensor]:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = next_token_loss(model, part)
        loss.sum.backward()
        return loss.sum.item(), torch.cat(
            [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        )

    exact, exact_gradient = loss_and_gradients(False)
    rounded, rounded_gradient = loss_and_gradients(True)
    assert rounded == pytest.approx(exact, rel=0.01)
    assert functional.cosine_similarity(exact_gradient, rounded_gradient, dim=0) > 0.995
