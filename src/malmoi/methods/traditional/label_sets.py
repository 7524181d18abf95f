"""Sets of labels by counting words, and by TF-IDF with a logistic regression for each label.

Shape letters: N texts, F features, L labels, W words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt

from malmoi.core.config import StrictModel
from malmoi.core.nouns import Examples, FitReport, Predictions, Work
from malmoi.inside.sources import BagOfWords, Source
from malmoi.methods.traditional.choice import (
    LEAST_ITERATIONS,
    SavedThresholds,
    TimeKeeper,
    choose_thresholds,
    fit_heads,
    missing_labels,
    quality,
    set_matrix,
    sets_above,
    sigmoid,
)
from malmoi.methods.traditional.text_classifiers import (
    CHOICE_TEXTS,
    PROBED_TEXTS,
    VIEWS,
    LabelMethod,
    Lexicon,
    TfIdf,
    counted_words,
    log_odds,
    stems,
)
from malmoi.methods.traditional.vectors import NgramView, Vectors
from malmoi.metrics.statistics import Floats
from malmoi.tasks.checks import labels_in, refuse_too_few_labels
from malmoi.tasks.kinds import LABELS


class SetMethod(SavedThresholds, LabelMethod):
    """What gives each label a score by itself: its log-odds, and a threshold of the probability."""

    kinds = frozenset({LABELS})

    def scores(self, inputs: Sequence[str]) -> Floats:
        """scores_NL."""
        raise NotImplementedError

    def log_probs(self, inputs: Sequence[str]) -> Floats:
        """log_probs_NL of each label by itself."""
        return -np.logaddexp(0.0, -self.scores(inputs))

    def predict(self, inputs: Sequence[str]) -> Predictions:
        """See `Method.predict`."""
        return Predictions(
            sets_above(sigmoid(self.scores(inputs)), self.thresholds, self.labels) if inputs else []
        )

    def raw_probabilities(self, inputs: Sequence[str]) -> list[dict[str, float]] | None:
        """See `Method.probabilities`."""
        rows = sigmoid(self.scores(inputs)).tolist() if inputs else []
        return [dict(zip(self.labels, row, strict=True)) for row in rows]

    def insides(self, value: str) -> tuple[Source, ...]:
        """See `Method.insides`."""
        thresholds_L = np.clip(self.thresholds, 1e-9, 1 - 1e-9)
        needed_L = np.log(thresholds_L) - np.log1p(-thresholds_L)
        return tuple(
            replace(one, needed_L=needed_L) if isinstance(one, BagOfWords) else one
            for one in super().insides(value)
        )

    def _learn_set(self, examples: Examples) -> None:
        refuse_too_few_labels(examples, self.task.kind)
        self.labels = labels_in(examples, self.task.kind)

    def _choose(self, valid: Examples) -> None:
        """The thresholds, by the held-out examples."""
        probs_NL = (
            sigmoid(self.scores([one.input for one in valid])) if valid else np.zeros((0, len(self.labels)))
        )
        self.thresholds = choose_thresholds(probs_NL, set_matrix([one.target for one in valid], self.labels))

    def _thresholds_by_label(self) -> dict[str, float]:
        return dict(zip(self.labels, self.thresholds, strict=True))


class LexiconSets(SetMethod, Lexicon):
    """A lexicon for each label against the texts without it; it starts from its share of the texts."""

    def fit(self, train: Examples, valid: Examples, work: Work = Work()) -> FitReport:
        """See `Method.fit`. Thresholds are chosen by `valid`, then it counts these words, too."""
        keeper = TimeKeeper.of(work)
        self._learn_set(train)
        self._learn_words(list(keeper.some(train, 0.5)))
        self._choose(valid)
        self.calibrate(valid)
        if more := keeper.also(valid, 1):
            self._learn_words([*train, *more])
        words = self._strongest(list(self._numbers), self._weights_WL.T)
        facts = {"words": words, "thresholds": self._thresholds_by_label()}
        return FitReport(facts | keeper.facts(train, more))

    def _learn_words(self, examples: Examples) -> None:
        given_NL = set_matrix([one.target for one in examples], self.labels)
        shares_L = (given_NL.sum(axis=0) + 1) / (len(given_NL) + 2)
        self._prior_L = np.log(shares_L) - np.log1p(-shares_L)
        own = self.options.lexicon
        self._set(self._read(Path(own)) if own else self._counted(examples, given_NL))

    def _counted(self, examples: Examples, given_NL: NDArray[np.bool_]) -> dict[str, list[float]]:
        """What each word says for a label, or against it, where that is above chance."""
        total, counts = Counter[str](), [Counter[str]() for _ in self.labels]
        for example, given_L in zip(examples, given_NL, strict=True):
            found = {stem for word in counted_words(example.input) for stem in stems(word)}
            for count in (total, *(counts[at] for at in np.flatnonzero(given_L))):
                count.update(found)
        words = sorted(total, key=lambda word: (-total[word], word))[: self.options.max_words]
        total_W = np.array([total[word] for word in words], dtype=np.float64)
        here_LW = np.array([[count[word] for word in words] for count in counts], dtype=np.float64)
        odds_L2W = (log_odds(np.stack((here_W, total_W - here_W))) for here_W in here_LW)
        weights_LW = np.array([for_W - against_W for for_W, against_W in odds_L2W])
        return {word: weights_LW[:, w].tolist() for w, word in enumerate(words) if weights_LW[:, w].any()}

    def scores(self, inputs: Sequence[str]) -> Floats:
        """scores_NL: the prior log-odds and the summed weights."""
        known = ([self._number(word) for word in counted_words(text)] for text in inputs)
        return self._prior_L + np.array(
            [self._weights_WL[[one for one in row if one is not None]].sum(axis=0) for row in known]
        )

    def insides(self, value: str) -> tuple[Source, ...]:
        """See `Method.insides`."""
        return tuple(
            replace(one, bias_L=self._prior_L) if isinstance(one, BagOfWords) else one
            for one in super().insides(value)
        )


class _Setting(NamedTuple):
    views: tuple[NgramView, ...]
    c: float


class _Cut(NamedTuple):
    """Examples to learn from: which labels each has, and their rows by views, which are made once."""

    given_NL: NDArray[np.bool_]
    rows: Callable[[tuple[NgramView, ...]], tuple[Vectors, Any]]


class TfIdfSets(SetMethod, TfIdf):
    """Logistic regression over n-grams of words and of characters, one for each label (binary relevance),
    weighed by naive Bayes' log-count ratios if that is asked for (Wang & Manning 2012)."""

    class Options(StrictModel):  # pyright: ignore[reportIncompatibleVariableOverride]
        """c: inverse strengths of the L2 penalty to try, the usual one first. ratios: whether features are
        multiplied by naive Bayes' log-count ratios, with which learning takes much longer. max_features: of a
        view. max_iterations: of the solver."""

        c: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (4.0, 1.0, 16.0)
        ratios: bool = False
        max_features: PositiveInt = 400_000
        max_iterations: PositiveInt = 100

    def check(self, train: Examples) -> None:
        """Every option suits all examples."""

    def fit(self, train: Examples, valid: Examples, work: Work = Work()) -> FitReport:
        """See `Method.fit`. Views and C are chosen on `valid` one after the other, then the thresholds; with
        these it learns from all examples."""
        keeper, options = TimeKeeper.of(work), self.options
        self._learn_set(train)
        few, some, whole = (
            self._cut(self._some(train, count)) for count in (PROBED_TEXTS, CHOICE_TEXTS, None)
        )
        times = len(whole.given_NL) / len(some.given_NL)  # what a last fit is of a try
        setting = _Setting(VIEWS[0], options.c[0])
        if valid:
            if keeper.affords(0):
                keeper.timed(lambda: self._judged(setting, few, valid))
                keeper.try_s *= len(some.given_NL) / len(few.given_NL)
            fields = {"views": VIEWS, "c": options.c}
            setting = keeper.best(setting, fields, lambda it: self._judged(it, some, valid), 2 * times)
            keeper.try_s *= times
        whole.rows(setting.views)
        iterations = options.max_iterations  # its solver needs few of them
        if not keeper.affords(1) and iterations > LEAST_ITERATIONS:
            keeper.left_out.append(f"{iterations - LEAST_ITERATIONS} of {iterations} iterations")
            iterations = LEAST_ITERATIONS
        keeper.timed(lambda: self._learn_from(setting, whole, iterations))
        self._choose(valid)
        self.calibrate(valid)
        if more := keeper.also(valid, 1):
            self._learn_from(setting, self._cut([*train, *more]), iterations)
        strongest = self._strongest(self._vectors.names, self._weights_FL.T)
        facts = {"setting": setting._asdict(), "features": len(self._weights_FL), "words": strongest}
        return FitReport(facts | {"thresholds": self._thresholds_by_label()} | keeper.facts(train, more))

    def _some(self, train: Examples, count: int | None) -> Examples:
        """About `count` of the examples, in another order, every label among them."""
        if count is None:
            return train
        some = [train[i] for i in np.random.default_rng(0).permutation(len(train))[:count]]
        return [*some, *missing_labels(some, train, self.task.kind)]

    def _cut(self, examples: Examples) -> _Cut:
        texts = [example.input for example in examples]

        @cache
        def rows(views: tuple[NgramView, ...]) -> tuple[Vectors, Any]:
            vectors = Vectors(views, self.options.max_features).fit(texts)
            return vectors, vectors.rows(texts)

        return _Cut(set_matrix([example.target for example in examples], self.labels), rows)

    def _judged(self, setting: _Setting, learned: _Cut, valid: Examples) -> float:
        """How good it is on `valid`, with the thresholds that are best there."""
        self._learn_from(setting, learned, self.options.max_iterations)
        self._choose(valid)
        return quality(self.task, self.predict([example.input for example in valid]).values, valid)

    def _learn_from(self, setting: _Setting, learned: _Cut, iterations: int) -> None:
        self._vectors, rows_NF = learned.rows(setting.views)
        weights_LF, self._bias_L = fit_heads(
            rows_NF, learned.given_NL, setting.c, iterations=iterations, ratios=self.options.ratios
        )
        self._weights_FL = np.ascontiguousarray(weights_LF.T)

    def scores(self, inputs: Sequence[str]) -> Floats:
        """scores_NL."""
        return self._vectors.rows(inputs) @ self._weights_FL + self._bias_L
