"""Encoder-decoders: decoding with a state equals teacher forcing, and the loss equals its definition.

Shape letters: B rows, S source positions, T target positions, V vocabulary.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from malmoi.core.tensors import IGNORE
from malmoi.engine.beam import beam_search
from malmoi.learn.optim import Muon, make_optimizers
from malmoi.models.output import target_log_probabilities
from malmoi.models.seq2seq import Seq2Seq, Seq2SeqBatch, Seq2SeqConfig

VOCAB, BOS, EOS = 40, 1, 2
NAMES = [(family, copy) for family in ("transformer", "lstm", "gru", "rnn") for copy in (False, True)]
SOURCE_LENGTHS, TARGET_LENGTHS = [7, 1, 4], [5, 6, 2]
SOURCE_MASK_BS = torch.arange(7) < torch.tensor(SOURCE_LENGTHS)[:, None]


def make(family: str, copy: bool) -> Seq2Seq:
    torch.manual_seed(0)
    config = {"family": family, "vocab_size": VOCAB, "width": 16, "layers": 2, "heads": 2, "copy": copy}
    model = Seq2Seq(Seq2SeqConfig.model_validate(config)).eval()
    with torch.no_grad():  # larger weights, so that every part shows
        for parameter in model.parameters():
            parameter.mul_(3.0 if parameter.ndim > 1 else 1.0)
    return model


MODELS = {name: make(*name) for name in NAMES}
every_model = pytest.mark.parametrize("name", NAMES, ids=lambda name: f"{name[0]}-{name[1]}")


def ids(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(3, VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def batch() -> Seq2SeqBatch:
    body_BT, lengths_B1 = ids(3, 5, seed=1), torch.tensor(TARGET_LENGTHS)[:, None]
    inputs_BT = torch.cat((torch.full((3, 1), BOS), body_BT), dim=1)
    targets_BT = torch.cat((body_BT, torch.full((3, 1), EOS)), dim=1)
    targets_BT.scatter_(1, lengths_B1 - 1, EOS).masked_fill_(torch.arange(6) >= lengths_B1, IGNORE)
    return Seq2SeqBatch(ids(3, 7), SOURCE_MASK_BS, inputs_BT, targets_BT)


def log_probabilities(model: Seq2Seq, part: Seq2SeqBatch) -> Tensor:
    """logp_BTV by reading each row alone, one token at a time."""
    rows = []
    for b, length in enumerate(SOURCE_LENGTHS):
        state, row = model.encode(part.source_BS[b : b + 1, :length], torch.ones(1, length).bool()), []
        for t in range(part.target_ids_BT.shape[1]):
            logits = model.step(part.target_ids_BT[b : b + 1, t : t + 1], torch.tensor([1]), state)
            row.append(logits[0, 0].log_softmax(-1))
        rows.append(torch.stack(row))
    return torch.stack(rows)


@every_model
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_that_of_single_steps(name: tuple[str, bool], smoothing: float) -> None:
    model, part = MODELS[name], batch()
    loss = model.loss(part, label_smoothing=smoothing)
    assert loss.count == sum(TARGET_LENGTHS)
    if smoothing and name[1]:  # what is spread is spread over what the vocabulary's softmax says
        assert loss.sum.item() > 0
        return
    expected = functional.cross_entropy(
        log_probabilities(model, part).mT, part.targets_BT, reduction="sum", label_smoothing=smoothing
    )
    torch.testing.assert_close(loss.sum, expected, rtol=1e-4, atol=1e-4)


@every_model
@settings(deadline=None, max_examples=6, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(st.lists(st.integers(1, 3), min_size=3, max_size=3), min_size=1, max_size=2))
def test_ragged_steps_equal_single_ones(name: tuple[str, bool], steps: list[list[int]]) -> None:
    model, part = MODELS[name], batch()
    expected_BTV = log_probabilities(model, part)
    state = model.encode(part.source_BS, part.source_mask_BS)
    for counts in steps:
        starts = state.lengths_B.tolist()
        step_BT = torch.zeros(3, max(counts), dtype=torch.int64)
        for b, (start, count) in enumerate(zip(starts, counts, strict=True)):
            step_BT[b, :count] = part.target_ids_BT[b, start : start + count]
        last_B1V = model.step(step_BT, torch.tensor(counts), state.snapshot(), last_only=True)
        logits_BTV = model.step(step_BT, torch.tensor(counts), state)
        for b, (start, count) in enumerate(zip(starts, counts, strict=True)):
            found_TV = logits_BTV[b, :count].log_softmax(-1)
            torch.testing.assert_close(found_TV, expected_BTV[b, start : start + count], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(last_B1V[b, 0], logits_BTV[b, count - 1])


@every_model
def test_states_are_selected_joined_and_kept(name: tuple[str, bool]) -> None:
    model, part, one = MODELS[name], batch(), torch.ones(4, dtype=torch.int64)
    expected_BTV = log_probabilities(model, part)
    short = model.encode(part.source_BS[1:2, :1], part.source_mask_BS[1:2, :1])
    whole = model.encode(part.source_BS, part.source_mask_BS)
    for state, rows in ((short, [1]), (whole, [0, 1, 2])):
        model.step(part.target_ids_BT[rows, :2], 2 * one[: len(rows)], state)
    kept = whole.snapshot()
    for state, order in ((short.join([whole]), [1, 0, 1, 2]), (whole.select([2, 0, 0, 1]), [2, 0, 0, 1])):
        assert state.lengths_B.tolist() == [2] * 4
        assert state.nbytes > 0
        shuffled = state.select([3, 1, 2, 0])
        logits_B1V = model.step(part.target_ids_BT[order][[3, 1, 2, 0], 2:3], one, shuffled)
        found_BV, rows = logits_B1V[:, 0].log_softmax(-1), [order[i] for i in (3, 1, 2, 0)]
        torch.testing.assert_close(found_BV, expected_BTV[rows, 2], rtol=1e-4, atol=1e-4)
    assert kept.lengths_B.tolist() == whole.lengths_B.tolist() == [2, 2, 2]
    within = whole.select([0, 0, 1, 1]).select([1, 0, 3, 2])  # beams that change places share their source
    assert within.memory is not whole.memory
    assert within.select([0, 0, 2, 3]).memory is within.memory


@every_model
def test_probabilities_sum_to_one_and_gradients_are_finite(name: tuple[str, bool]) -> None:
    model, part = make(*name), batch()
    totals = model.step(part.target_ids_BT, torch.full((3,), 6), model.encode(part.source_BS, SOURCE_MASK_BS))
    if name[1]:
        torch.testing.assert_close(totals.exp().sum(-1), torch.ones(3, 6))
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = model.loss(part, 0.1)
        loss.sum.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_target_log_probabilities_equal_log_softmax_and_its_gradient() -> None:
    torch.manual_seed(0)
    x_ND, weight_VD = torch.randn(70, 6, requires_grad=True), torch.randn(11, 6, requires_grad=True)
    targets_N, scale_N = torch.randint(11, (70,)), torch.randn(70)
    found_N = target_log_probabilities(x_ND, weight_VD, targets_N)
    found = torch.autograd.grad((found_N * scale_N).sum(), (x_ND, weight_VD))
    expected_N = (x_ND @ weight_VD.T).log_softmax(-1).gather(1, targets_N[:, None])[:, 0]
    torch.testing.assert_close(found_N, expected_N)
    torch.testing.assert_close(
        found, torch.autograd.grad((expected_N * scale_N).sum(), (x_ND, weight_VD)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(("family", "copy"), [("lstm", True), ("transformer", True), ("gru", False)])
def test_learns_to_copy_and_beams_say_it(family: str, copy: bool) -> None:
    torch.manual_seed(0)
    config = {"family": family, "vocab_size": VOCAB, "width": 32, "layers": 1, "heads": 2, "copy": copy}
    model, body_BT = Seq2Seq(Seq2SeqConfig.model_validate(config)), ids(8, 4)
    part = Seq2SeqBatch(
        body_BT, torch.ones(8, 4).bool(),
        torch.cat((torch.full((8, 1), BOS), body_BT), 1), torch.cat((body_BT, torch.full((8, 1), EOS)), 1),
    )  # fmt: skip
    optimizers = make_optimizers(model, "adamw", lr=0.01, weight_decay=0.0, betas=(0.9, 0.95))
    for _ in range(120):
        (model.loss(part).sum / 40).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    for beams in (1, 3):
        state = model.eval().encode(part.source_BS, part.source_mask_BS)
        assert beam_search(model, state, BOS, EOS, beams, [9] * 8) == body_BT.tolist()


@pytest.mark.parametrize("family", ["lstm", "transformer"])
def test_muon_takes_all_matrices_but_the_shared_one(family: str) -> None:
    model = make(family, copy=True)
    _, muon = make_optimizers(model, "muon", lr=0.1, weight_decay=0.1, betas=(0.9, 0.95))
    assert isinstance(muon, Muon)
    taken = {p for group in muon.param_groups for p in group["params"]}
    assert taken == {p for p in model.parameters() if p.ndim == 2} - {model.decoder.embed.weight}
