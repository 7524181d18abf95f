"""A prompt that begins like a text read before is read from there on, and the answer stays the same."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.engine import reader
from malmoi.engine.engine import Engine
from malmoi.engine.request import Sampling, TokenEvent
from malmoi.engine.score import score, token_logprobs
from malmoi.models.build import build_model
from malmoi.models.config import RecurrentConfig, TransformerConfig
from malmoi.text.tokenizer import Tokenizer, train_tokenizer
from tests.engine.fake_scorer import FakeScorer

BYTES = train_tokenizer([], "byte")
SYSTEM, GREEDY = [10 + i for i in range(40)], Sampling(max_tokens=6, temperature=0)
MODELS = {
    "gpt": TransformerConfig(vocab_size=BYTES.vocab_size, context=256, layers=2, width=16, heads=2),
    "lstm": RecurrentConfig(family="lstm", vocab_size=BYTES.vocab_size, layers=2, width=16),
}


def answer(engine: Engine, prompt: list[int]) -> list[TokenEvent]:
    return list(engine.stream(prompt, GREEDY))


def test_a_shared_beginning_is_read_once(scorer: FakeScorer, tokenizer: Tokenizer) -> None:
    engine = Engine(scorer, tokenizer, prefix_bytes=1 << 20)
    assert answer(engine, [*SYSTEM, 99, 98])[0].cached == 0
    before = scorer.tokens_read
    events = answer(engine, [*SYSTEM, 77, 76, 75])
    assert events[0].cached == len(SYSTEM)
    assert scorer.tokens_read - before == 3 + GREEDY.max_tokens - 1
    assert [e.id for e in events] == [e.id for e in answer(Engine(scorer, tokenizer), [*SYSTEM, 77, 76, 75])]


def test_the_next_turn_of_a_conversation_reads_only_what_is_new(
    scorer: FakeScorer, tokenizer: Tokenizer
) -> None:
    engine = Engine(scorer, tokenizer, prefix_bytes=1 << 20)
    scorer.always = {length: 100 + length for length in range(40, 60)}
    (reply,) = engine.generate([SYSTEM], Sampling(max_tokens=20, temperature=0))
    prompt = [*SYSTEM, *reply.ids, 50, 51]
    assert answer(engine, prompt)[0].cached == len(SYSTEM) + len(reply.ids) - 1


def test_the_same_prompt_again_reads_its_last_token(scorer: FakeScorer, tokenizer: Tokenizer) -> None:
    engine = Engine(scorer, tokenizer, prefix_bytes=1 << 20)
    assert [e.id for e in answer(engine, SYSTEM)] == [e.id for e in answer(engine, SYSTEM)]
    assert answer(engine, SYSTEM)[0].cached == len(SYSTEM) - 1


def test_a_recurrent_model_shares_a_beginning_from_the_third_prompt_on() -> None:
    torch.manual_seed(0)
    engine = Engine(build_model(MODELS["lstm"]).eval(), BYTES, prefix_bytes=1 << 20)
    cached = [answer(engine, [*SYSTEM, last, last])[0].cached for last in (60, 61, 62, 63)]
    assert cached == [0, len(SYSTEM), len(SYSTEM), len(SYSTEM)]


@pytest.mark.parametrize("name", MODELS)
@settings(deadline=None, max_examples=15)
@given(
    prompts=st.lists(
        st.tuples(st.integers(0, 40), st.lists(st.integers(7, 200), min_size=1, max_size=30)),
        min_size=1, max_size=6,
    ),
    most_bytes=st.sampled_from([0, 3_000, 20_000, 1 << 20]),
)  # fmt: skip
def test_answers_are_those_without_a_cache(
    name: str, prompts: list[tuple[int, list[int]]], most_bytes: int
) -> None:
    torch.manual_seed(1)
    model = build_model(MODELS[name]).eval()
    engine, plain = Engine(model, BYTES, prefix_bytes=most_bytes), Engine(model, BYTES)
    for shared, rest in prompts:
        prompt = [*SYSTEM[:shared], *rest]
        found, wanted = answer(engine, prompt), answer(plain, prompt)
        assert [event.id for event in found] == [event.id for event in wanted]
        torch.testing.assert_close(
            torch.tensor([event.logprob for event in found]),
            torch.tensor([event.logprob for event in wanted]), rtol=1e-4, atol=1e-4,
        )  # fmt: skip
        assert engine.state_bytes <= most_bytes


def test_requests_of_one_step_with_and_without_a_known_beginning() -> None:
    torch.manual_seed(2)
    model = build_model(MODELS["gpt"]).eval()
    engine, plain = Engine(model, BYTES, prefix_bytes=1 << 20), Engine(model, BYTES)
    answer(engine, [*SYSTEM, 99])
    prompts = [[*SYSTEM, 30, 31], [200, 201], [*SYSTEM[:20], 5]]
    found, wanted = engine.generate(prompts, GREEDY), plain.generate(prompts, GREEDY)
    assert [one.ids for one in found] == [one.ids for one in wanted]


@pytest.mark.parametrize("name", MODELS)
@settings(deadline=None, max_examples=15)
@given(
    prompts=st.lists(
        st.tuples(
            st.integers(0, 40), st.integers(0, 30), st.lists(st.integers(7, 9), min_size=1, max_size=5)
        ),
        min_size=1, max_size=9,
    ),
    most_bytes=st.sampled_from([0, 20_000]),
)  # fmt: skip
def test_prompts_that_begin_alike_are_answered_as_each_alone(
    name: str, prompts: list[tuple[int, int, list[int]]], most_bytes: int
) -> None:
    torch.manual_seed(4)
    model = build_model(MODELS[name]).eval()
    texts = [[*SYSTEM[:first], *SYSTEM[:second], *rest] for first, second, rest in prompts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "LEAST_SAVED", 1)
        found = Engine(model, BYTES, prefix_bytes=most_bytes, max_rows=4).generate(texts, GREEDY)
    for one, text in zip(found, texts, strict=True):
        (alone,) = Engine(model, BYTES).generate([text], GREEDY)
        assert one.ids == alone.ids
        assert one.logprobs == pytest.approx(alone.logprobs, abs=1e-4)


def test_what_requests_begin_with_is_read_once(scorer: FakeScorer, tokenizer: Tokenizer) -> None:
    prompts, greedy = [[*SYSTEM, *SYSTEM, n] for n in (60, 61, 62)], Sampling(max_tokens=1, temperature=0)
    Engine(scorer, tokenizer).generate(prompts, greedy)
    assert scorer.tokens_read == 2 * len(SYSTEM) + 3


def test_deterministic_keeps_nothing(scorer: FakeScorer, tokenizer: Tokenizer) -> None:
    engine = Engine(scorer, tokenizer, deterministic=True, prefix_bytes=1 << 20)
    answer(engine, SYSTEM)
    assert answer(engine, SYSTEM)[0].cached == 0


def test_token_logprobs_equal_the_scores(tokenizer: Tokenizer) -> None:
    torch.manual_seed(3)
    engine = Engine(build_model(MODELS["gpt"]).eval(), tokenizer)
    found = token_logprobs(engine, SYSTEM, top=2)
    assert len(found) == len(SYSTEM) - 1
    assert sum(own for own, _ in found) == pytest.approx(
        score(engine, [SYSTEM[:1]], [SYSTEM[1:]])[0], abs=1e-4
    )
    assert all(len(top) == 2 and top[0][1] >= max(own, top[1][1]) - 1e-6 for own, top in found)
    assert token_logprobs(engine, [5]) == []
