"""Attention by our kernels against PyTorch's under the same mask written out."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from malmoi.core.tensors import TokenBatch
from malmoi.models.attention import causal_mask
from malmoi.models.build import build_model
from malmoi.models.config import TransformerConfig
from malmoi.models.native import attention, fused
from malmoi.models.native.library import kernels, why_not

pytestmark = pytest.mark.skipif(kernels() is None, reason=str(why_not()))
DTYPES = [torch.float32, torch.bfloat16]
SCALE = 0.3


@pytest.fixture(autouse=True)
def seeded(built: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "library", lambda: built)
    torch.manual_seed(0)


def documents_of(*rows: Sequence[int]) -> Tensor:
    """documents_BT of rows that are given by their documents' lengths."""
    return torch.stack([torch.arange(len(row)).repeat_interleave(torch.tensor(row)) for row in rows])


def drawn(rows: int, heads: int, kv_heads: int, length: int, width: int) -> list[Tensor]:
    """Queries, keys and values."""
    return [torch.randn(rows, it, length, width) for it in (heads, kv_heads, kv_heads)]


def check(qkv: Sequence[Tensor], documents_BT: Tensor | None = None, window: int | None = None) -> None:
    """The same results and gradients, of these numbers in fp32."""
    ours, theirs = ([it.to(as_type).detach().requires_grad_() for it in qkv]
                    for as_type in (qkv[0].dtype, torch.float32))  # fmt: skip
    length, group = qkv[0].shape[2], qkv[0].shape[1] // qkv[1].shape[1]
    here_1T = torch.arange(length)[None]
    mask_B1TT = causal_mask(here_1T, here_1T, window)[None]
    if documents_BT is not None:
        mask_B1TT = mask_B1TT & (documents_BT[:, :, None] == documents_BT[:, None])[:, None]
    q, k, v = theirs[0], *(it.repeat_interleave(group, 1) for it in theirs[1:])
    wanted = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask_B1TT, scale=SCALE)
    first_BT = attention.first_keys(length, documents_BT, window)
    found = attention.attend(ours[0], ours[1], ours[2], first_BT, SCALE)
    dy = torch.randn(wanted.shape).to(found.dtype)
    pairs = zip(
        (found, *torch.autograd.grad(found, ours, dy)),
        (wanted, *torch.autograd.grad(wanted, theirs, dy.float())),
        strict=True,
    )
    for one, other in pairs:
        assert one.dtype == qkv[0].dtype
        close(one, other)


