"""The counting model against dictionaries that follow Chen & Goodman's formulas word for word."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from malmoi.core.errors import UserError
from malmoi.models.ngram import FALLBACK_DISCOUNTS, KneserNey, estimate_discounts

Gram = tuple[int, ...]
FIXED = settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))


class Dictionaries:
    """Interpolated modified Kneser-Ney, slowly."""

    def __init__(self, stream: Sequence[int], vocab_size: int, order: int) -> None:
        self.vocab_size = vocab_size
        seen = [Counter(zip(*(stream[i:] for i in range(k)), strict=False)) for k in range(1, order + 1)]
        self.counts: list[Counter[Gram]] = [Counter(gram[1:] for gram in longer) for longer in seen[1:]]
        self.counts.append(seen[-1])
        self.discounts = [self.estimate(counts) for counts in self.counts]

    @staticmethod
    def estimate(counts: Counter[Gram]) -> tuple[float, ...]:
        n = [sum(count == i for count in counts.values()) for i in range(5)]
        if 0 in n[1:4]:
            return FALLBACK_DISCOUNTS
        y = n[1] / (n[1] + 2 * n[2])
        found = tuple(i - (i + 1) * y * n[i + 1] / n[i] for i in (1, 2, 3))
        return found if all(0 < d <= i for i, d in enumerate(found, 1)) else FALLBACK_DISCOUNTS

    def prob(self, context: Gram, id: int) -> float:
        prob = 1 / self.vocab_size
        for k, (counts, discounts) in enumerate(zip(self.counts, self.discounts, strict=True)):
            if len(context) < k:
                break
            known = context[len(context) - k :]
            of_context = {v: counts[*known, v] for v in range(self.vocab_size) if counts[*known, v]}
            total = sum(of_context.values())
            if total:
                taken = {v: discounts[min(count, 3) - 1] for v, count in of_context.items()}
                own = of_context.get(id, 0) - taken.get(id, 0)
                prob = own / total + sum(taken.values()) / total * prob
        return prob


@st.composite
def corpora(draw: st.DrawFn) -> tuple[list[int], list[int], int, int]:
    """(counted stream, text to predict, vocabulary, order)."""
    vocab_size, order = draw(st.integers(2, 6)), draw(st.integers(1, 5))
    ids = st.integers(0, vocab_size - 1)
    stream = draw(st.lists(ids, min_size=order, max_size=60))
    # skewed streams repeat themselves, so that discounts are estimated and not the fallback
    repeats = draw(st.integers(1, 4))
    return stream * repeats, draw(st.lists(ids, min_size=1, max_size=12)), vocab_size, order


@FIXED
@given(corpus=corpora())
def test_equals_the_dictionaries(corpus: tuple[list[int], list[int], int, int]) -> None:
    stream, text, vocab_size, order = corpus
    model, naive = (
        KneserNey.fit(np.array(stream), vocab_size, order=order),
        Dictionaries(stream, vocab_size, order),
    )
    expected = [[naive.prob(tuple(text[: t + 1]), id) for id in range(vocab_size)] for t in range(len(text))]
    probs_TV = model.step(torch.tensor([text]), torch.tensor([len(text)]), model.new_state(1))[0].exp()
    np.testing.assert_allclose(probs_TV, expected, rtol=2e-5)
    np.testing.assert_allclose(probs_TV.double().sum(-1), 1, rtol=1e-5)
    of_text = [naive.prob(tuple(text[:t]), id) for t, id in enumerate(text)]
    np.testing.assert_allclose(np.exp(model.token_log_probs(np.array(text))), of_text, rtol=2e-5)


def test_discounts_of_the_published_formula() -> None:
    counts = np.repeat([1, 2, 3, 4, 9], [40, 12, 6, 4, 7])
    y = 40 / (40 + 24)
    expected = (1 - 2 * y * 12 / 40, 2 - 3 * y * 6 / 12, 3 - 4 * y * 4 / 6)
    assert estimate_discounts(counts) == pytest.approx(expected)
    assert estimate_discounts(np.array([1, 1, 2])) == FALLBACK_DISCOUNTS


PATTERNS = (
    (("아이가", "할머니가", "고양이가"), ("학교에", "시장에", "바다에"), ("갑니다", "왔습니다")),
    (("the cat", "the child", "the teacher"), ("sees", "finds"), ("a book", "a fish", "a word")),
)


def toy_text(seed: int) -> list[int]:
    """Korean and English sentences from two patterns, as Unicode letters."""
    draw = random.Random(seed)
    sentences = [" ".join(map(draw.choice, draw.choice(PATTERNS))) for _ in range(400)]
    return [ord(letter) for letter in ". ".join(sentences)]


def test_perplexity_falls_with_order() -> None:
    letters = sorted({*toy_text(0), *toy_text(1)})
    train, test = (np.array([letters.index(letter) for letter in toy_text(seed)]) for seed in (0, 1))
    perplexities = []
    for order in range(1, 6):
        model = KneserNey.fit(train, len(letters), order=order)
        perplexities.append(math.exp(-model.token_log_probs(test).mean()))
    assert perplexities == sorted(perplexities, reverse=True)
    assert perplexities[-1] < 2
    assert 15 < perplexities[0] < len(letters)


def test_a_longer_stream_is_cut_and_says_so() -> None:
    stream = np.arange(100) % 7
    cut, short = KneserNey.fit(stream, 7, max_tokens=50), KneserNey.fit(stream[:50], 7)
    assert cut.note == "counted the first 50 of 100 tokens"
    assert short.note == ""
    np.testing.assert_array_equal(cut.token_log_probs(stream), short.token_log_probs(stream))


@pytest.mark.parametrize(
    ("ids", "order", "words"),
    [
        ([], 1, "the text has 0 tokens"),
        ([1, 2], 3, "the text has 2 tokens"),
        ([1, 2], 0, "the order is 0"),
        ([1, 5], 2, r"outside 0\.\.4"),
        ([-1, 2], 2, "outside"),
    ],
)
def test_mistakes_are_one_line(ids: list[int], order: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        KneserNey.fit(np.array(ids, dtype=np.int64), 5, order=order)


def test_token_files_of_any_width_are_counted_alike() -> None:
    stream = np.random.default_rng(0).integers(0, 60_000, 500) % 60_000
    expected = KneserNey.fit(stream, 60_000).token_log_probs(stream)
    for dtype in (np.uint16, np.uint32, np.int32):
        narrow = stream.astype(dtype)
        np.testing.assert_array_equal(KneserNey.fit(narrow, 60_000).token_log_probs(narrow), expected)
