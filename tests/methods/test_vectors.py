"""Rows of TF-IDF: those of scikit-learn's vectorizer, bit for bit."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from malmoi.methods.base import Parts
from malmoi.methods.traditional.vectors import TERM, NgramView, Vectors

VIEWS = (
    NgramView("word", 1, 2),
    NgramView("word", 2, 3),
    NgramView("char_wb", 1, 5),
    NgramView("char_wb", 3, 4),
    NgramView("char", 2, 4),
)
WORDS = ("a", "I", "Über", "don't", "개가", "집에서", "1999!", " \n ", "\t\t", "😀", "ß", "İ")


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_rows_are_those_of_scikit_learn(view: NgramView) -> None:
    rng = random.Random(0)
    texts = ["".join(rng.choices((*WORDS, " ", "  "), k=rng.randrange(1, 40))) for _ in range(40)]
    vectors = Vectors([view]).fit(texts[:30])
    settings: Any = {"token_pattern": TERM if view.analyzer == "word" else None, "dtype": np.float32}
    theirs = TfidfVectorizer(
        analyzer=view.analyzer, ngram_range=(view.low, view.high), sublinear_tf=True, **settings
    ).fit(texts[:30])
    expected = theirs.transform([*texts, "", "zzz"])
    ours = vectors.rows([*texts, "", "zzz"])
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(expected, name))
    parts = Parts()
    vectors.save(parts)
    again = Vectors.restore(parts).rows(texts)
    np.testing.assert_array_equal(again.toarray(), vectors.rows(texts).toarray())
    assert Vectors.restore(parts).rows([]).shape == (0, len(vectors.names))
