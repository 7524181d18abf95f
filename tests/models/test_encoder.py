"""Encoders: parity with references, padding that changes nothing, both directions.

Shape letters: B rows, T positions, C characters, D width.
"""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from malmoi.models import cells
from malmoi.models.encoder import Encoder, EncoderConfig

Family = Literal["transformer", "lstm", "gru", "rnn"]
FAMILIES: tuple[Family, ...] = ("transformer", "lstm", "gru", "rnn")
every_family = pytest.mark.parametrize("family", FAMILIES)


def make(family: Family, chars: int = 0, layers: int = 2) -> Encoder:
    torch.manual_seed(0)
    config = EncoderConfig(
        family=family, vocab_size=40, width=16, layers=layers, heads=2, chars=chars, char_width=6, context=8
    )
    encoder = Encoder(config).eval()
    with torch.no_grad():  # larger weights, so that every part shows
        for parameter in encoder.parameters():
            parameter.mul_(2.0 if parameter.ndim > 1 else 1.0)
    return encoder


def masked(lengths: list[int], width: int | None = None) -> Tensor:
    return torch.arange(width or max(lengths)) < torch.tensor(lengths)[:, None]


def ids(*shape: int, seed: int = 0, most: int = 40) -> Tensor:
    return torch.randint(1, most, shape, generator=torch.Generator().manual_seed(seed))


@every_family
@pytest.mark.parametrize("chars", [0, 12])
@settings(deadline=None, max_examples=8)
@given(lengths=st.lists(st.integers(1, 11), min_size=1, max_size=4), extra=st.integers(0, 3))
def test_padding_and_other_rows_change_nothing(
    family: Family, chars: int, lengths: list[int], extra: int
) -> None:
    encoder, width = make(family, chars), max(lengths) + extra
    ids_BT, chars_BTC = ids(len(lengths), width), ids(len(lengths), width, 5, most=12) if chars else None
    if chars_BTC is not None:
        chars_BTC[..., 3:] = 0  # characters are padded, too
    x_BTD = encoder(ids_BT, masked(lengths, width), chars_BTC)
    for b, n in enumerate(lengths):
        alone_chars = None if chars_BTC is None else chars_BTC[b : b + 1, :n, :3]
        alone_1TD = encoder(ids_BT[b : b + 1, :n], masked([n]), alone_chars)
        torch.testing.assert_close(x_BTD[b, :n], alone_1TD[0], rtol=1e-4, atol=1e-5)
        ends_1D = encoder.ends(alone_1TD, masked([n]))
        torch.testing.assert_close(encoder.ends(x_BTD, masked(lengths, width))[b], ends_1D[0])


@every_family
def test_every_position_sees_both_sides_and_gradients_are_finite(family: Family) -> None:
    encoder = make(family, chars=12)
    x_BTD = encoder(ids(2, 6), masked([6, 1], 6), ids(2, 6, 4, most=12))
    for t in (0, 3, 5):
        changed = ids(2, 6)
        changed[0, t] = 0
        other_BTD = encoder(changed, masked([6, 1], 6), ids(2, 6, 4, most=12))
        assert (other_BTD[0] - x_BTD[0]).abs().amax(-1).min() > 0
    x_BTD[masked([6, 1], 6)].sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


@pytest.mark.parametrize(("family", "module"), [("lstm", nn.LSTM), ("gru", nn.GRU), ("rnn", nn.RNN)])
def test_recurrent_layers_equal_torch_bidirectional_ones(family: Family, module: type[nn.RNNBase]) -> None:
    encoder = make(family)
    layers = module(16, 8, 2, batch_first=True, bidirectional=True)
    names = {"forwards": "", "backwards": "_reverse"}
    weights = {
        f"{name.removesuffix('_l0')}_l{layer}{suffix}": parameter
        for side, suffix in names.items()
        for layer, direction in enumerate(getattr(encoder.layers, side))
        for name, parameter in direction.named_parameters()
    }
    layers.load_state_dict(weights)
    lengths = [7, 3, 1]
    ids_BT, x_BTD = ids(3, 7), encoder(ids(3, 7), masked(lengths))
    for b, n in enumerate(lengths):
        expected_1TD, after = layers(encoder.embed(ids_BT[b : b + 1, :n]))
        torch.testing.assert_close(x_BTD[b : b + 1, :n], expected_1TD)
        hidden = after[0] if isinstance(after, tuple) else after
        torch.testing.assert_close(encoder.ends(x_BTD, masked(lengths))[b], hidden[-2:, 0].flatten())


