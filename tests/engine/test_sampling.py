from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process as theirs

from malmoi.engine import Sampling
from malmoi.engine.sampling import best, biased, draw, filtered, logprobs_of, sample, top_logprobs

PARAMS = st.builds(
    Sampling,
    temperature=st.floats(0.05, 3),
    top_k=st.integers(0, 40),
    top_p=st.floats(0.05, 1),
    min_p=st.floats(0, 0.5),
    repetition_penalty=st.floats(0.5, 2),
)


def reference(logits_V: torch.Tensor, p: Sampling, history: list[int]) -> torch.Tensor:
    """Probabilities by the transformers library."""
    ids, scores = torch.tensor([history]), logits_V[None].double()
    scores = theirs.RepetitionPenaltyLogitsProcessor(p.repetition_penalty)(ids, scores)
    warpers = [theirs.TemperatureLogitsWarper(p.temperature)]
    warpers += [theirs.TopKLogitsWarper(p.top_k)] if p.top_k else []
    warpers += [theirs.TopPLogitsWarper(p.top_p)] if p.top_p < 1 else []
    warpers += [theirs.MinPLogitsWarper(p.min_p)] if p.min_p else []
    for warper in warpers:
        scores = warper(ids, scores)
    return scores.softmax(dim=-1)[0]


@settings(deadline=None)
@given(params=st.lists(PARAMS, min_size=1, max_size=4), seed=st.integers(0, 1000))
def test_equals_transformers_in_a_mixed_batch(params: list[Sampling], seed: int) -> None:
    torch.manual_seed(seed)
    logits_BV = 3 * torch.randn(len(params), 50, dtype=torch.float64)
    histories = [torch.randint(50, (7,)).tolist() for _ in params]
    ours_BV = filtered(biased(logits_BV, params, histories, [7] * len(params)), params).softmax(dim=-1)
    theirs_BV = [reference(*row) for row in zip(logits_BV, params, histories, strict=True)]
    torch.testing.assert_close(ours_BV, torch.stack(theirs_BV), rtol=1e-9, atol=1e-12)


@given(uniform=st.floats(0, 1, exclude_max=True), hidden=st.sets(st.integers(0, 7), max_size=7))
def test_a_token_without_probability_is_never_drawn(uniform: float, hidden: set[int]) -> None:
    logits_BV = torch.zeros(1, 8, dtype=torch.float64)
    logits_BV[0, list(hidden)] = -torch.inf
    assert int(draw(logits_BV, [uniform])) not in hidden


def test_draws_follow_the_probabilities() -> None:
    probs = torch.tensor([0.5, 0.3, 0.0, 0.2])
    uniforms = np.random.default_rng(0).random(20_000).tolist()
    drawn = Counter(draw(probs.log().double().expand(20_000, 4), uniforms).tolist())
    shares = [drawn[id] / 20_000 for id in range(4)]
    assert shares == pytest.approx([0.5, 0.3, 0.0, 0.2], abs=0.02)


