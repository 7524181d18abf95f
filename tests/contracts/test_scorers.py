"""What the engine may rely on, checked for every registered kind of model.

Shape letters: B rows, T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from malmoi.core.errors import UserError
from malmoi.engine import Engine, Sampling
from malmoi.engine.score import score, score_choices
from malmoi.models.build import build_model
from malmoi.models.state import Scorer
from malmoi.text.tokenizer import train_tokenizer
from tests.models.variants import NEURAL, RECURRENTS, TRANSFORMERS, make_ngram

TOKENIZER = train_tokenizer([], "byte")  # 256 bytes and the specials
VOCAB = TOKENIZER.vocab_size
GREEDY = Sampling(temperature=0, max_tokens=12)
FIXED = settings(deadline=None, max_examples=10, suppress_health_check=list(HealthCheck))


def neural(name: str) -> Scorer:
    torch.manual_seed(1)
    model = build_model(NEURAL[name].model_copy(update={"vocab_size": VOCAB})).eval()
    with torch.no_grad():  # larger weights, so that answers are not one token again and again
        for parameter in model.parameters():
            parameter.mul_(4.0 if name in TRANSFORMERS else 1.5)
    return model


SCORERS: dict[str, Scorer] = {name: neural(name) for name in NEURAL}
SCORERS |= {f"ngram-{order}": make_ngram(VOCAB, order) for order in (1, 3, 5)}
every_scorer = pytest.mark.parametrize("name", SCORERS)


def ids(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(7, VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def read(scorer: Scorer, row: Sequence[int] | Tensor) -> Tensor:
    """logits_TV of one row, alone, in one step."""
    ids_1T = torch.as_tensor(row)[None]
    return scorer.step(ids_1T, torch.tensor([ids_1T.shape[1]]), scorer.new_state(1))[0]


def near(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


# --- states


@every_scorer
@FIXED
@given(steps=st.lists(st.lists(st.integers(1, 6), min_size=3, max_size=3), min_size=1, max_size=5))
def test_a_ragged_batch_equals_each_row_alone(name: str, steps: list[list[int]]) -> None:
    scorer, ids_BT = SCORERS[name], ids(3, 30)
    alone = [read(scorer, row_T) for row_T in ids_BT]
    state = scorer.new_state(3, 30)
    for counts in steps:
        starts = state.lengths_B.tolist()
        step_BT = torch.zeros(3, max(counts), dtype=torch.int64)
        for b, count in enumerate(counts):
            step_BT[b, :count] = ids_BT[b, starts[b] : starts[b] + count]
        only_last_B1V = scorer.step(step_BT, torch.tensor(counts), state.snapshot(), last_only=True)
        logits_BTV = scorer.step(step_BT, torch.tensor(counts), state)
        assert logits_BTV.dtype == torch.float32
        assert only_last_B1V.shape == (3, 1, VOCAB)
        for b, count in enumerate(counts):
            near(logits_BTV[b, :count], alone[b][starts[b] : starts[b] + count])
            near(only_last_B1V[b, 0], logits_BTV[b, count - 1])


@every_scorer
def test_log_probabilities_sum_to_one(name: str) -> None:
    logits_TV = read(SCORERS[name], ids(20))
    assert torch.isfinite(logits_TV).all()
    totals_T = logits_TV.double().log_softmax(-1).exp().sum(-1)
    torch.testing.assert_close(totals_T, torch.ones(20, dtype=torch.float64))
    if name.startswith("ngram"):  # its logits are log-probabilities already
        near(logits_TV.double().logsumexp(-1), torch.zeros(20, dtype=torch.float64))


@every_scorer
@FIXED
@given(rows=st.lists(st.integers(0, 2), min_size=1, max_size=5))
def test_select_takes_rows_in_any_order_and_number(name: str, rows: list[int]) -> None:
    scorer, ids_BT = SCORERS[name], ids(3, 9)
    state = scorer.new_state(3, 9)
    scorer.step(ids_BT, torch.tensor([9, 4, 1]), state)
    chosen = state.select(rows)
    lengths = [[9, 4, 1][b] for b in rows]
    assert chosen.lengths_B.tolist() == lengths
    next_B1 = ids(len(rows), 1, seed=2)  # repeated rows part ways here
    logits_B1V = scorer.step(next_B1, torch.ones(len(rows), dtype=torch.int64), chosen)
    for b, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        near(logits_B1V[b, 0], read(scorer, torch.cat((ids_BT[row, :length], next_B1[b])))[-1])
    assert state.lengths_B.tolist() == [9, 4, 1]


@every_scorer
def test_join_puts_rows_side_by_side(name: str) -> None:
    scorer, prompts = SCORERS[name], [ids(2, 5), ids(1, 11, seed=3), ids(3, 2, seed=4)]
    states = [scorer.new_state(rows, capacity) for rows, capacity in ((2, 5), (1, 40), (3, 0))]
    for prompt_BT, state in zip(prompts, states, strict=True):
        scorer.step(prompt_BT, torch.full((len(prompt_BT),), prompt_BT.shape[1]), state)
    joined = states[0].join(states[1:])
    next_B1 = ids(6, 1, seed=5)
    logits_B1V = scorer.step(next_B1, torch.ones(6, dtype=torch.int64), joined)
    for b, row_T in enumerate(row_T for prompt_BT in prompts for row_T in prompt_BT):
        near(logits_B1V[b, 0], read(scorer, torch.cat((row_T, next_B1[b])))[-1])


@every_scorer
def test_rows_leave_and_join_in_place(name: str) -> None:
    scorer, ids_BT = SCORERS[name], ids(4, 9)
    state = scorer.new_state(4, 9)
    scorer.step(ids_BT, torch.tensor([9, 4, 1, 6]), state)
    state.keep([0, 3])  # row 3 takes the place of row 1
    late = scorer.new_state(2)
    scorer.step(ids(2, 20, seed=3), torch.tensor([20, 2]), late)
    state = state.join([late])
    histories = [ids_BT[0], ids_BT[3, :6], ids(2, 20, seed=3)[0], ids(2, 20, seed=3)[1, :2]]
    assert state.lengths_B.tolist() == [9, 6, 20, 2]
    next_B1 = ids(4, 1, seed=5)
    logits_B1V = scorer.step(next_B1, torch.ones(4, dtype=torch.int64), state)
    for b, history in enumerate(histories):
        near(logits_B1V[b, 0], read(scorer, torch.cat((history, next_B1[b])))[-1])


@every_scorer
def test_a_state_made_in_inference_mode_works_outside_of_it(name: str) -> None:
    scorer, ids_BT = SCORERS[name], ids(4, 9)
    with torch.inference_mode():
        states = [scorer.new_state(4), scorer.new_state(1)]
        scorer.step(ids_BT, torch.tensor([9, 4, 1, 6]), states[0])
        scorer.step(ids(1, 20, seed=3), torch.tensor([20]), states[1])
    state, late = states
    kept, row = state.snapshot(), state.prefix(3, 6)
    state.keep([0, 3])
    state = state.join([late])
    scorer.step(ids(3, 1, seed=5), torch.ones(3, dtype=torch.int64), state)
    state = state.select([2, 1])
    state.keep([1])
    assert state.lengths_B.tolist() == [7]
    assert row is not None
    assert row.lengths_B.tolist() == [6]
    history = torch.cat((ids_BT[3, :6], ids(3, 1, seed=5)[1], torch.tensor([9])))
    logits_1TV = scorer.step(history[-1:][None], torch.tensor([1]), state)
    near(logits_1TV[0, -1], read(scorer, history)[-1])
    assert kept.lengths_B.tolist() == [9, 4, 1, 6]


@every_scorer
def test_a_prefix_is_a_row_as_it_was(name: str) -> None:
    scorer, ids_BT = SCORERS[name], ids(2, 12)
    state = scorer.new_state(2)
    scorer.step(ids_BT, torch.tensor([12, 7]), state)
    whole, part = state.prefix(0, 12), state.prefix(0, 5)
    assert whole is not None
    assert (part is None) == (name not in TRANSFORMERS), "only a cache can be cut"
    scorer.step(ids(2, 3, seed=1), torch.tensor([3, 3]), state)  # changes neither
    for copy, length in ((whole, 12), (part, 5)):
        if copy is not None:
            assert copy.lengths_B.tolist() == [length]
            logits_1TV = scorer.step(ids(1, 2, seed=2), torch.tensor([2]), copy)
            near(logits_1TV[0], read(scorer, torch.cat((ids_BT[0, :length], ids(1, 2, seed=2)[0])))[-2:])


@every_scorer
def test_a_snapshot_is_not_changed_by_later_steps(name: str) -> None:
    scorer, one = SCORERS[name], torch.ones(2, dtype=torch.int64)
    state = scorer.new_state(2, 12)
    scorer.step(ids(2, 5), 5 * one, state)
    kept, selected = state.snapshot(), state.select([0, 1])
    expected = scorer.step(ids(2, 3, seed=1), 3 * one, state.snapshot())
    scorer.step(ids(2, 4, seed=2), 4 * one, state)
    for copy in (kept, selected):
        assert copy.lengths_B.tolist() == [5, 5]
        assert torch.equal(scorer.step(ids(2, 3, seed=1), 3 * one, copy), expected)


@every_scorer
def test_only_a_cache_grows(name: str) -> None:
    scorer = SCORERS[name]
    state = scorer.new_state(2)
    scorer.step(ids(2, 1), torch.tensor([1, 1]), state)
    early = state.nbytes
    for seed in range(2):
        scorer.step(ids(2, 40, seed=seed), torch.tensor([40, 40]), state)
    if name in TRANSFORMERS:
        config = TRANSFORMERS[name]
        least = 81 * 2 * 2 * config.layers * config.num_kv_heads * config.size_of_head * 4
        assert least <= state.nbytes < 4 * least
        assert early < state.nbytes
    else:
        assert early == state.nbytes
        assert 0 < early <= 2 * 2 * 2 * 24 * 4


# --- the engine over them

PROMPTS = [list(map(int, ids(n, seed=n))) for n in (1, 7, 7, 20, 3)]


@every_scorer
@pytest.mark.parametrize("deterministic", [False, True])
def test_greedy_answers_do_not_depend_on_the_batch(name: str, deterministic: bool) -> None:
    def generate(prompts: Sequence[Sequence[int]], max_rows: int = 16):
        engine = Engine(SCORERS[name], TOKENIZER, max_rows=max_rows, deterministic=deterministic)
        return engine.generate(prompts, replace(GREEDY, logprobs=2))

    alone = [generate([prompt])[0] for prompt in PROMPTS]
    for prompts, max_rows in ((PROMPTS, 16), (PROMPTS[::-1], 2), (PROMPTS[1:4], 3)):
        for prompt, answer in zip(prompts, generate(prompts, max_rows), strict=True):
            expected = alone[PROMPTS.index(prompt)]
            if deterministic:
                assert answer == expected  # log-probabilities to the last bit
            else:
                same_up_to_ties(answer.ids, expected.ids, expected.top_logprobs)


def same_up_to_ties(
    found: Sequence[int], expected: Sequence[int], tops: Sequence[Sequence[tuple[int, float]]]
) -> None:
    """The promise: equal wherever the two best logits differ by more than 1e-4."""
    for one, other, ((_, best), (_, second)) in zip(found, expected, tops, strict=False):
        if one != other:
            assert best - second <= 1e-4
            return
    assert len(found) == len(expected)


@every_scorer
def test_seeds_belong_to_requests(name: str) -> None:
    engine = Engine(SCORERS[name], TOKENIZER, deterministic=True)
    params = Sampling(max_tokens=8, temperature=1.5, seed=7, n=2)
    alone = [engine.generate([prompt], params) for prompt in PROMPTS]
    assert engine.generate(PROMPTS, params) == [answer for answers in alone for answer in answers]
    assert engine.generate(PROMPTS[2:4], params) == [*alone[2], *alone[3]]
    different = [engine.generate([PROMPTS[3]], replace(params, seed=seed, n=1))[0].ids for seed in range(5)]
    assert len(set(different)) > 1


@every_scorer
def test_scores_are_sums_of_log_probabilities(name: str) -> None:
    scorer, engine = SCORERS[name], Engine(SCORERS[name], TOKENIZER, max_rows=2)
    continuations = [list(map(int, ids(n, seed=90 + n))) for n in (3, 0, 9, 1, 5)]
    expected = []
    for prompt, rest in zip(PROMPTS, continuations, strict=True):
        logprobs_TV = read(scorer, prompt + rest).double().log_softmax(-1)
        expected.append(sum(float(logprobs_TV[len(prompt) - 1 + i, id]) for i, id in enumerate(rest)))
    assert score(engine, PROMPTS, continuations) == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert score(engine, PROMPTS[2:3], continuations[2:3]) == pytest.approx(expected[2:3], rel=1e-4)


@every_scorer
def test_choices_that_share_a_prompt_score_as_alone(name: str) -> None:
    scorer, engine = SCORERS[name], Engine(SCORERS[name], TOKENIZER, max_rows=2)
    labels = ["긍정", "긍정적", "부정", "a", "ab", ""]
    choices = [[TOKENIZER.encode(label) for label in labels], [[9], [9, 10], [9, 10, 11]], [], [[8]]]
    found = score_choices(engine, PROMPTS[:4], choices)
    for prompt, of_prompt, scores in zip(PROMPTS, choices, found, strict=False):
        for rest, nats in zip(of_prompt, scores, strict=True):
            logprobs_TV = read(scorer, prompt + rest).double().log_softmax(-1)
            total = sum(float(logprobs_TV[len(prompt) - 1 + i, id]) for i, id in enumerate(rest))
            assert nats == pytest.approx(total, rel=1e-4, abs=1e-4)


@every_scorer
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda engine: engine.generate([""]), "the prompt is empty"),
        (lambda engine: engine.generate([[]]), "the prompt is empty"),
        (lambda engine: score(engine, [""], ["a"]), "the prompt is empty"),
        (lambda engine: engine.generate(["말"], Sampling(temperature=-1)), "temperature is -1"),
        (lambda engine: engine.generate([[VOCAB]]), "outside"),
        (lambda engine: engine.generate([[-1]]), "outside"),
        (lambda engine: score(engine, [[9]], [[VOCAB]]), "outside"),
        (lambda engine: engine.generate(["\ud800"]), "half a character"),
    ],
)
def test_mistakes_are_one_line(name: str, call: Callable[[Engine], object], words: str) -> None:
    engine = Engine(SCORERS[name], TOKENIZER)
    with pytest.raises(UserError, match=words) as error:
        call(engine)
    assert "\n" not in str(error.value)
    assert not engine.busy


@every_scorer
def test_the_context_is_the_only_limit(name: str) -> None:
    scorer, engine = SCORERS[name], Engine(SCORERS[name], TOKENIZER)
    long = [9] * 60
    assert (scorer.context is None) == (name in RECURRENTS or name.startswith("ngram"))
    if scorer.context is None:
        assert len(engine.generate([long], replace(GREEDY, max_tokens=1))[0].ids) == 1
        return
    with pytest.raises(UserError, match=r"60 tokens.*context is 48.*by 12 tokens"):
        engine.generate([long], GREEDY)
    (answer,) = engine.generate([long[:40]], replace(GREEDY, max_tokens=100))
    assert len(answer.ids) <= 9