def close(ours: Tensor, theirs: Tensor) -> None:
    """bf16: within its rounding of the largest number, for scores and weights are rounded, too."""
    if ours.dtype == torch.float32:
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=5e-5)
        return
    error, most = (ours.float() - theirs).abs(), theirs.abs().max().clamp(min=1)
    assert error.max() < 0.02 * most
    assert error.square().mean().sqrt() < 0.005 * most


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [8, 16, 20, 32, 48, 64, 80, 128])
def test_heads_of_any_width(width: int, dtype: torch.dtype) -> None:
    check([it.to(dtype) for it in drawn(2, 2, 2, 70, width)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [1, 2, 31, 64, 129, 300])
def test_rows_of_any_length(length: int, dtype: torch.dtype) -> None:
    check([it.to(dtype) for it in drawn(2, 1, 1, length, 16)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [None, 1, 7, 64, 100, 1000])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_documents_windows_and_groups(
    kv_heads: int, packed: bool, window: int | None, dtype: torch.dtype
) -> None:
    documents_BT = documents_of((1, 70, 3, 126), (200,)) if packed else None
    check([it.to(dtype) for it in drawn(2, 4, kv_heads, 200, 16)], documents_BT, window)


@settings(
    max_examples=30, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=6), window=st.none() | st.integers(1, 200),
    dtype=st.sampled_from(DTYPES),
)  # fmt: skip
def test_documents_of_any_lengths(lengths: list[int], window: int | None, dtype: torch.dtype) -> None:
    documents_BT = documents_of(lengths, lengths[::-1])
    check([it.to(dtype) for it in drawn(2, 2, 1, sum(lengths), 8)], documents_BT, window)


@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_may_lie_anywhere(dtype: torch.dtype) -> None:
    for order in ((0, 2, 1, 3), (1, 2, 0, 3), (0, 1, 3, 2)):
        shape = [(2, 3, 40, 24)[i] for i in order]
        back = [order.index(i) for i in range(4)]
        check([torch.randn(shape).to(dtype).permute(back) for _ in range(3)])
    every = torch.randn(2, 40, 9, 24).to(dtype).transpose(1, 2)
    check(every.split(3, dim=1))


def test_values_may_have_another_width() -> None:
    q, k, v = drawn(2, 4, 2, 50, 16)
    check([q, k, torch.cat((v, v), dim=-1)[..., :27]])


def test_gradients_are_slopes() -> None:
    first_BT = attention.first_keys(5, documents_of((2, 3)), None)
    qkv = torch.randn(3, 1, 2, 5, 4, requires_grad=True)
    direction, weights, step = torch.randn(qkv.shape), torch.randn(1, 2, 5, 4), 1e-2

    def value(qkv: Tensor) -> Tensor:
        return (attention.attend(qkv[0], qkv[1], qkv[2], first_BT, SCALE) * weights).sum()

    (slope,) = torch.autograd.grad(value(qkv), qkv)
    change = value(qkv + step * direction) - value(qkv - step * direction)
    torch.testing.assert_close(change / (2 * step), (slope * direction).sum(), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_do_not_depend_on_threads(
    threads: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [it.to(dtype).requires_grad_() for it in drawn(3, 4, 2, 150, 24)]
    first_BT = attention.first_keys(150, documents_of((150,), (20, 130), (149, 1)), None)

    def results(count: int) -> tuple[Tensor, ...]:
        monkeypatch.setattr(torch, "get_num_threads", lambda: count)
        y = attention.attend(given[0], given[1], given[2], first_BT, SCALE)
        return (y, *torch.autograd.grad(y.float().square().sum(), given))

    for ours, alone in zip(results(threads), results(1), strict=True):
        assert ours.equal(alone)


def test_large_scores_are_no_trouble() -> None:
    q, k, v = drawn(1, 1, 1, 100, 16)
    check([20 * q, k, v])


def test_what_is_not_a_number_stays_in_its_document() -> None:
    q, k, v = drawn(1, 1, 1, 200, 16)
    v[:, :, 150] = float("nan")
    y = attention.attend(q, k, v, attention.first_keys(200, documents_of((64, 136)), None), SCALE)
    assert y[:, :, :64].isfinite().all()
    assert y[:, :, 150:].isnan().all()


@pytest.mark.parametrize("choices", [{}, {"window": 9}, {"kv_heads": 2, "qk_norm": True}])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_model_learns_the_same(
    dtype: torch.dtype, packed: bool, choices: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TransformerConfig(vocab_size=50, width=32, layers=2, heads=4, context=48, **choices)  # pyright: ignore[reportArgumentType]
    model = build_model(config)
    trained = [it for name, it in model.named_parameters() if not name.startswith("head")]
    batch = TokenBatch(torch.randint(0, 50, (2, 48)), None, documents_of((10, 38), (48,)) if packed else None)
    weights = torch.randn(2, 48, 32)

    def results() -> list[Tensor]:
        with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
            hidden = model.hidden(batch)
        return [hidden, *torch.autograd.grad((hidden * weights).sum(), trained)]

    found = results()
    monkeypatch.setattr(fused, "has_kernels", lambda _: False)
    for ours, theirs in zip(found, results(), strict=True):
        difference = (ours - theirs).float().norm() / theirs.float().norm()
        assert difference < (1e-4 if dtype == torch.float32 else 0.05)
