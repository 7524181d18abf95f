"""TF-IDF: texts as sparse rows of weighted n-grams, saved without pickle.

Shape letters: N texts, F features.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from malmoi.core.errors import UserError
from malmoi.methods.base import Parts

WORD = r"\w+|[^\w\s]"  # what a view of words takes for one: signs are words, too
SMALL = 500  # with fewer texts, n-grams seen once count too


class View(NamedTuple):
    """One way to cut a text: n-grams of low..high words, or characters inside words ("char_wb") or across."""

    analyzer: Literal["word", "char", "char_wb"]
    low: int
    high: int


class Vectors:
    """Rows of all `views` side by side, each view of length one (Salton & Buckley 1988; log term counts).

    max_features: the most n-grams of each view. Make one with `fit` or `restore`.
    """

    def __init__(self, views: Sequence[View], max_features: int = 100_000) -> None:
        self.views, self.max_features = [View(*view) for view in views], max_features
        self._fitted: list[TfidfVectorizer] = []

    def _vectorizer(self, view: View, **settings: Any) -> TfidfVectorizer:
        pattern = WORD if view.analyzer == "word" else None
        common: Any = {"sublinear_tf": True, "dtype": np.float32, "token_pattern": pattern, **settings}
        return TfidfVectorizer(analyzer=view.analyzer, ngram_range=(view.low, view.high), **common)

    def fit(self, texts: Sequence[str]) -> Self:
        """Choose the n-grams and learn how rare each is. Raises UserError where there are none."""
        min_df = 1 if len(texts) < SMALL else 2
        self._fitted = [
            self._vectorizer(v, min_df=min_df, max_features=self.max_features) for v in self.views
        ]
        try:
            for vectorizer in self._fitted:
                vectorizer.fit(texts)
        except ValueError:
            raise UserError(
                "the training texts have no words that come again; give more or longer texts"
            ) from None
        return self

    def rows(self, texts: Sequence[str]) -> Any:
        """rows_NF, scipy CSR; float32."""
        return sparse.hstack([vectorizer.transform(texts) for vectorizer in self._fitted], format="csr")

    @property
    def names(self) -> list[str]:
        """The n-gram of each feature; of a view of characters in «»."""
        shown = ("{}" if view.analyzer == "word" else "«{}»" for view in self.views)
        vocabularies = [vectorizer.get_feature_names_out() for vectorizer in self._fitted]
        return [form.format(term) for form, terms in zip(shown, vocabularies, strict=True) for term in terms]

    def save(self, parts: Parts) -> None:
        """Add vocabulary (JSON) and idf (tensors) to `parts`."""
        terms = [vectorizer.get_feature_names_out().tolist() for vectorizer in self._fitted]
        parts.files["vocabulary.json"] = json.dumps(terms, ensure_ascii=False).encode()
        parts.config["views"] = [list(view) for view in self.views]
        for i, vectorizer in enumerate(self._fitted):
            parts.tensors[f"idf.{i}"] = torch.from_numpy(vectorizer.idf_.astype(np.float32))

    @classmethod
    def restore(cls, parts: Parts) -> Self:
        """The inverse of `save`. Raises KeyError where a part is missing, UserError where sizes differ."""
        self, terms = cls(parts.config["views"]), json.loads(parts.files["vocabulary.json"])
        for i, (view, vocabulary) in enumerate(zip(self.views, terms, strict=True)):
            idf_F = parts.tensors[f"idf.{i}"].numpy()
            if len(idf_F) != len(vocabulary):
                raise UserError("vocabulary.json does not fit the weights; copy or train the folder again")
            self._fitted.append(self._vectorizer(view, vocabulary=vocabulary))
            self._fitted[-1].idf_ = idf_F
        return self
