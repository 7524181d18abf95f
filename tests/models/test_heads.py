"""Heads: losses by hand, spans by brute force, and that each of them can learn.

Shape letters: B rows, T positions, D width, L labels.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from malmoi.core.tensors import IGNORE
from malmoi.learn.optim import make_optimizers
from malmoi.models.encoder import Encoder, EncoderConfig
from malmoi.models.heads import (
    Classifier,
    EncoderBatch,
    MaskedLanguageModel,
    Pooling,
    SpanReader,
    Tagger,
    best_spans,
)

POOLINGS: tuple[Pooling, ...] = ("mean", "last", "attention", "max")
LENGTHS = [6, 1, 4, 6]
MASK_BT = torch.arange(6) < torch.tensor(LENGTHS)[:, None]


def encoder(family: str = "lstm") -> Encoder:
    torch.manual_seed(0)
    config = {"family": family, "vocab_size": 30, "width": 16, "layers": 1, "heads": 2}
    return Encoder(EncoderConfig.model_validate(config))


def ids(*shape: int, most: int = 30) -> Tensor:
    return torch.randint(1, most, shape, generator=torch.Generator().manual_seed(1))


def learn(model: nn.Module, batch: EncoderBatch, steps: int = 60) -> float:
    """The loss per target after some steps on one batch."""
    optimizers = make_optimizers(model, "muon", lr=0.02, weight_decay=0.0, betas=(0.9, 0.95))
    for _ in range(steps):
        loss = model.loss(batch)
        (loss.sum / loss.count).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return model.loss(batch).sum.item() / loss.count


@pytest.mark.parametrize("family", ["transformer", "gru"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_classifier_pools_real_positions_and_learns(family: str, pooling: Pooling) -> None:
    model = Classifier(encoder(family), 3, pooling)
    batch = EncoderBatch(ids(4, 6), MASK_BT, targets=torch.tensor([0, 1, 2, 1]))
    logits_BL = model(batch)
    for b, n in enumerate(LENGTHS):
        alone = EncoderBatch(batch.ids_BT[b : b + 1, :n], MASK_BT[b : b + 1, :n])
        torch.testing.assert_close(model(alone)[0], logits_BL[b], rtol=1e-4, atol=1e-5)
    assert learn(model, batch) < 0.1


def test_a_classifier_weighs_and_smooths_like_torch() -> None:
    model, weights_L = Classifier(encoder(), 3), torch.tensor([0.5, 1.0, 2.0])
    batch = EncoderBatch(ids(4, 6), MASK_BT, targets=torch.tensor([0, IGNORE, 2, 1]))
    loss = model.loss(batch, weights_L=weights_L, label_smoothing=0.1)
    kept = torch.tensor([0, 2, 3])
    expected = functional.cross_entropy(
        model(batch)[kept], batch.truth[kept], weights_L, reduction="sum", label_smoothing=0.1
    )
    torch.testing.assert_close(loss.sum, expected)
    assert loss.count == 3


@pytest.mark.parametrize("crf", [False, True])
def test_a_tagger_learns_and_keeps_to_bio(crf: bool) -> None:
    names = ["O", "B-LOC", "I-LOC"]
    model = Tagger(encoder(), names, crf=crf)
    tags_BT = torch.tensor([[1, 2, 0, 0, 1, 2], [0] * 6, [0, 1, 2, 2, 0, 0], [1, 1, 0, 1, 2, 0]])
    batch = EncoderBatch(ids(4, 6), MASK_BT, targets=tags_BT.masked_fill(~MASK_BT, IGNORE))
    for row in model.decode(batch):
        assert all(tag != 2 or before in (1, 2) for before, tag in zip([0, *row], row, strict=False))
    assert model.loss(batch).count == sum(LENGTHS)
    assert learn(model, batch) < 0.1
    assert model.decode(batch) == [row[:n] for row, n in zip(tags_BT.tolist(), LENGTHS, strict=True)]
    assert Tagger(encoder(), 3, crf=crf).decode(batch)  # a number of tags will do


def test_a_span_reader_answers_within_the_context_and_learns() -> None:
    model = SpanReader(encoder())
    features_BT = torch.tensor([[0, 1, 2, 3, 2, 2], [2] * 6, [0, 2, 2, 3, 0, 0], [1, 0, 0, 2, 2, 3]])
    targets_B2 = torch.tensor([[3, 4], [0, 0], [IGNORE, IGNORE], [5, 5]])
    batch = EncoderBatch(ids(4, 6), MASK_BT, None, features_BT, targets_B2)
    start_BT, end_BT = model(batch)
    context_BT = model.context_mask(batch)
    for logits_BT in (start_BT, end_BT):
        assert torch.equal(logits_BT.isfinite(), context_BT)
    assert model.loss(batch).count == 3
    assert learn(model, batch) < 0.2
    found = best_spans(*model(batch), context_BT)
    assert [found[b] for b in (0, 1, 3)] == [(3, 4), (0, 0), (5, 5)]
    changed = batch._replace(features_BT=features_BT ^ 1)
    assert not torch.equal(model(changed)[0], model(batch)[0])


@settings(deadline=None, max_examples=30)
@given(max_length=st.integers(1, 9), seed=st.integers(0, 99))
def test_best_spans_equal_brute_force(max_length: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    start_BT, end_BT = torch.randn(2, 3, 7, generator=generator)
    context_BT = torch.rand(3, 7, generator=generator) < 0.7
    context_BT[:, 2] = True
    for b, found in enumerate(best_spans(start_BT, end_BT, context_BT, max_length)):
        pairs = [
            (i, j) for i in range(7) for j in range(i, min(7, i + max_length))
            if context_BT[b, i] and context_BT[b, j]
        ]  # fmt: skip
        assert found == max(pairs, key=lambda pair: float(start_BT[b, pair[0]] + end_BT[b, pair[1]]))


def test_hidden_units_are_guessed() -> None:
    model = MaskedLanguageModel(encoder())
    targets_BT = torch.full((4, 6), IGNORE)
    targets_BT[0, 2], targets_BT[2, 1], targets_BT[3, 5] = 7, 8, 9
    batch = EncoderBatch(ids(4, 6), MASK_BT, targets=targets_BT)
    logits_BTV = model.head(model.encoder(batch.ids_BT, MASK_BT))
    expected = functional.cross_entropy(logits_BTV.mT, targets_BT, reduction="sum", ignore_index=IGNORE)
    torch.testing.assert_close(model.loss(batch).sum, expected)
    assert model.loss(batch).count == 3
    assert learn(model, batch) < 0.1
    empty = batch._replace(targets=torch.full((4, 6), IGNORE))
    assert model.loss(empty).sum.item() == 0
