"""Guesses change how fast an answer comes, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from malmoi.engine import Engine, Sampling, TokenEvent
from malmoi.engine.constraints import choice, regex, substring
from malmoi.engine.lookup import MOST_TOKENS, WAIT, Guesses, Lookup
from malmoi.models.build import build_model
from malmoi.models.formats import find_format
from malmoi.models.native import library
from malmoi.models.packed import pack
from malmoi.models.state import Scorer, State
from tests.contracts.test_scorers import SCORERS
from tests.engine.fake_scorer import FakeVerifier
from tests.engine.scripted import BYTES
from tests.models.variants import TRANSFORMERS

VOCAB = BYTES.vocab_size
FIXED = settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
WORDS = "The name of the river is Dnieper. The name of the town is Dnipro."
GRAMMARS = [None, choice(["The name of the river", "The town"]), regex("(ab|the ){2,9}"), substring(WORDS)]
TWO_LETTERS = tuple((id, 100.0) for id in BYTES.encode("he"))  # so that any model says again what it said
NO_END = tuple((id, -100.0) for id in BYTES.specials.ends)
PROMPTS = [
    BYTES.encode(text) for text in (WORDS, "abababab", "the the the", "0123456789 012", "x", "한국의 수도는")
]


@cache
def scorer(precision: str) -> Scorer:
    if precision == "fake":
        return FakeVerifier(VOCAB, context=160)
    torch.manual_seed(2)
    config = TRANSFORMERS["qwen3-window"].model_copy(update={"vocab_size": VOCAB, "context": 160})
    model = build_model(config).eval()
    for parameter in model.parameters():
        parameter.data.mul_(3)
    format = find_format("bf16" if precision == "bf16" else "fp32", "int8" if precision == "int8" else None)
    pack(model.to(format.dtype), format)
    return model


def events_of(
    engine: Engine, prompts: Sequence[list[int]], params: Sequence[Sampling], cancel_after: int = 0
) -> dict[tuple[int, int], list[TokenEvent]]:
    """Of each sample. The first request is cancelled as soon as it has `cancel_after` tokens."""
    first, *_ = [engine.submit(ids, one) for ids, one in zip(prompts, params, strict=True)]
    found: dict[tuple[int, int], list[TokenEvent]] = {}
    while engine.busy:
        for event in engine.step():
            found.setdefault((event.request, event.index), []).append(event)
        if cancel_after and len(found.get((first, 0), [])) >= cancel_after:
            engine.cancel(first)
            cancel_after = 0
    return dict(sorted(found.items()))


samplings = st.builds(
    Sampling,
    max_tokens=st.integers(1, 60),
    temperature=st.sampled_from([0.0, 0.0, 0.0, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.2]),
    frequency_penalty=st.sampled_from([0.0, 0.0, 0.5]),
    logit_bias=st.sampled_from([(), TWO_LETTERS]),
    stop=st.sampled_from([(), (), ("he n",)]),
    n=st.sampled_from([1, 1, 2]),
    logprobs=st.sampled_from([0, 2]),
    seed=st.integers(0, 9),
    constraint=st.sampled_from(GRAMMARS),
)


needs_kernels = pytest.mark.skipif(library.kernels() is None, reason="no kernels of ours")
precisions = pytest.mark.parametrize(
    "precision", ["fake", *(pytest.param(it, marks=needs_kernels) for it in ("fp32", "bf16", "int8"))]
)


@precisions
@FIXED
@given(data=st.data())
def test_answers_are_those_without_guesses(precision: str, data: st.DataObject) -> None:
    """Ids, text, probabilities and ends, to the bit, whatever else runs."""
    prompts = data.draw(st.lists(st.sampled_from(PROMPTS), min_size=1, max_size=6))
    params = [data.draw(samplings) for _ in prompts]
    deterministic, prefix_bytes = data.draw(st.booleans()), data.draw(st.sampled_from([0, 1 << 20]))
    on, off = (
        events_of(
            Engine(
                scorer(precision), BYTES,
                deterministic=deterministic, prefix_bytes=prefix_bytes, lookup=lookup, max_rows=12,
            ),
            prompts, params,
        )
        for lookup in (True, False)
    )  # fmt: skip
    assert on == off


@precisions
def test_what_copies_takes_fewer_steps(precision: str) -> None:
    steps: dict[bool, int] = {}
    for lookup in (True, False):
        engine = Engine(scorer(precision), BYTES, lookup=lookup)
        for ids in PROMPTS[:3]:
            engine.submit(ids, Sampling(temperature=0, max_tokens=60, logit_bias=TWO_LETTERS))
        while engine.busy:
            engine.step()
            steps[lookup] = steps.get(lookup, 0) + 1
        assert (engine.guesses.right > 0) == lookup
        assert engine.guesses.right <= engine.guesses.checked
    assert steps[True] < steps[False]


def test_a_cancelled_request_says_what_it_would_and_no_more() -> None:
    for after in range(1, 20):
        on, off = (
            events_of(
                Engine(FakeVerifier(VOCAB), BYTES, lookup=lookup), PROMPTS[:2],
                [Sampling(temperature=0, max_tokens=60, logit_bias=NO_END)] * 2, after,
            )
            for lookup in (True, False)
        )  # fmt: skip
        (*early, end), other = on.values()
        (*early_off, _), other_off = off.values()
        assert end.finished == "cancelled"
        assert len(early) >= after
        assert early[:after] == early_off
        assert other == other_off


def test_a_conversation_goes_on_from_what_was_right() -> None:
    """What is kept of an answer for the next turn is what it says, without wrong guesses."""
    engine = Engine(FakeVerifier(VOCAB), BYTES, prefix_bytes=1 << 20)
    (answer,) = engine.generate([PROMPTS[1]], Sampling(temperature=0, max_tokens=50))
    assert 0 < engine.guesses.right < engine.guesses.checked
    longer = [*PROMPTS[1], *answer.ids, *PROMPTS[4]]
    events = list(engine.stream(longer, Sampling(temperature=0, max_tokens=9)))
    assert events[0].cached >= len(PROMPTS[1]) + len(answer.ids) - 1
    (alone,) = Engine(FakeVerifier(VOCAB), BYTES).generate([longer], Sampling(temperature=0, max_tokens=9))
    assert tuple(event.id for event in events) == alone.ids


class Breaks(FakeVerifier):
    """Cannot verify."""

    def verify(self, ids_BT: Tensor, counts_B: Tensor, state: State) -> Tensor:
        super().verify(ids_BT, counts_B, state)
        raise RuntimeError


def test_rows_whose_guesses_cannot_be_checked_go_on() -> None:
    params = Sampling(temperature=0, max_tokens=30)
    wanted = Engine(FakeVerifier(VOCAB), BYTES).generate(PROMPTS, params)
    assert Engine(Breaks(VOCAB), BYTES).generate(PROMPTS, params) == wanted


@pytest.mark.parametrize("name", ["lstm", "ngram-3", "llama"])
def test_what_cannot_check_them_gets_none(name: str) -> None:
    """Their states cannot be cut, or several tokens at once are not computed as one after the other."""
    engine = Engine(SCORERS[name], BYTES)
    engine.generate([PROMPTS[1]], Sampling(temperature=0, max_tokens=20))
    assert engine.guesses == Guesses()


def test_samples_with_a_temperature_do_not_guess() -> None:
    engine = Engine(FakeVerifier(VOCAB), BYTES)
    engine.generate([PROMPTS[1]], Sampling(temperature=0.5, seed=1, max_tokens=20))
    assert engine.guesses == Guesses()


@pytest.mark.parametrize(
    ("ids", "guessed"),
    [
        ([1, 2, 3, 4, 5, 9, 1, 2, 3], [4, 5]),  # what followed the same three
        ([1, 2, 3, 4, 7, 2, 3, 5, 9, 1, 2, 3], [4, 7]),  # rather than the same two
        ([2, 3, 4, 5, 9, 2, 3, 6, 7, 9, 8, 2, 3], [6, 7]),  # the last time
        ([8, 4, 5, 4, 5], [4, 5]),
        ([8, 5, 5, 5, 5], [5, 5]),  # goes on beyond the end
        ([1 << 16, 256, 1, 2, 1 << 24, 65536], []),  # the same bytes between two ids
        ([1, 2, 3], []),
        ([1], []),
    ],
)
def test_what_is_guessed(ids: list[int], guessed: list[int]) -> None:
    assert Lookup().guess(ids, 9, 1) == guessed


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 20), st.integers(1, 20))
def test_guesses_are_earlier_text(ids: list[int], most: int, rows: int) -> None:
    lookup = Lookup(chance=0.95)
    for length in range(1, len(ids) + 1):
        guessed = lookup.guess(ids[:length], most, rows)
        assert rows * (1 + len(guessed)) <= max(rows, MOST_TOKENS)
        assert len(guessed) <= most
        assert not guessed or any(ids[at : at + 2] == ids[length - 2 : length] for at in range(length - 2))


def test_more_is_guessed_the_more_was_right_and_less_beside_others() -> None:
    ids, lookup = [1, 2] * 20, Lookup()
    before = len(lookup.guess(ids, 99, 1))
    for _ in range(20):
        lookup.check(4, 4)
    assert len(lookup.guess(ids, 99, 1)) == MOST_TOKENS - 1 > before > 0
    assert [len(lookup.guess(ids, 99, rows)) for rows in (2, 4, 8, 9)] == [7, 3, 1, 0]


def test_a_row_that_copies_nothing_seldom_guesses() -> None:
    ids, lookup, guesses = [1, 2] * 20, Lookup(), 0
    for _ in range(40 * WAIT):
        guessed = lookup.guess(ids, 99, 1)
        lookup.check(len(guessed), 0)
        guesses += len(guessed)
    assert guesses <= 16 + 40
    assert guesses >= 38, "and is tried again"
