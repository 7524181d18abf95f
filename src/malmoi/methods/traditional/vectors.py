"""TF-IDF: texts as sparse rows of weighted n-grams, saved without pickle.

Shape letters: N texts, F features.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from malmoi.core.errors import UserError
from malmoi.methods.base import Parts

WORD = r"\w+|[^\w\s]"  # what a view of words takes for one: signs are words, too
LIBRARIES = ("sklearn.feature_extraction.text", "sklearn.linear_model")  # of what is fitted to such rows
SMALL = 500  # with fewer texts, n-grams seen once count too


class View(NamedTuple):
    """One way to cut a text: n-grams of low..high words, or characters inside words ("char_wb") or across."""

    analyzer: Literal["word", "char", "char_wb"]
    low: int
    high: int

    @property
    def sizes(self) -> range:
        """How many words or characters an n-gram has."""
        return range(self.low, self.high + 1)


class _Counted(NamedTuple):
    """What is known of one view: its n-grams, sorted, and how rare each is."""

    view: View
    vocabulary: dict[str, int]
    idf_F: NDArray[np.float32]

    @classmethod
    def fit(cls, view: View, texts: Sequence[str], max_features: int) -> Self:
        """Raises ValueError where no n-gram is left."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        settings: Any = {"token_pattern": WORD if view.analyzer == "word" else None, "dtype": np.float32}
        settings |= {"analyzer": view.analyzer, "ngram_range": (view.low, view.high)}
        min_df = 1 if len(texts) < SMALL else 2
        counted: Any = TfidfVectorizer(min_df=min_df, max_features=max_features, **settings).fit(texts)
        return cls(view, _numbered(counted.get_feature_names_out().tolist()), counted.idf_)

    def rows(self, texts: Sequence[str]) -> sparse.csr_array:
        """rows_NF of length one, as scikit-learn's `TfidfVectorizer` with `sublinear_tf` makes them."""
        found = [np.unique(self._known(text), return_counts=True) for text in texts]
        sizes = [len(places) for places, _ in found]
        places = np.concatenate([np.empty(0, np.int32), *(places for places, _ in found)])
        counts = np.concatenate([np.empty(0, np.int64), *(counts for _, counts in found)])
        values = (np.log(counts, dtype=np.float32) + 1) * self.idf_F[places]
        row = np.repeat(np.arange(len(texts)), sizes)
        lengths_N = np.sqrt(np.bincount(row, values * values, len(texts)))
        values = (values / lengths_N[row]).astype(np.float32)
        starts = np.cumsum([0, *sizes], dtype=np.int32)
        return sparse.csr_array((values, places, starts), shape=(len(texts), len(self.vocabulary)))

    def _known(self, text: str) -> NDArray[np.int32]:
        numbers = map(self.vocabulary.get, ngrams(text, self.view))
        return np.array([number for number in numbers if number is not None], dtype=np.int32)


class Vectors:
    """Rows of all `views` side by side, each view of length one (Salton & Buckley 1988; log term counts).

    max_features: the most n-grams of each view. Make one with `fit` or `restore`.
    """

    def __init__(self, views: Sequence[View], max_features: int = 100_000) -> None:
        self.views, self.max_features = [View(*view) for view in views], max_features
        self._counted: list[_Counted] = []

    def fit(self, texts: Sequence[str]) -> Self:
        """Choose the n-grams and learn how rare each is. Raises UserError where there are none."""
        try:
            self._counted = [_Counted.fit(view, texts, self.max_features) for view in self.views]
        except ValueError:
            raise UserError(
                "the training texts have no words that come again", fix="give more or longer texts"
            ) from None
        return self

    def rows(self, texts: Sequence[str]) -> Any:
        """rows_NF, scipy CSR; float32."""
        return sparse.hstack([counted.rows(texts) for counted in self._counted], format="csr")

    @property
    def names(self) -> list[str]:
        """The n-gram of each feature; of a view of characters in «»."""
        return [
            term if counted.view.analyzer == "word" else f"«{term}»"
            for counted in self._counted
            for term in counted.vocabulary
        ]

    def save(self, parts: Parts) -> None:
        """Add vocabulary (JSON) and idf (tensors) to `parts`."""
        terms = [list(counted.vocabulary) for counted in self._counted]
        parts.files["vocabulary.json"] = json.dumps(terms, ensure_ascii=False).encode()
        parts.config["views"] = [list(view) for view in self.views]
        for i, counted in enumerate(self._counted):
            parts.tensors[f"idf.{i}"] = counted.idf_F

    @classmethod
    def restore(cls, parts: Parts) -> Self:
        """The inverse of `save`. Raises KeyError where a part is missing, UserError where sizes differ."""
        self, vocabularies = cls(parts.config["views"]), json.loads(parts.files["vocabulary.json"])
        for i, (view, terms) in enumerate(zip(self.views, vocabularies, strict=True)):
            if len(parts.tensors[f"idf.{i}"]) != len(terms):
                raise UserError("vocabulary.json does not fit the weights; copy or train the folder again")
            self._counted.append(_Counted(view, _numbered(terms), parts.tensors[f"idf.{i}"]))
        return self


def _numbered(terms: Sequence[str]) -> dict[str, int]:
    return {term: number for number, term in enumerate(terms)}


def ngrams(text: str, view: View) -> Iterator[str]:
    """The n-grams that `view` cuts a text into, as scikit-learn's analyzers of these names."""
    text = text.lower()
    if view.analyzer == "word":
        words = re.findall(WORD, text)
        yield from (" ".join(words[i : i + n]) for n in view.sizes for i in range(len(words) - n + 1))
        return
    text = re.sub(r"\s\s+", " ", text)
    for part in [text] if view.analyzer == "char" else [f" {word} " for word in text.split()]:
        for n in view.sizes:
            yield from (part[i : i + n] for i in range(len(part) - n + 1))
            if n >= len(part) and view.analyzer == "char_wb":  # a short word counts once, whole
                if n > len(part):
                    yield part
                break
