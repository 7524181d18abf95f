"""Recomputed attention against the attention of the model itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from malmoi.core.tensors import TokenBatch
from malmoi.inside.attention import Attended, record, sharpest_head
from malmoi.models.attention import Attention, CrossAttention
from malmoi.models.encoder import Encoder, EncoderConfig
from malmoi.models.seq2seq import RecurrentDecoder, Seq2Seq, Seq2SeqBatch, Seq2SeqConfig
from tests.models.variants import TRANSFORMERS, VOCAB, make_model


def ids(count: int, rows: int = 1) -> Tensor:
    return torch.randint(VOCAB, (rows, count), generator=torch.Generator().manual_seed(1))


class Heard:
    """What attention modules gave out, by the order of their calls."""

    def __init__(self, model: nn.Module, kind: type[nn.Module]) -> None:
        self.outputs: list[tuple[nn.Module, tuple[object, ...], Tensor]] = []
        for module in model.modules():
            if isinstance(module, kind):
                module.register_forward_hook(lambda m, args, out: self.outputs.append((m, args, out)))


@pytest.mark.parametrize("length", [1, 9])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_weights_times_values_are_what_attention_gives(name: str, length: int) -> None:
    model = make_model(name)
    heard = Heard(model, Attention)
    found = record(model, lambda: model.hidden(TokenBatch(ids(length)))).attended
    assert len(found) == 2
    with torch.no_grad():
        for (module, args, out), attended in zip(heard.outputs, found, strict=True):
            assert isinstance(module, Attention)
            *_, v_BKSC = module.project(*args[:2])  # pyright: ignore[reportArgumentType]
            v_HSC = v_BKSC[0].repeat_interleave(module.heads // module.kv_heads, 0)
            read_HTC = attended.weights_HTS @ v_HSC
            torch.testing.assert_close(
                module.out(read_HTC.transpose(0, 1).flatten(1)), out[0], rtol=1e-5, atol=1e-4
            )


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_weights_are_shares_of_what_may_be_seen(name: str) -> None:
    model, length = make_model(name), 12
    here = torch.arange(length)
    distance_TS = here[:, None] - here
    found = record(model, lambda: model.hidden(TokenBatch(ids(length)))).attended
    for attended, kind in zip(found, TRANSFORMERS[name].layer_kinds, strict=True):
        window = TRANSFORMERS[name].window if kind.has_window else None
        weights_HTS = attended.weights_HTS
        torch.testing.assert_close(weights_HTS.sum(-1), torch.ones(weights_HTS.shape[:2]))
        assert (weights_HTS >= 0).all()
        unseen_TS = (distance_TS < 0) | (distance_TS >= (window or length))
        assert (weights_HTS[:, unseen_TS] == 0).all()


def test_an_encoder_sees_both_sides() -> None:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(family="transformer", vocab_size=VOCAB, layers=2, width=16, heads=2))
    row_BT = ids(7)
    found = record(encoder, lambda: encoder(row_BT, torch.ones_like(row_BT, dtype=torch.bool))).attended
    assert [one.weights_HTS.shape for one in found] == [(2, 7, 7)] * 2
    assert all((one.weights_HTS > 0).all() for one in found)


def seq2seq(family: str) -> tuple[Seq2Seq, Seq2SeqBatch]:
    torch.manual_seed(0)
    model = Seq2Seq(Seq2SeqConfig(family=family, vocab_size=VOCAB, layers=2, width=16, heads=2))  # pyright: ignore
    source_BS, target_BT = ids(6), ids(5)
    return model, Seq2SeqBatch(source_BS, torch.ones_like(source_BS, dtype=torch.bool), target_BT, target_BT)


def test_cross_attention_of_a_transformer() -> None:
    model, batch = seq2seq("transformer")
    heard = Heard(model, CrossAttention)
    found = record(model, lambda: model.loss(batch)).attended
    assert [(one.part, one.kind) for one in found] == [("encoder", "self")] * 2 + [
        ("decoder", "self"), ("decoder", "cross"), ("decoder", "self"), ("decoder", "cross"),
    ]  # fmt: skip
    crossed = [one for one in found if one.kind == "cross"]
    with torch.no_grad():
        for (module, args, out), attended in zip(heard.outputs, crossed, strict=True):
            assert isinstance(module, CrossAttention)
            memory, layer = args[1], args[2]
            v_JSC = memory.kv_BSJ[layer][0].unflatten(-1, (-1, module.head_width)).transpose(0, 1)  # pyright: ignore
            read_HTC = attended.weights_HTS @ v_JSC[2:]
            torch.testing.assert_close(
                module.out(read_HTC.transpose(0, 1).flatten(1)), out[0], rtol=1e-5, atol=1e-5
            )


@pytest.mark.parametrize("family", ["rnn", "gru", "lstm"])
def test_the_search_of_a_recurrent_decoder(family: str) -> None:
    model, batch = seq2seq(family)
    (attended,) = record(model, lambda: model.loss(batch)).attended
    assert (attended.part, attended.kind, attended.weights_HTS.shape) == ("decoder", "cross", (1, 5, 6))
    decoder = model.decoder
    assert isinstance(decoder, RecurrentDecoder)
    with torch.no_grad():
        memory, ends_BD = model._remember(batch.source_BS, batch.source_mask_BS)
        state = decoder.begin(memory, ends_BD)
        read_BTD = decoder.hidden(TokenBatch(batch.target_ids_BT), decoder.begin(memory, ends_BD))
        wanted_BTD = decoder.write(batch.target_ids_BT, memory, state)
        found_TD = attended.weights_HTS[0] @ memory.encoded_BSD[0]
        mixed_TD = decoder.mix(torch.cat((found_TD, read_BTD[0]), dim=-1)).tanh()
    torch.testing.assert_close(mixed_TD, wanted_BTD[0], rtol=1e-5, atol=1e-5)


def test_a_model_is_left_as_it_was() -> None:
    model = make_model("llama").train()
    before = model.hidden(TokenBatch(ids(5)))
    record(model, lambda: model.hidden(TokenBatch(ids(5))))
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    torch.testing.assert_close(model.hidden(TokenBatch(ids(5))), before)


def test_hooks_are_gone_after_a_mistake() -> None:
    model = make_model("llama")
    with pytest.raises(ZeroDivisionError):
        record(model, lambda: 1 // 0)
    assert not any(module._forward_hooks for module in model.modules())


def test_the_sharpest_head_looks_at_one_other_token() -> None:
    dull_HTS = torch.full((2, 4, 4), 0.25)
    own_HTS = torch.eye(4).expand(2, 4, 4)
    sharp_TS = torch.eye(4).roll(1, 0)
    layers = [dull_HTS, own_HTS, torch.stack((dull_HTS[0], sharp_TS))]
    assert sharpest_head(layers) == (2, 1)
    assert isinstance(Attended("", "self", dull_HTS).weights_HTS, Tensor)
