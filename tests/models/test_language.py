"""What every neural family promises: cached equals uncached, apart means apart, and exact counts.

Shape letters: B rows, T positions, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from malmoi.core.tensors import TokenBatch
from malmoi.models.build import build_model
from malmoi.models.config import RecurrentConfig, TransformerConfig
from malmoi.models.language import LanguageModel
from malmoi.models.native import fused
from malmoi.models.state import KVState
from tests.models.variants import NEURAL, RECURRENTS, SMALL, TRANSFORMERS, VOCAB, make_model, random_ids

MODELS = {name: make_model(name) for name in NEURAL}


@torch.inference_mode()
def one_pass(model: LanguageModel, ids_BT: torch.Tensor, documents_BT: torch.Tensor | None = None):
    return model.logits(model.hidden(TokenBatch(ids_BT, documents_BT=documents_BT)))


@pytest.mark.parametrize("name", NEURAL)
@settings(deadline=None, max_examples=12, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(st.lists(st.integers(1, 7), min_size=3, max_size=3), min_size=1, max_size=6),
    capacity=st.sampled_from([0, 5, 48]),
)
def test_steps_of_any_size_equal_one_pass(name: str, steps: list[list[int]], capacity: int) -> None:
    model, ids_BT = MODELS[name], random_ids(3, 48)
    expected_BTV = one_pass(model, ids_BT)
    state = model.new_state(3, capacity)
    for counts in steps:
        starts, width = state.lengths_B.tolist(), max(counts)
        step_BT = torch.full((3, width), VOCAB - 1)  # padding is a token, too
        for b, count in enumerate(counts):
            step_BT[b, :count] = ids_BT[b, starts[b] : starts[b] + count]
        logits_BTV = model.step(step_BT, torch.tensor(counts), state)
        for b, count in enumerate(counts):
            torch.testing.assert_close(
                logits_BTV[b, :count], expected_BTV[b, starts[b] : starts[b] + count], rtol=1e-4, atol=1e-4
            )
    assert state.lengths_B.tolist() == torch.tensor(steps).sum(0).tolist()


@pytest.mark.parametrize("name", TRANSFORMERS)
@settings(deadline=None, max_examples=8, suppress_health_check=list(HealthCheck))
@given(lengths=st.lists(st.integers(1, 11), min_size=1, max_size=4))
def test_packed_documents_are_each_alone(name: str, lengths: list[int]) -> None:
    model, ids_1T = MODELS[name], random_ids(1, sum(lengths))
    documents_1T = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))[None]
    packed_1TV = one_pass(model, ids_1T, documents_1T)
    alone = [one_pass(model, part_1T) for part_1T in ids_1T.split(lengths, dim=1)]
    torch.testing.assert_close(packed_1TV, torch.cat(alone, dim=1), rtol=1e-4, atol=1e-4)


def test_a_window_hides_what_is_behind_it() -> None:
    ids_BT = random_ids(1, 20)
    changed_BT = ids_BT.clone()
    changed_BT[0, 0] = (changed_BT[0, 0] + 1) % VOCAB
    model = MODELS["mistral"]  # 2 layers, window 5: position t depends on t - 8 .. t
    differs_T = (one_pass(model, ids_BT) != one_pass(model, changed_BT)).any(-1)[0]
    assert differs_T[:9].all()
    assert not differs_T[9:].any()


@pytest.mark.parametrize("name", NEURAL)
def test_nothing_later_changes_what_came_before(name: str) -> None:
    ids_BT = random_ids(2, 16)
    changed_BT = ids_BT.clone()
    changed_BT[:, 9:] = random_ids(2, 7, seed=1)
    before_BTV, after_BTV = (one_pass(MODELS[name], ids)[:, :9] for ids in (ids_BT, changed_BT))
    torch.testing.assert_close(before_BTV, after_BTV, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NEURAL)
def test_a_new_model_knows_nothing_and_every_parameter_learns(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(NEURAL[name])
    ids_BT = random_ids(4, 33)
    logits_BTV = model.logits(model.hidden(TokenBatch(ids_BT[:, :-1])))
    loss = torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), ids_BT[:, 1:].flatten())
    assert float(loss.detach()) == pytest.approx(math.log(VOCAB), rel=0.03)
    loss.backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        if name != "mistral-window-1" or "norm" in parameter_name:  # one key: the softmax is constant
            assert parameter.grad.abs().max() > 0, parameter_name


@pytest.mark.parametrize("name", NEURAL)
def test_parameters_are_counted_exactly(name: str) -> None:
    model, c = build_model(NEURAL[name]), NEURAL[name]
    embeddings = c.vocab_size * c.width
    body = sum(
        p.numel() for n, p in model.named_parameters() if not n.startswith(("embed.", "head.", "posit"))
    )
    learned = 48 * 32 if isinstance(c, TransformerConfig) and c.position == "learned" else 0
    assert model.num_parameters() == body + learned + embeddings * (1 if c.tied else 2)
    assert model.num_parameters(embeddings=False) == body + embeddings


def test_parameters_of_gpt2_small_are_the_published_number() -> None:
    with torch.device("meta"):
        config = TransformerConfig(
            vocab_size=50257, context=1024, layers=12, width=768, heads=12, norm="layer", position="learned",
            feed_forward="gelu", bias=True, tied=True,
        )  # fmt: skip
        assert build_model(config).num_parameters() == 124_439_808


@pytest.mark.parametrize("name", NEURAL)
def test_flops_agree_with_the_counter_of_torch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(fused, "has_kernels", lambda _: False)  # they are not counted
    config = NEURAL[name].model_copy(update={"window": None} if name in TRANSFORMERS else {})
    model, length = build_model(config), 32
    if name in RECURRENTS:  # the fused kernels are not counted: each multiplies its matrices once a token
        matrices = sum(p.numel() for p in model.parameters() if p.ndim > 1)
        matrices -= 0 if config.tied else model.embed.weight.numel()
        assert model.flops_per_token(length) == pytest.approx(6 * matrices, rel=0.1)
        return
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.logits(model.hidden(TokenBatch(random_ids(2, length)))).sum().backward()
    counted = counter.get_total_flops() / (2 * length)
    unseen = 6 * config.layers * config.heads * config.size_of_head * length  # counted as if not causal
    assert model.flops_per_token(length) == pytest.approx(counted - unseen, rel=0.05)


def test_a_window_bounds_the_flops_of_attention() -> None:
    full, mistral = MODELS["llama-gqa"], MODELS["mistral"]  # the same but for the window of 5
    fixed = 6 * full.num_parameters(embeddings=False)
    assert mistral.flops_per_token(5) == full.flops_per_token(5)
    assert mistral.flops_per_token(10_000) - fixed == pytest.approx(12 * 2 * 32 * 5, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"heads": 3}, "width 32 is not a multiple of heads 3"),
        ({"kv_heads": 3}, "heads 4 is not a multiple of kv_heads 3"),
        ({"head_width": 7}, "rotary positions need an even head width, not 7"),
        ({"vocab_size": 0}, "greater than 0"),
        ({"window": 0}, "greater than 0"),
        ({"dropout": 1.0}, "less than 1"),
        ({"norm": "batch"}, "'rms' or 'layer'"),
        ({"colour": "red"}, "Extra inputs"),
        ({"rope_theta": 0.0}, "greater than 1"),
        ({"norm_eps": -1.0}, "greater than 0"),
    ],
)
def test_a_wrong_config_is_refused_with_one_reason(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as error:
        TransformerConfig.model_validate(SMALL.model_dump() | changes)
    (finding,) = error.value.errors()
    assert words in finding["msg"]


def test_recurrent_configs_are_strict() -> None:
    for changes in ({"layers": 0}, {"family": "tree"}, {"heads": 4}, {"dropout": -0.1}):
        value = RECURRENTS["gru"].model_dump() | changes
        with pytest.raises(ValidationError):
            RecurrentConfig.model_validate(value)


@pytest.mark.parametrize("name", NEURAL)
def test_generating_does_not_disturb_training(name: str) -> None:
    """Tables and caches made while generating (inference mode) must not end up in a gradient's way."""
    model = build_model(NEURAL[name])
    state = model.new_state(1)
    model.step(random_ids(1, 48), torch.tensor([48]), state)
    model.step(random_ids(1, 8), torch.tensor([1]), state)  # padding beyond the context
    model.logits(model.hidden(TokenBatch(random_ids(2, 40)))).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["llama", "gpt2", "lstm", "gru"])
