"""IBM Model 1 against a plain implementation of the paper, and the decoder on a small language."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest

from malmoi.core.errors import UserError
from malmoi.core.nouns import Example
from malmoi.methods.traditional.word_alignment import Ibm1, words
from malmoi.metrics.word_table import learn_table
from malmoi.tasks import make_task
from tests.methods.tiny import fitted_to

NOUNS = {"cat": "고양이가", "dog": "강아지가", "child": "아이가", "farmer": "농부가", "bird": "새가"}
VERBS = {"sleeps": "잔다", "runs": "달린다", "sings": "노래한다", "eats": "먹는다"}
PAIRS = [Example(f"the {n} {v}.", f"{NOUNS[n]} {VERBS[v]}.") for n in NOUNS for v in VERBS]


def plain_em(pairs, iterations: int) -> dict[tuple[int, int], float]:
    """Brown et al. 1993, with dictionaries."""
    seen = {(s, t) for source, target in pairs for s in (0, *source) for t in target}
    table = {key: 1 / sum(s == key[0] for s, _ in seen) for key in seen}
    for _ in range(iterations):
        counts: dict[tuple[int, int], float] = defaultdict(float)
        for source, target in pairs:
            for t in target:
                total = sum(table[s, t] for s in (0, *source))
                for s in (0, *source):
                    counts[s, t] += table[s, t] / total
        table = {(s, t): n / sum(m for (a, _), m in counts.items() if a == s) for (s, t), n in counts.items()}
    return table


@pytest.mark.parametrize("iterations", [1, 5])
def test_the_table_equals_the_papers(iterations: int) -> None:
    random = np.random.default_rng(1)
    toy = [([1, 2], [1, 2]), ([1, 3], [1, 3])]
    drawn = [(random.integers(1, 6, 4).tolist(), random.integers(1, 7, 3).tolist()) for _ in range(9)]
    for pairs in (toy, drawn):
        found, expected = learn_table(pairs, 8, iterations), plain_em(pairs, iterations)
        keys = zip(found.sources_K.tolist(), found.targets_K.tolist(), strict=True)
        assert dict(zip(keys, found.probs_K.tolist(), strict=True)) == pytest.approx(expected)


def test_the_likelihood_never_falls() -> None:
    random = np.random.default_rng(2)
    pairs = [(random.integers(1, 9, 5).tolist(), random.integers(1, 9, 6).tolist()) for _ in range(40)]
    values = learn_table(pairs, 9, 20).log_likelihoods
    assert all(b >= a - 1e-9 for a, b in pairwise(values))


def test_a_small_language_is_learned() -> None:
    method = fitted_to(
        Ibm1(make_task("translation")), [e for e in PAIRS if e.input != "the bird eats."], PAIRS[:5]
    )
    assert method.predict(["the bird eats."]).values == ["새가 먹는다."]
    assert "Zorblat" in str(method.predict(["the Zorblat runs."]).values[0])


def test_words_keep_their_spaces() -> None:
    text = "사과 12개, 배  3개 (정말)!"
    assert "".join(words(text)) == " " + " ".join(text.split())


def test_empty_pairs_are_refused() -> None:
    with pytest.raises(UserError, match="pair"):
        fitted_to(Ibm1(make_task("translation")), [Example("", "")], [])
