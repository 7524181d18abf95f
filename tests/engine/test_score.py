"""Choices are scored as each alone, from one reading of their prompt."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.core.errors import UserError
from malmoi.engine import Engine
from malmoi.engine import reader as reading
from malmoi.engine import score as score_module
from malmoi.engine.score import Read, batches, score, score_choices, shared_reads
from malmoi.models.build import build_model
from malmoi.models.config import TransformerConfig
from malmoi.text.tokenizer import train_tokenizer
from tests.engine.fake_scorer import FakeScorer

BYTES = train_tokenizer([], "byte")
FEW = settings(deadline=None, max_examples=25)
IDS = st.lists(st.integers(7, 9), max_size=6)  # few different ones, so that beginnings are shared


def brute_force(scorer: FakeScorer, prompt: Sequence[int], choice: Sequence[int]) -> float:
    history, total = list(prompt), 0.0
    for id in choice:
        total += float(scorer.logits(history).log_softmax(-1)[id])
        history.append(id)
    return total


@FEW
@given(
    asked=st.lists(st.tuples(IDS.filter(bool), st.lists(IDS, max_size=7)), max_size=6),
    deterministic=st.booleans(),
    limits=st.sampled_from([(1024, 1 << 26, 1 << 28), (4, BYTES.vocab_size * 3, 200)]),
)
def test_choices_score_as_by_brute_force(
    asked: list[tuple[list[int], list[list[int]]]], deterministic: bool, limits: tuple[int, int, int]
) -> None:
    scorer = FakeScorer(BYTES.vocab_size)
    engine = Engine(scorer, BYTES, max_rows=3, deterministic=deterministic)
    prompts, choices = [prompt for prompt, _ in asked], [of_prompt for _, of_prompt in asked]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "CHUNK_TOKENS", limits[0])
        patch.setattr(score_module, "LOGITS_NUMBERS", limits[1])
        patch.setattr(score_module, "STATE_BYTES", limits[2])
        found = score_choices(engine, prompts, choices)
    for (prompt, of_prompt), scores in zip(asked, found, strict=True):
        assert scores == pytest.approx([brute_force(scorer, prompt, one) for one in of_prompt], abs=1e-4)


def test_texts_are_encoded_as_score_does() -> None:
    engine = Engine(FakeScorer(BYTES.vocab_size), BYTES)
    prompts, labels = ["문장: 좋아요\n", "text: bad\n"], ["긍정", "부정", "중립", "긍정적"]
    expected = [score(engine, [prompt] * 4, labels) for prompt in prompts]
    assert score_choices(engine, prompts, [labels] * 2) == [pytest.approx(one, abs=1e-4) for one in expected]


def test_the_prompt_and_shared_beginnings_are_read_once() -> None:
    scorer = FakeScorer(BYTES.vocab_size)
    engine = Engine(scorer, BYTES)
    score_choices(engine, [[9] * 50], [[[10], [11], [12, 13, 14], [12, 13, 15], [12, 13], [20, 21]]])
    assert scorer.tokens_read == 50 + len([12, 13]) + len([20])


def test_what_several_prompts_begin_with_is_read_once() -> None:
    scorer = FakeScorer(BYTES.vocab_size)
    shots, ends = [9] * 200, [[10, 11], [10, 12, 13], [14], [14]]
    prompts = [[*shots, *end] for end in ends]
    found = score_choices(Engine(scorer, BYTES), prompts, [[[20], [21]]] * 4)
    assert scorer.tokens_read == len(shots) + sum(map(len, ends))
    alone = [score_choices(Engine(scorer, BYTES), [prompt], [[[20], [21]]])[0] for prompt in prompts]
    assert found == alone


def test_what_was_read_for_one_call_is_there_for_the_next() -> None:
    scorer = FakeScorer(BYTES.vocab_size)
    engine, shots = Engine(scorer, BYTES, prefix_bytes=1 << 20), [9] * 200
    for count in (1, 3, 1, 40):
        before = scorer.tokens_read
        score(engine, [[*shots, 10 + n] for n in range(count)], [[20]] * count)
        assert scorer.tokens_read - before == count + (len(shots) if before == 0 else 0)


@FEW
@given(
    choices=st.lists(IDS, max_size=8), least=st.sampled_from([1, 99]), numbers=st.sampled_from([1, 1 << 24])
)
def test_choices_read_in_place_score_as_copies(choices: list[list[int]], least: int, numbers: int) -> None:
    torch.manual_seed(0)
    config = TransformerConfig(vocab_size=BYTES.vocab_size, context=64, layers=2, width=16, heads=2)
    engine = Engine(build_model(config).eval(), BYTES)
    prompts = [[7], [8, 9, 7], [9] * 20]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score_module, "LEAST_IN_PLACE", least)
        patch.setattr(score_module, "LOGITS_NUMBERS", numbers)
        found = score_choices(engine, prompts, [choices] * 3)
    for prompt, scores in zip(prompts, found, strict=True):
        assert scores == pytest.approx(score(engine, [prompt] * len(choices), choices), abs=1e-4)


@FEW
@given(choices=st.lists(IDS, max_size=10))
def test_every_choice_is_read_but_for_its_last_token(choices: list[list[int]]) -> None:
    reads = shared_reads(choices, prompt=3, first_number=5)
    assert sorted(number for read in reads for number, _ in read.choices) == [
        5 + i for i in range(len(choices))
    ]
    for read in reads:
        assert read.prompt == 3
        assert all(read.ids[: len(ids[:-1])] == ids[:-1] == choices[n - 5][:-1] for n, ids in read.choices)
    for one in reads:  # none is the beginning of another
        assert not any(other.ids[: len(one.ids)] == one.ids for other in reads if other is not one)


@FEW
@given(lengths=st.lists(st.integers(0, 9), max_size=20), rows=st.integers(1, 4), tokens=st.integers(1, 20))
def test_batches_hold_what_fits(lengths: list[int], rows: int, tokens: int) -> None:
    made = list(batches([Read(0, [1] * length) for length in lengths], rows, tokens))
    assert sorted(len(read.ids) for batch in made for read in batch) == sorted(n for n in lengths if n)
    for batch in made:
        assert len(batch) <= rows
        assert len(batch) == 1 or len(batch) * max(len(read.ids) for read in batch) <= tokens


@pytest.mark.parametrize(
    ("prompts", "choices", "words"),
    [
        ([""], [["a"]], "the prompt is empty"),
        ([[9] * 3], [[[9], [9] * 5]], r"7 tokens.*context is 6"),
        ([[9]], [[[BYTES.vocab_size]]], "outside"),
    ],
)
def test_mistakes_are_one_line(prompts: list[str], choices: list[list[str]], words: str) -> None:
    with pytest.raises(UserError, match=words):
        score_choices(Engine(FakeScorer(BYTES.vocab_size, context=6), BYTES), prompts, choices)
