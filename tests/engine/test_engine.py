from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from malmoi.core.errors import UserError
from malmoi.engine import Completion, Engine, Sampling, TokenEvent
from malmoi.engine import reader as reading
from malmoi.engine import score as score_module
from malmoi.engine.score import score
from malmoi.text.tokenizer import Tokenizer, train_tokenizer
from tests.engine.fake_scorer import FakeScorer
from tests.inside.tiny import tiny_model

BYTES = train_tokenizer([], "byte")
GREEDY = Sampling(temperature=0, max_tokens=5)
REQUESTS = st.lists(
    st.tuples(
        st.lists(st.integers(7, BYTES.vocab_size - 1), min_size=1, max_size=9),
        st.builds(
            Sampling,
            max_tokens=st.integers(1, 6),
            temperature=st.sampled_from([0.0, 0.7, 1.5]),
            top_k=st.sampled_from([0, 5]),
            top_p=st.sampled_from([0.6, 1.0]),
            repetition_penalty=st.sampled_from([1.0, 1.3]),
            seed=st.integers(0, 3),
            n=st.integers(1, 2),
            logprobs=st.integers(0, 2),
        ),
        st.integers(0, 4),  # submitted before this step
    ),
    min_size=1,
    max_size=5,
)


def run(engine: Engine) -> list[TokenEvent]:
    events: list[TokenEvent] = []
    while engine.busy:
        events += engine.step()
    return events


def ids_of(events: Sequence[TokenEvent], request: int) -> list[list[TokenEvent]]:
    """The events of each sample, with the request's number taken out."""
    mine = [replace(event, request=0) for event in events if event.request == request]
    return [[e for e in mine if e.index == i] for i in range(1 + max(e.index for e in mine))]


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(requests=REQUESTS, max_rows=st.integers(2, 5), deterministic=st.booleans())
def test_any_interleaving_gives_the_same_answers_as_alone(
    requests: list[tuple[list[int], Sampling, int]], max_rows: int, deterministic: bool
) -> None:
    scorer = FakeScorer(BYTES.vocab_size, context=12)
    engine = Engine(scorer, BYTES, max_rows=max_rows, deterministic=deterministic)
    events: list[TokenEvent] = []
    numbers: dict[int, int] = {}
    for now in range(5):
        for i, (ids, params, when) in enumerate(requests):
            if when == now:
                numbers[i] = engine.submit(ids, params)
        events += engine.step()
    events += run(engine)
    for i, (ids, params, _) in enumerate(requests):
        alone = Engine(FakeScorer(BYTES.vocab_size, context=12), BYTES)
        number = alone.submit(ids, params)
        assert ids_of(events, numbers[i]) == ids_of(run(alone), number)
    assert all(shape[0] <= (1 if deterministic else max_rows) for shape in scorer.shapes)


def test_greedy_takes_the_best_token_and_reports_its_own_logprobs(
    scorer: FakeScorer, tokenizer: Tokenizer
) -> None:
    params = replace(GREEDY, logprobs=3, repetition_penalty=1.5)
    (answer,) = Engine(scorer, tokenizer).generate([[20, 30]], params)
    history = [20, 30]
    for id, logprob, top in zip(answer.ids, answer.logprobs, answer.top_logprobs, strict=True):
        logprobs = scorer.logits(history).log_softmax(-1)
        assert logprob == pytest.approx(float(logprobs[id]), abs=1e-5)
        assert [i for i, _ in top] == logprobs.topk(3).indices.tolist()
        history.append(id)
    assert len(answer.ids) == 5
    assert answer.prompt_tokens == 2
    assert answer.finish_reason == "length"


def test_a_text_prompt_starts_as_a_document_does(scorer: FakeScorer, tokenizer: Tokenizer) -> None:
    engine = Engine(scorer, tokenizer)
    eos = tokenizer.specials.eos
    assert engine.encode_prompt("말") == [eos, *tokenizer.encode("말")]
    by_text, by_ids = (
        engine.generate(["말"], GREEDY),
        engine.generate([[eos, *tokenizer.encode("말")]], GREEDY),
    )
    assert by_text == by_ids


def test_n_samples_share_one_reading_of_the_prompt(scorer: FakeScorer, tokenizer: Tokenizer) -> None:
    engine = Engine(scorer, tokenizer)
    answers = engine.generate([list(range(50, 80))], Sampling(n=4, max_tokens=3, seed=1))
    assert scorer.tokens_read == 30 + sum(len(answer.ids) - 1 for answer in answers)
    assert len({answer.ids for answer in answers}) == 4


def test_the_seed_decides(scorer: FakeScorer, tokenizer: Tokenizer) -> None:
    engine = Engine(scorer, tokenizer)

    def ids(seed: int | None) -> tuple[int, ...]:
        return engine.generate([[9]], Sampling(seed=seed, max_tokens=8))[0].ids

    assert ids(1) == ids(1)
    assert len({ids(1), ids(2), ids(None), ids(None)}) == 4


