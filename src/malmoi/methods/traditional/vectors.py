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
from malmoi.util.scripts import WORD

TERM = rf"{WORD}|[^\w\s]"  # what a view of words takes for one: signs are words, too
LIBRARIES = ("sklearn.feature_extraction.text", "sklearn.linear_model")  # of what is fitted to such rows
SMALL = 500  # with fewer texts, n-grams seen once count too


class NgramView(NamedTuple):
    """One way to cut a text: n-grams of low..high words, or characters inside words ("char_wb") or across."""

    analyzer: Literal["word", "char", "char_wb"]
    low: int
    high: int

    @property
    def sizes(self) -> range:
        """How many words or characters an n-gram has."""
        return range(self.low, self.high + 1)


class Vectors:
    """Rows of all `views` side by side, each view of length one (Salton & Buckley 1988; log term counts).

    max_features: the most n-grams of each view. Make one with `fit` or `restore`.
    """

    def __init__(self, views: Sequence[NgramView], max_features: int = 100_000) -> None:
        self.views, self.max_features = [NgramView(*view) for view in views], max_features
        self._vocabularies: list[dict[str, int]] = []
        self._idfs: list[NDArray[np.float32]] = []

    def fit(self, texts: Sequence[str]) -> Self:
        """Choose the n-grams and learn how rare each is. Raises UserError where there are none."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        settings: Any = {"min_df": 1 if len(texts) < SMALL else 2, "max_features": self.max_features}
        for view in self.views:
            settings |= {"analyzer": view.analyzer, "ngram_range": (view.low, view.high), "dtype": np.float32}
            settings["token_pattern"] = TERM if view.analyzer == "word" else None
            try:
                found: Any = TfidfVectorizer(**settings).fit(texts)
            except ValueError:
                raise UserError(
                    "the training texts have no words that come again; give more or longer texts"
                ) from None
            self._know(found.get_feature_names_out().tolist(), found.idf_)
        return self

    def _know(self, terms: Sequence[str], idf_F: NDArray[np.float32]) -> None:
        if len(idf_F) != len(terms):
            raise UserError("vocabulary.json does not fit the weights; copy or train the folder again")
        self._vocabularies.append({term: number for number, term in enumerate(terms)})
        self._idfs.append(idf_F)

    def rows(self, texts: Sequence[str]) -> Any:
        """rows_NF, scipy CSR; float32. Those of scikit-learn's `TfidfVectorizer` with `sublinear_tf`."""
        known = zip(self.views, self._vocabularies, self._idfs, strict=True)
        places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        rows_DF: Any = sparse.hstack([_rows(list(places), *one) for one in known], format="csr")
        return rows_DF if len(places) == len(texts) else rows_DF[[places[text] for text in texts]]

    @property
    def names(self) -> list[str]:
        """The n-gram of each feature; of a view of characters in «»."""
        shown = ("{}" if view.analyzer == "word" else "«{}»" for view in self.views)
        return [
            form.format(term) for form, terms in zip(shown, self._vocabularies, strict=True) for term in terms
        ]

    def save(self, parts: Parts) -> None:
        """Add vocabulary (JSON) and idf (tensors) to `parts`."""
        terms = [list(vocabulary) for vocabulary in self._vocabularies]
        parts.files["vocabulary.json"] = json.dumps(terms, ensure_ascii=False).encode()
        parts.config["views"] = [list(view) for view in self.views]
        parts.tensors |= {f"idf.{i}": idf_F for i, idf_F in enumerate(self._idfs)}

    @classmethod
    def restore(cls, parts: Parts) -> Self:
        """The inverse of `save`. Raises KeyError where a part is missing, UserError where sizes differ."""
        self = cls(parts.config["views"])
        vocabularies = json.loads(parts.files["vocabulary.json"])
        if len(vocabularies) != len(self.views):
            raise UserError("vocabulary.json does not fit the settings; copy or train the folder again")
        for i, terms in enumerate(vocabularies):
            self._know(terms, parts.tensors[f"idf.{i}"])
        return self


def _rows(
    texts: Sequence[str], view: NgramView, vocabulary: dict[str, int], idf_F: NDArray[np.float32]
) -> sparse.csr_array:
    """rows_NF of one view."""
    known = ([vocabulary[term] for term in ngrams(text, view) if term in vocabulary] for text in texts)
    found = [np.unique(np.array(numbers, np.int32), return_counts=True) for numbers in known]
    sizes = [len(places) for places, _ in found]
    places = np.concatenate([np.empty(0, np.int32), *(places for places, _ in found)])
    counts = np.concatenate([np.empty(0, np.int64), *(counts for _, counts in found)])
    values = (np.log(counts, dtype=np.float32) + 1) * idf_F[places]
    row = np.repeat(np.arange(len(texts)), sizes)
    lengths_N = np.sqrt(np.bincount(row, values * values, len(texts)))
    values = (values / lengths_N[row]).astype(np.float32)
    starts = np.cumsum([0, *sizes], dtype=np.int32)
    return sparse.csr_array((values, places, starts), shape=(len(texts), len(vocabulary)))


def ngrams(text: str, view: NgramView) -> Iterator[str]:
    """The n-grams that `view` cuts a text into, as scikit-learn's analyzers of these names."""
    text = text.lower()
    if view.analyzer == "word":
        words = re.findall(TERM, text)
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