def test_dropout_acts_in_training_only(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(NEURAL[name].model_copy(update={"dropout": 0.5}))
    ids_BT = random_ids(2, 9)
    assert not torch.equal(one_pass(model, ids_BT), one_pass(model, ids_BT))
    model.eval()
    assert torch.equal(one_pass(model, ids_BT), one_pass(model, ids_BT))


@pytest.mark.parametrize("name", RECURRENTS)
def test_a_recurrent_state_carries_over_batches(name: str) -> None:
    model, ids_BT = MODELS[name], random_ids(2, 20)
    state = model.new_state(2)
    parts = [model.hidden(TokenBatch(part_BT), state) for part_BT in ids_BT.split([7, 13], dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), model.hidden(TokenBatch(ids_BT)), rtol=1e-5, atol=1e-5)


def test_bf16_stays_near_fp32() -> None:
    for name in ("llama", "gpt2", "lstm", "gru"):
        ids_BT = random_ids(2, 20)
        expected_BTV = one_pass(make_model(name, scale=2.0), ids_BT)
        with torch.autocast("cpu", torch.bfloat16):
            logits_BTV = one_pass(make_model(name, scale=2.0), ids_BT)
        assert logits_BTV.dtype == torch.float32
        assert float((logits_BTV - expected_BTV).abs().mean()) < 0.05 * float(expected_BTV.std())


def test_a_cache_grows_by_doubling() -> None:
    state = MODELS["llama"].new_state(1)
    assert isinstance(state, KVState)
    copies, before = 0, state.capacity
    for _ in range(300):
        state.reserve(int(state.lengths_B[0]) + 1)
        state.lengths_B += 1
        copies, before = copies + (state.capacity != before), state.capacity
    assert copies == 4  # 64, 128, 256, 512
