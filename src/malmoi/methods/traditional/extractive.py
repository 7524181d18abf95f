"""Extractive summaries: the first sentences, or the most central ones in the text's own order.

Shape letters: S sentences, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pydantic import PositiveInt

from malmoi.core.config import StrictModel
from malmoi.core.nouns import Examples, FitReport, Predictions, Work
from malmoi.methods.base import Method, Parts, cut_words
from malmoi.methods.traditional.choice import TimeKeeper, quality
from malmoi.methods.traditional.vectors import LIBRARIES, NgramView, Vectors
from malmoi.tasks.kinds import TEXT
from malmoi.text.units import sentences

CHOICE_TEXTS = 300  # of valid, while the number of sentences is chosen
MAX_SENTENCES = 400  # of a document; what comes later is not looked at
DAMPING = 0.85
ITERATIONS, TOLERANCE = 100, 1e-6


class _Setting(NamedTuple):
    k: int


class Lead(Method):
    """The first k sentences; k is chosen on valid."""

    name, family, kinds, only = "lead", "traditional", frozenset({TEXT}), frozenset({"briefer"})

    class Options(StrictModel):
        """most: the largest k that is tried."""

        most: PositiveInt = 5

    def fit(self, train: Examples, valid: Examples, work: Work = Work()) -> FitReport:
        """See `Method.fit`."""
        keeper = TimeKeeper.of(work)
        self._prepare([example.input for example in train])
        some = [*keeper.some((valid or train)[:CHOICE_TEXTS], 0.8, "texts to choose by")]
        ranked = [self._ranked(example.input) for example in some]

        def value(setting: _Setting) -> float:
            found = [_joined(pieces, order[: setting.k]) for pieces, order in ranked]
            return quality(self.task, found, some)

        setting = keeper.best(_Setting(1), {"k": range(1, self.options.most + 1)}, value)
        self._k = setting.k
        if valid:
            self._prepare([example.input for example in (*train, *valid)])
        return FitReport({"sentences": self._k} | keeper.facts(train, valid))

    def _prepare(self, documents: Sequence[str]) -> None:
        """What must be known before sentences can be ordered."""

    def _order(self, pieces: Sequence[str]) -> list[int]:
        """The sentences' numbers, the best first."""
        return list(range(len(pieces)))

    def _ranked(self, document: str) -> tuple[list[str], list[int]]:
        pieces = [document[start:end] for start, end in sentences(document)[:MAX_SENTENCES]]
        return pieces, self._order(pieces)

    def cut_note(self, inputs: Sequence[str], targets: Sequence[str] = ()) -> str:
        """See `Method.cut_note`."""
        del targets
        long = (text for text in inputs if len(text) > MAX_SENTENCES)
        count = sum(len(sentences(text)) > MAX_SENTENCES for text in long)
        return cut_words(count, inputs, f"{MAX_SENTENCES} sentences")

    def predict(self, inputs: Sequence[str]) -> Predictions:
        """See `Method.predict`."""
        ranked = [self._ranked(document) for document in inputs]
        return Predictions([_joined(pieces, order[: self._k]) for pieces, order in ranked])

    def parts(self) -> Parts:
        """See `Method.parts`."""
        return Parts({"sentences": self._k})

    def restore(self, parts: Parts) -> None:
        """See `Method.restore`."""
        self._k = parts.config["sentences"]


def _joined(pieces: Sequence[str], chosen: Sequence[int]) -> str:
    return " ".join(pieces[i] for i in sorted(chosen))


class TextRank(Lead):
    """The k most central sentences (Mihalcea & Tarau 2004), alike where their TF-IDF rows are."""

    name = "textrank"
    libraries = LIBRARIES

    def _prepare(self, documents: Sequence[str]) -> None:
        self._vectors = Vectors([NgramView("word", 1, 1), NgramView("char_wb", 2, 3)]).fit(documents)

    def _order(self, pieces: Sequence[str]) -> list[int]:
        if not pieces:
            return []
        rows_SF = self._vectors.rows(pieces)
        return np.argsort(-pagerank((rows_SF @ rows_SF.T).toarray()), kind="stable").tolist()

    def parts(self) -> Parts:
        """See `Method.parts`."""
        parts = super().parts()
        self._vectors.save(parts)
        return parts

    def restore(self, parts: Parts) -> None:
        """See `Method.restore`."""
        super().restore(parts)
        self._vectors = Vectors.restore(parts)


def pagerank(links_SS: np.ndarray) -> np.ndarray:
    """ranks_S of a graph with weighted links (the diagonal is not looked at); they sum to one."""
    links_SS = links_SS * (1 - np.eye(len(links_SS)))
    total_S1 = links_SS.sum(axis=1, keepdims=True)
    even_SS = np.full_like(links_SS, 1 / len(links_SS))
    steps_SS = np.divide(links_SS, total_S1, out=even_SS, where=total_S1 > 0)
    ranks_S = np.full(len(links_SS), 1 / len(links_SS))
    for _ in range(ITERATIONS):
        before_S, ranks_S = ranks_S, (1 - DAMPING) / len(ranks_S) + DAMPING * (ranks_S @ steps_SS)
        if np.abs(ranks_S - before_S).sum() < TOLERANCE:
            break
    return ranks_S
