"""What lies between matrix products in training, beside PyTorch's own."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from malmoi.core.tensors import IGNORE
from malmoi.models.blocks import rotate
from malmoi.models.native import fused
from malmoi.models.native.library import kernels, why_not
from malmoi.models.rope import Rotary

pytestmark = pytest.mark.skipif(kernels() is None, reason=str(why_not()))
DTYPES = [torch.float32, torch.bfloat16]
WIDTHS = [1, 8, 17, 100]


def check(
    found: Callable[..., Sequence[Tensor]], wanted: Callable[..., Sequence[Tensor]], *inputs: Tensor
) -> None:
    """The same results and gradients; `wanted` computes in fp32."""
    exact = [it.detach().float().requires_grad_() for it in inputs]
    given = [it.detach().requires_grad_() for it in inputs]
    ours, theirs = found(*given), wanted(*exact)
    outer = [torch.randn(it.shape) for it in theirs]
    for it, other in zip(ours, theirs, strict=True):
        close(it, other)
    our_grads = torch.autograd.grad(ours, given, [o.to(it.dtype) for o, it in zip(outer, ours, strict=True)])
    their_grads = torch.autograd.grad(
        theirs, exact, [o.to(it.dtype).float() for o, it in zip(outer, ours, strict=True)]
    )
    for one, it, other in zip(given, our_grads, their_grads, strict=True):
        assert it.dtype == one.dtype
        close(it, other)


def close(ours: Tensor, theirs: Tensor) -> None:
    """Within the rounding of the result's own numbers."""
    tolerance = 3e-5 if ours.dtype == torch.float32 else 1e-2
    torch.testing.assert_close(ours.float(), theirs, rtol=tolerance, atol=tolerance)


@pytest.fixture(autouse=True)
def seeded(built: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "kernels", lambda: built)
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
def test_a_norm(width: int, dtype: torch.dtype) -> None:
    x, weight = torch.randn(3, 37, width).to(dtype), torch.randn(width)
    check(
        lambda x, weight: (fused.norm(x, weight, 1e-3),),
        lambda x, weight: (functional.rms_norm(x, (width,), weight, 1e-3),),
        x, weight,
    )  # fmt: skip


def test_a_norm_gives_what_products_take() -> None:
    x, weight = torch.randn(4, 8, requires_grad=True), torch.randn(8)
    with torch.autocast("cpu", torch.bfloat16):
        y = fused.norm(x, weight, 1e-6)
    assert y.dtype == torch.bfloat16
    (dx,) = torch.autograd.grad(y.float().sum(), x)
    assert dx.dtype == torch.float32
    (wanted,) = torch.autograd.grad(functional.rms_norm(x, (8,), weight, 1e-6).sum(), x)
    torch.testing.assert_close(dx, wanted, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("activation", ["silu", "gelu"])
def test_a_gated_unit(activation: fused.Activation, width: int, dtype: torch.dtype) -> None:
    def wanted(gates: Tensor) -> tuple[Tensor]:
        gate, up = gates.chunk(2, dim=-1)
        activated = (
            functional.silu(gate) if activation == "silu" else functional.gelu(gate, approximate="tanh")
        )
        return (activated * up,)

    check(lambda gates: (fused.gate(gates, activation),), wanted, 4 * torch.randn(2, 5, 2 * width).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("turned", ["no", "alike", "each row"])
def test_heads(turned: str, normed: bool, dtype: torch.dtype) -> None:
    rows, length, heads, kv_heads, width = 2, 5, 4, 2, 6
    qkv = torch.randn(rows, length, heads + 2 * kv_heads, width).to(dtype)
    weights = torch.randn(2, width)
    positions = slice(3, 3 + length) if turned == "alike" else torch.randint(0, 20, (rows, length))
    tables = None if turned == "no" else Rotary(width, 100.0, 20).tables(positions, 20)
    spec = fused.HeadsSpec(heads, kv_heads, 1e-3)

    def wanted(qkv: Tensor, q_weight: Tensor, k_weight: Tensor) -> Sequence[Tensor]:
        q, k, v = qkv.split((heads, kv_heads, kv_heads), dim=2)
        if normed:
            q, k = (functional.rms_norm(it, (width,), by, 1e-3) for it, by in ((q, q_weight), (k, k_weight)))
        if tables is not None:
            q, k = rotate(q, tables), rotate(k, tables)
        return [it.transpose(1, 2) + 0 * (q_weight.sum() + k_weight.sum()) for it in (q, k, v)]

    def found(qkv: Tensor, q_weight: Tensor, k_weight: Tensor) -> Sequence[Tensor]:
        parts = fused.split_heads(qkv, spec, tables, (q_weight, k_weight) if normed else None)
        return parts if normed else [it + 0 * (q_weight.sum() + k_weight.sum()).to(dtype) for it in parts]

    check(found, wanted, qkv, *weights.unbind())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("width", [2, 16, 40, 301])
def test_cross_entropy(width: int, softcap: float | None, dtype: torch.dtype) -> None:
    logits = (5 * torch.randn(9, width)).to(dtype)
    targets = torch.randint(0, width, (9,))
    targets[2], targets[4], targets[5] = IGNORE, width - 1, 0
    exact = logits.float().requires_grad_()
    capped = exact if softcap is None else softcap * torch.tanh(exact / softcap)
    wanted = functional.cross_entropy(capped, targets, ignore_index=IGNORE, reduction="none")
    losses = fused.cross_entropy(logits, targets, softcap)
    torch.testing.assert_close(losses, wanted.detach(), rtol=1e-5, atol=1e-5)
    close(logits, torch.autograd.grad(wanted.sum(), exact)[0])


def test_targets_may_be_any_view() -> None:
    logits = torch.randn(4000, 8)
    each = torch.randint(0, 8, (4000, 2))[:, 1]
    assert not each.is_contiguous()
    wanted = functional.cross_entropy(logits, each, reduction="none")
    torch.testing.assert_close(fused.cross_entropy(logits.clone(), each), wanted)


def test_a_target_beyond_the_vocabulary_is_named() -> None:
    with pytest.raises(IndexError, match="target 8 is beyond a vocabulary of 8"):
        fused.cross_entropy(torch.zeros(2, 8), torch.tensor([0, 8]))


def test_a_certain_and_a_hopeless_token_have_finite_losses() -> None:
    logits = torch.tensor([[200.0, -200.0], [200.0, -200.0]])
    losses = fused.cross_entropy(logits, torch.tensor([0, 1]))
    torch.testing.assert_close(losses, torch.tensor([0.0, 400.0]))
    torch.testing.assert_close(logits, torch.tensor([[0.0, 0.0], [1.0, -1.0]]))


def test_what_is_not_a_number_stays_so() -> None:
    x = torch.tensor([[float("nan"), 1.0]], dtype=torch.bfloat16)
    assert fused.norm(x, torch.ones(2), 1e-6).isnan().all()
    assert fused.gate(x, "silu").isnan().all()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_do_not_depend_on_threads(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_LEAST_NUMBERS", 0)
    x, weight = torch.randn(53, 24, requires_grad=True), torch.randn(24, requires_grad=True)

    def gradients(count: int) -> tuple[Tensor, ...]:
        monkeypatch.setattr(fused, "_threads", lambda _: count)
        return torch.autograd.grad(fused.norm(x, weight, 1e-6).square().sum(), (x, weight))

    for ours, alone in zip(gradients(threads), gradients(1), strict=True):
        assert ours.equal(alone)
