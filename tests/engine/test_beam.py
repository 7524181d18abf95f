"""Beam search against brute force over every continuation."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.engine.beam import beam_search
from tests.engine.fake_scorer import FakeScorer, Histories

FIRST, END = 3, 0
prompts_of_rows = st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=1, max_size=3)


def search(scorer: FakeScorer, prompts: Sequence[Sequence[int]], beams: int, most: int, **options):
    state = Histories([list(prompt) for prompt in prompts])
    return beam_search(scorer, state, FIRST, END, beams, [most] * len(prompts), **options)


def logp(scorer: FakeScorer, prompt: Sequence[int], ids: Sequence[int]) -> float:
    history, total = [*prompt, FIRST], 0.0
    for id in ids:
        total += float(scorer.logits(history).log_softmax(-1)[id])
        history.append(id)
    return total


def brute_force(scorer: FakeScorer, prompt: Sequence[int], most: int, penalty: float) -> list[int]:
    """The best of all rows that end, or that are as long as can be."""
    tokens = [id for id in range(scorer.vocab_size) if id != END]
    ended = [[*ids, END] for n in range(most) for ids in itertools.product(tokens, repeat=n)]
    endless = [list(ids) for ids in itertools.product(tokens, repeat=most)]

    def score(ids: Sequence[int]) -> float:
        return logp(scorer, prompt, ids) / ((5 + len(ids)) / 6) ** penalty

    best = max(ended + endless, key=score)
    return [id for id in best if id != END]


@settings(deadline=None, max_examples=15)
@given(prompts=prompts_of_rows, penalty=st.sampled_from([0.0, 0.6, 1.0]), most=st.integers(1, 4))
def test_with_enough_beams_the_best_continuation_is_found(
    prompts: list[list[int]], penalty: float, most: int
) -> None:
    scorer = FakeScorer(4)
    found = search(scorer, prompts, 4**4, most, length_penalty=penalty)
    assert found == [brute_force(scorer, prompt, most, penalty) for prompt in prompts]


@settings(deadline=None, max_examples=15)
@given(prompts=prompts_of_rows, penalty=st.sampled_from([0.0, 1.0]))
def test_one_beam_is_greedy(prompts: list[list[int]], penalty: float) -> None:
    scorer = FakeScorer(6)
    for prompt, found in zip(prompts, search(scorer, prompts, 1, 8, length_penalty=penalty), strict=True):
        expected, history = [], [*prompt, FIRST]
        while len(expected) < 8 and (id := int(scorer.logits(history).argmax())) != END:
            expected.append(id)
            history.append(id)
        assert found == expected


@pytest.mark.parametrize("beams", [1, 2, 5])
def test_rows_do_not_change_each_other(beams: int) -> None:
    prompts, most = [[1], [2, 2], [], [4, 1, 1], [5]], [6, 1, 9, 0, 4]
    scorer = FakeScorer(7)
    together = beam_search(scorer, Histories([list(p) for p in prompts]), FIRST, END, beams, most)
    for prompt, length, found in zip(prompts, most, together, strict=True):
        assert beam_search(scorer, Histories([list(prompt)]), FIRST, END, beams, [length]) == [found]
        assert len(found) <= length


def test_a_finished_row_leaves_the_batch_and_one_step_serves_all() -> None:
    scorer = FakeScorer(7)
    scorer.always = {2: END}  # a row that begins with one token ends at once
    search(scorer, [[1], [1, 1]], 2, 3)
    assert scorer.shapes == [(2, 1), (2, 1), (2, 1)]  # two rows; then the two beams of the longer one


@pytest.mark.parametrize("beams", [1, 2, 4])
def test_a_certain_answer_is_not_given_up_for_unlikely_short_ones(beams: int) -> None:
    scorer = FakeScorer(7)
    certain = [5, 4, 6, 2, 3, 1, 5]
    scorer.always = dict(
        enumerate([*certain, END], start=2)
    )  # lengths: the prompt and the first token before
    assert search(scorer, [[1]], beams, 20) == [certain]


def test_forbidden_tokens_are_never_said() -> None:
    scorer = FakeScorer(6)
    (found,) = search(scorer, [[1]], 3, 20, forbid=[1, 2, END])
    assert len(found) == 20
    assert set(found) <= {3, 4, 5}


@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_run_of_tokens_occurs_twice(size: int) -> None:
    class Parrot(FakeScorer):
        def logits(self, history: Sequence[int]):
            favourite = super().logits([history[-1] % 2])
            favourite[END] = -9.0
            return favourite

    scorer = Parrot(5)
    most = 4 if size == 1 else 10
    (plain,), (found,) = (search(scorer, [[1]], 2, most, no_repeat=n) for n in (0, size))

    def repeats(ids: Sequence[int]) -> bool:
        runs = [tuple(ids[i : i + size]) for i in range(len(ids) - size + 1)]
        return len(runs) > len(set(runs))

    assert repeats(plain)
    assert not repeats(found)