def test_the_transformer_equals_torch_layers_where_they_express_it() -> None:
    """Rotary angles of 0, GELU in place of SwiGLU and LayerNorm make our block PyTorch's pre-norm layer."""
    encoder = make("transformer", layers=1)
    config = encoder.config.blocks.model_copy(
        update={"norm": "layer", "feed_forward": "gelu", "bias": True, "ff_width": 24}
    )
    stack = encoder.layers
    stack.blocks = nn.ModuleList([type(stack.blocks[0])(config)])
    stack.norm = nn.Identity()
    stack.rotary.cos_TC, stack.rotary.sin_TC = torch.ones(9, 8), torch.zeros(9, 8)
    ours = stack.blocks[0]
    theirs = nn.TransformerEncoderLayer(
        16, 2, 24, 0.0, lambda x: nn.functional.gelu(x, approximate="tanh"), 1e-5, True, True
    ).eval()
    pairs = {
        "self_attn.in_proj_": ours.attention.qkv, "self_attn.out_proj.": ours.attention.out,
        "linear1.": ours.feed_forward.up, "linear2.": ours.feed_forward.down,
        "norm1.": ours.attention_norm, "norm2.": ours.feed_forward_norm,
    }  # fmt: skip
    theirs.load_state_dict(
        {f"{k}{kind}": getattr(m, kind) for k, m in pairs.items() for kind in ("weight", "bias")}
    )
    mask_BT, ids_BT = masked([9, 4, 1]), ids(3, 9)
    expected_BTD = theirs(encoder.embed(ids_BT), src_key_padding_mask=~mask_BT)
    torch.testing.assert_close(encoder(ids_BT, mask_BT)[mask_BT], expected_BTD[mask_BT], rtol=1e-4, atol=1e-5)


@every_family
def test_bf16_is_near_fp32(family: Family) -> None:
    encoder = make(family)
    mask_BT = masked([9, 1, 4])
    expected_BTD = encoder(ids(3, 9), mask_BT)
    with torch.autocast("cpu", torch.bfloat16):
        found_BTD = encoder(ids(3, 9), mask_BT)
    assert found_BTD[mask_BT].isfinite().all()
    assert (found_BTD[mask_BT].float() - expected_BTD[mask_BT]).norm() < 0.05 * expected_BTD[mask_BT].norm()


def test_without_an_lstm_in_bf16_it_is_that_of_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "has_bf16_lstm", lambda: False)
    encoder, mask_BT = make("lstm"), masked([9, 1, 4])
    expected_BTD = encoder(ids(3, 9), mask_BT)
    with torch.autocast("cpu", torch.bfloat16):
        found_BTD = encoder(ids(3, 9), mask_BT)
    assert torch.equal(found_BTD, expected_BTD)
    assert cells.computed_in(encoder, "bf16") == (
        "bf16 (LSTM layers in fp32: this processor has none in bf16)"
    )
    assert cells.computed_in(encoder, "fp32") == "fp32"
    assert cells.computed_in(make("gru"), "bf16") == "bf16"


def test_characters_tell_unknown_words_apart() -> None:
    encoder = make("lstm", chars=12)
    unknown_BT = torch.ones(1, 2, dtype=torch.int64)
    one, other = (encoder(unknown_BT, masked([2]), ids(1, 2, 4, seed=s, most=12)) for s in (1, 2))
    assert (one - other).abs().max() > 1e-3


@pytest.mark.parametrize(("family", "width", "words"), [("transformer", 18, "heads"), ("gru", 15, "odd")])
def test_impossible_widths_are_named(family: Family, width: int, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        EncoderConfig(family=family, vocab_size=9, width=width, heads=2)