def spell(scorer: FakeScorer, prompt_length: int, ids: Sequence[int]) -> None:
    scorer.always = {prompt_length + i: id for i, id in enumerate(ids)}


@pytest.mark.parametrize("special", ["eos", "<|end|>", "<|user|>"])
def test_a_special_ends_the_answer(scorer: FakeScorer, tokenizer: Tokenizer, special: str) -> None:
    id = tokenizer.specials.eos if special == "eos" else tokenizer.specials.turns[special]
    spell(scorer, 1, [*tokenizer.encode("끝."), id])
    (answer,) = Engine(scorer, tokenizer).generate([[9]], Sampling(max_tokens=50))
    assert (answer.text, answer.finish_reason, answer.ids[-1]) == ("끝.", "stop", id)


def test_a_stop_string_is_never_shown_and_text_comes_in_whole_characters(
    scorer: FakeScorer, tokenizer: Tokenizer
) -> None:
    spell(scorer, 1, tokenizer.encode("말모이 말문 끝"))
    events = list(Engine(scorer, tokenizer).stream([9], Sampling(max_tokens=50, stop=(" 말뭉", "문 끝"))))
    assert "".join(event.text for event in events) == "말모이 말"
    assert [event.text for event in events[:6]] == ["", "", "말", "", "", "모"]
    assert [event.finished for event in events] == [None] * (len(events) - 1) + ["stop"]


def test_what_was_held_back_comes_when_the_length_ends_the_text(
    scorer: FakeScorer, tokenizer: Tokenizer
) -> None:
    spell(scorer, 1, tokenizer.encode("abc"))
    (answer,) = Engine(scorer, tokenizer).generate([[9]], Sampling(max_tokens=3, stop=("bcd",)))
    assert (answer.text, answer.finish_reason) == ("abc", "length")