@pytest.mark.parametrize("cached", [1, 20, 1 << 18])
def test_logprobs_are_those_of_all_rows_at_once(cached: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows are worked on together."""
    monkeypatch.setattr("malmoi.engine.sampling.CACHED_NUMBERS", cached)
    logits_BV = 5 * torch.randn(7, 9, generator=torch.Generator().manual_seed(1))
    params = [Sampling(logprobs=row % 3) for row in range(7)]
    ids = best(logits_BV)
    assert ids == logits_BV.argmax(-1).tolist()
    logprobs_BV = logits_BV.log_softmax(-1)
    found, tops = logprobs_of(logits_BV, ids, params)
    assert found == logprobs_BV.amax(-1).tolist()
    assert tops == top_logprobs(logprobs_BV, params)


def test_temperature_zero_is_greedy_beside_rows_that_sample() -> None:
    logits_BV = torch.tensor([[0.0, 5.0, 4.9], [0.0, 5.0, 4.9]])
    params = [Sampling(temperature=0), Sampling(temperature=2.0)]
    assert sample(logits_BV, params, [[], []], [0, 0], [0.999, 0.999]) == [1, 2]


def test_the_penalty_is_for_seen_tokens_and_leaves_the_models_logits_alone() -> None:
    logits_BV = torch.tensor([[2.0, -2.0, 1.0]])
    ours_BV = biased(logits_BV, [Sampling(repetition_penalty=2.0)], [[0, 1, 0]], [3])
    assert ours_BV.tolist() == [[1.0, -4.0, 1.0]]
    assert logits_BV.tolist() == [[2.0, -2.0, 1.0]]


def test_a_tiny_temperature_does_not_overflow() -> None:
    logits_BV = torch.tensor([[88.0, 87.0]])
    assert sample(logits_BV, [Sampling(temperature=1e-300)], [[]], [0], [0.9]) == [0]


@st.composite
def finite_rows(draw: st.DrawFn) -> tuple[torch.Tensor, list[Sampling], list[list[int]], list[float]]:
    """Any finite logits, options in their whole ranges, and tokens so far: the first is the prompt."""
    rows, size = draw(st.integers(1, 3)), draw(st.integers(1, 8))
    number = st.floats(width=32, allow_nan=False, allow_infinity=False)
    logits_BV = torch.tensor(draw(st.lists(st.lists(number, min_size=size, max_size=size),
                                           min_size=rows, max_size=rows)))  # fmt: skip
    ids = st.integers(0, size - 1)
    params = st.builds(
        Sampling,
        temperature=st.floats(0, 100),
        top_k=st.integers(0, 2**31 - 1) | st.integers(0, 8),
        top_p=st.floats(0, 1, exclude_min=True),
        min_p=st.floats(0, 1),
        repetition_penalty=st.floats(0.01, 100),
        presence_penalty=st.floats(-100, 100),
        frequency_penalty=st.floats(-100, 100),
        logit_bias=st.lists(st.tuples(ids, st.floats(-100, 100)), max_size=3),
    )
    histories = st.lists(ids, min_size=1, max_size=6)
    uniforms = st.floats(0, 1, exclude_max=True)
    each = [(draw(params), draw(histories), draw(uniforms)) for _ in range(rows)]
    return logits_BV, [p for p, _, _ in each], [h for _, h, _ in each], [u for _, _, u in each]


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(asked=finite_rows())
def test_finite_logits_always_give_a_token(
    asked: tuple[torch.Tensor, list[Sampling], list[list[int]], list[float]],
) -> None:
    logits_BV, params, histories, uniforms = asked
    changed_BV = biased(logits_BV, params, histories, [1] * len(params))
    assert changed_BV.isfinite().all()
    assert not filtered(changed_BV, params).isnan().any()
    ids = sample(logits_BV, params, histories, [1] * len(params), uniforms)
    assert all(0 <= id < logits_BV.shape[1] for id in ids)


def test_what_cannot_be_said_stays_so_under_a_penalty() -> None:
    logits_BV = torch.tensor([[-torch.inf, -3e38, -3e38]])
    params = Sampling(repetition_penalty=100, temperature=0)
    assert biased(logits_BV, [params], [[0, 1]], [2])[0, 0] == -torch.inf
    assert sample(logits_BV, [params], [[0, 1, 2]], [3], [0.0]) in ([1], [2])


def test_openai_penalties_count_sampled_tokens_and_a_bias_is_added() -> None:
    params = Sampling(presence_penalty=0.5, frequency_penalty=0.25, logit_bias=((4, 2.0), (1, -1.0)))
    logits_BV = torch.zeros(2, 6)
    found_BV = biased(logits_BV, [params, Sampling()], [[0, 1, 2, 2, 3], [5]], [2, 0])
    assert found_BV.tolist() == [[0.0, -1.0, -1.0, -0.75, 2.0, 0.0], [0.0] * 6]
    assert not logits_BV.any(), "the caller's logits stay as they were"
