"""The features method for sets of labels: a logistic regression for each label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from malmoi.core.nouns import Examples, FitReport, Work
from malmoi.methods.llm.features import Features
from malmoi.methods.traditional.choice import (
    UNSURE,
    SavedThresholds,
    choose_thresholds,
    fit_heads,
    set_matrix,
    sets_above,
    sigmoid,
)
from malmoi.tasks.checks import labels_in
from malmoi.tasks.kinds import LABELS


class FeatureSets(SavedThresholds, Features):
    """A language model's vectors below a logistic regression and a threshold for each label."""

    kinds = frozenset({LABELS})

    def fit(self, train: Examples, valid: Examples, work: Work = Work()) -> FitReport:
        """See `Method.fit`. Thresholds are chosen by `valid`."""
        self.labels = labels_in(train, self.task.kind)
        self.thresholds = [UNSURE] * len(self.labels)
        return super().fit(train, valid, work)

    def _learn(self, setting: Any, read: Any) -> None:
        given_NL = set_matrix([one.target for one in read.examples], self.labels)
        self._set(setting.vector, *fit_heads(read.vectors[setting.vector], given_NL, setting.strength))

    def _decided(self, vectors_ND: Any, seen: Examples) -> list[Any]:
        probs_NL = sigmoid(self._scores(vectors_ND))
        self.thresholds = choose_thresholds(probs_NL, set_matrix([one.target for one in seen], self.labels))
        return self._answers(vectors_ND)

    def _answers(self, vectors_ND: Any) -> list[Any]:
        return sets_above(sigmoid(self._scores(vectors_ND)), self.thresholds, self.labels)

    def raw_probabilities(self, inputs: Sequence[Any]) -> list[dict[str, float]] | None:
        """See `Method.probabilities`."""
        if not inputs:
            return []
        probs_NL = sigmoid(self._scores(self.embedder.vectors(inputs, self.way)))
        return [dict(zip(self.labels, row, strict=True)) for row in probs_NL.tolist()]