def test_a_prompt_may_end_inside_a_character(scorer: FakeScorer, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("말")
    spell(scorer, 1, ids[1:])
    (answer,) = Engine(scorer, tokenizer).generate([ids[:1]], Sampling(max_tokens=2))
    assert answer.text == "말"


def test_the_context_is_the_limit(tokenizer: Tokenizer) -> None:
    scorer = FakeScorer(tokenizer.vocab_size, context=6)
    scorer.always = dict.fromkeys(range(7), 100)
    (answer,) = Engine(scorer, tokenizer).generate([[9, 9, 9]], Sampling())
    assert (len(answer.ids), answer.finish_reason) == (4, "length")
    (answer,) = Engine(scorer, tokenizer).generate([[9] * 6], Sampling())
    assert len(answer.ids) == 1
    with pytest.raises(UserError, match=r"7 tokens.*context is 6; shorten the prompt by 1"):
        Engine(scorer, tokenizer).submit([9] * 7, Sampling())


def test_user_mistakes_are_one_line(scorer: FakeScorer, tokenizer: Tokenizer) -> None:
    engine = Engine(scorer, tokenizer, max_rows=2)
    for prompt in ("", []):
        with pytest.raises(UserError, match="the prompt is empty"):
            engine.stream(prompt)
        with pytest.raises(UserError, match="the prompt is empty"):
            score(engine, [prompt], ["a"])
    with pytest.raises(UserError, match="n is 3"):
        engine.submit([9], Sampling(n=3))
    with pytest.raises(UserError, match=r"outside 0\.\.262"):
        engine.submit([263], Sampling())
    with pytest.raises(UserError, match="max_rows is 0"):
        Engine(scorer, tokenizer, max_rows=0)
    with pytest.raises(UserError, match="the prompt is empty"):
        engine.generate(["a good one", ""])
    assert not engine.busy


def test_cancel_ends_running_and_waiting_requests_only(scorer: FakeScorer, tokenizer: Tokenizer) -> None:
    scorer.always = dict.fromkeys(range(99), 100)
    engine = Engine(scorer, tokenizer, max_rows=3)
    running, other = engine.submit([9], Sampling(n=2)), engine.submit([8], replace(GREEDY, max_tokens=4))
    waiting = engine.submit([7], Sampling(n=2))
    engine.step()
    engine.cancel(running)
    engine.cancel(waiting)
    events = run(engine)
    for request in (running, waiting):
        ended = [(e.index, e.id, e.finished) for e in events if e.request == request]
        assert ended == [(0, None, "cancelled"), (1, None, "cancelled")]
    assert [e.finished for e in events if e.request == other] == [None, None, "length"]
    engine.cancel(other)
    engine.cancel(12345)
    assert not engine.busy


def test_a_closed_stream_frees_its_rows(scorer: FakeScorer, tokenizer: Tokenizer) -> None:
    scorer.always = dict.fromkeys(range(999), 100)
    engine = Engine(scorer, tokenizer, max_rows=1)
    stream = engine.stream([9], Sampling(max_tokens=500))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert len(engine.generate([[8]], GREEDY)[0].ids) == 5
    assert not engine.busy


def test_streams_may_interleave(scorer: FakeScorer, tokenizer: Tokenizer) -> None:
    engine = Engine(scorer, tokenizer)
    first, second = engine.stream([9], GREEDY), engine.stream([8], GREEDY)
    pairs = list(zip(first, second, strict=True))
    for events, prompt in zip(zip(*pairs, strict=True), ([9], [8]), strict=True):
        assert Completion.of(events, 1) == Engine(scorer, tokenizer).generate([prompt], GREEDY)[0]


def test_a_long_prompt_is_read_in_pieces(
    scorer: FakeScorer, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [[9] * 23, [8] * 3, [7] * 8, [6] * 9]
    expected = Engine(scorer, tokenizer).generate(prompts, GREEDY)
    monkeypatch.setattr(reading, "CHUNK_TOKENS", 8)
    scorer.shapes.clear()
    assert Engine(scorer, tokenizer).generate(prompts, GREEDY) == expected
    assert scorer.shapes[:6] == [(2, 8), (1, 8), (1, 1), (1, 8), (1, 8), (1, 7)]


def test_ids_beyond_the_tokenizer_are_never_sampled(tokenizer: Tokenizer) -> None:
    scorer = FakeScorer(tokenizer.vocab_size + 10)
    scorer.always = dict.fromkeys(range(20), tokenizer.vocab_size + 3)
    (answer,) = Engine(scorer, tokenizer).generate([[9]], GREEDY)
    assert max(answer.ids) < tokenizer.vocab_size


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize(("chunk", "numbers"), [(1024, 1 << 26), (4, 263 * 5)])
def test_score_equals_brute_force(
    scorer: FakeScorer,
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
    deterministic: bool,
    chunk: int,
    numbers: int,
) -> None:
    monkeypatch.setattr(reading, "CHUNK_TOKENS", chunk)
    monkeypatch.setattr(score_module, "LOGITS_NUMBERS", numbers)
    engine = Engine(scorer, tokenizer, max_rows=3, deterministic=deterministic)
    prompts = ["a", "말모이", [9, 10], "zz", [40] * 13]
    continuations = ["", " 사전", [20], "a longer continuation", "b"]
    expected = []
    for prompt, continuation in zip(prompts, continuations, strict=True):
        history = engine.encode_prompt(prompt) if isinstance(prompt, str) else list(prompt)
        rest = tokenizer.encode(continuation) if isinstance(continuation, str) else continuation
        total = 0.0
        for id in rest:
            total += float(scorer.logits(history).log_softmax(-1)[id])
            history.append(id)
        expected.append(total)
    assert score(engine, prompts, continuations) == pytest.approx(expected, abs=1e-4)


def test_score_says_which_input_is_too_long(tokenizer: Tokenizer) -> None:
    engine = Engine(FakeScorer(tokenizer.vocab_size, context=6), tokenizer)
    assert len(score(engine, [[9] * 3], [[9] * 4])) == 1
    with pytest.raises(UserError, match=r"7 tokens.*context is 6"):
        score(engine, [[9] * 3], [[9] * 5])


def test_nothing_keeps_gradients(scorer: FakeScorer, tokenizer: Tokenizer) -> None:
    assert torch.is_grad_enabled()
    Engine(scorer, tokenizer).generate([[9]], GREEDY)
    assert torch.is_grad_enabled()


def test_groups_take_turns() -> None:
    engine = Engine(FakeScorer(BYTES.vocab_size), BYTES, max_rows=1)
    one = Sampling(temperature=0, max_tokens=1)
    big = [engine.submit([9, i], one, "big") for i in range(10, 13)]
    small, alone = engine.submit([9], one, "small"), engine.submit([8], one)
    engine.cancel(big[2])
    order: list[int] = []
    while engine.busy:
        order += [event.request for event in engine.step() if event.finished == "length"]
    assert order == [big[0], small, alone, big[1]]


def test_no_more_samples_run_than_memory_has_room_for() -> None:
    model = tiny_model("llama", BYTES)
    row_bytes = model.new_state(1, 18 + 7).nbytes
    prompts = [[9, 8, 7 + n] * 6 for n in range(6)] + [[9] * 40]
    params = Sampling(max_tokens=7, temperature=0)
    narrow = Engine(model, BYTES, most_state_bytes=3 * row_bytes, lookup=False)
    numbers = [narrow.submit(ids, params) for ids in prompts]
    events, running = list[TokenEvent](), set[int]()
    while narrow.busy:
        events += narrow.step()
        running.add(narrow.num_running)
    assert max(running) == 3
    found = [tuple(event.id for event in ids_of(events, number)[0]) for number in numbers]
    whole = Engine(model, BYTES, lookup=False).generate(prompts, params)
    assert found == [completion.ids for completion in whole]  # the last, longer than all that fits, alone
