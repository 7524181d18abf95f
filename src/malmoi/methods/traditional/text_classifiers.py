"""Classification by counting opinion words, and by TF-IDF with logistic regression.

Shape letters: N texts, F features, L labels, W words.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt

from malmoi.core.config import StrictModel
from malmoi.core.errors import UserError
from malmoi.core.nouns import Example, Examples, FitReport, Json, Predictions, Work
from malmoi.data.encodings import decoded
from malmoi.inside.sources import BagOfWords, ReadText, Source
from malmoi.methods.base import Method, Parts
from malmoi.methods.traditional.choice import TimeKeeper, log_count_ratios, quality, softmax_layer
from malmoi.methods.traditional.vectors import LIBRARIES, TERM, NgramView, Vectors
from malmoi.metrics.statistics import Floats
from malmoi.tasks.checks import two_or_more
from malmoi.tasks.kinds import LABEL
from malmoi.util.scripts import words_in

SHOWN = 15  # words of each label in a report
STRONGEST = 12  # n-grams of a text in a picture
SIGNIFICANT = 1.96  # standard deviations
PRIOR_WORDS = 500.0  # the weight of the prior, in words (Monroe et al. 2008)
TIE = 1e-6


class LabelMethod(Method):
    """What gives each label a log-probability."""

    family, kinds = "traditional", frozenset({LABEL})
    labels: list[str]

    def log_probs(self, inputs: Sequence[str]) -> Floats:
        """log_probs_NL."""
        raise NotImplementedError

    def predict(self, inputs: Sequence[str]) -> Predictions:
        """See `Method.predict`."""
        return Predictions([self.labels[i] for i in self.log_probs(inputs).argmax(axis=1)] if inputs else [])

    def raw_probabilities(self, inputs: Sequence[str]) -> list[dict[str, float]] | None:
        """See `Method.probabilities`."""
        rows_NL = np.exp(self.log_probs(inputs)) if inputs else []
        return [dict(zip(self.labels, map(float, row), strict=True)) for row in rows_NL]

    def _learn_labels(self, train: Examples) -> NDArray[np.int64]:
        """The number of each example's label."""
        self.labels = two_or_more(example.target for example in train)
        numbers = {label: i for i, label in enumerate(self.labels)}
        return np.array([numbers[example.target] for example in train])

    def _strongest(self, names: Sequence[str], weights_LF: NDArray[Any]) -> dict[str, list[str]]:
        best_LF = np.argsort(-weights_LF, axis=1, kind="stable")[:, :SHOWN].tolist()
        return {self.labels[i]: [names[int(f)] for f in best_F] for i, best_F in enumerate(best_LF)}


def _log_softmax(scores_NL: Floats) -> Floats:
    scores_NL = scores_NL - scores_NL.max(axis=1, keepdims=True)
    return scores_NL - np.log(np.exp(scores_NL).sum(axis=1, keepdims=True))


def stems(word: str) -> Iterator[str]:
    """The word and, as Korean endings vary, the beginnings of a Hangul one, from the longest down."""
    yield word
    if "가" <= word[0] <= "힣":
        yield from (word[:n] for n in range(len(word) - 1, 0, -1))


class Lexicon(LabelMethod):
    """Sums up word weights: log-odds that stand out of chance (Monroe et al. 2008), or the user's own.

    Of a Korean word its longest known beginning counts. A text without known words gets the labels' shares.
    """

    name = "lexicon"

    class Options(StrictModel):
        """lexicon: a UTF-8 file of lines "word TAB label [TAB weight]"; "": learn one. max_words: bound."""

        lexicon: str = ""
        max_words: PositiveInt = 50_000

    def fit(self, train: Examples, valid: Examples, work: Work = Work()) -> FitReport:
        """See `Method.fit`. Raises UserError for a lexicon without words, with a broken line or label."""
        keeper, both = TimeKeeper.of(work), [*train, *valid]  # nothing is chosen
        labels_N = self._learn_labels(both)
        self._prior_L = np.log(np.bincount(labels_N) / len(labels_N))
        own, pairs = self.options.lexicon, [*zip(labels_N.tolist(), both, strict=True)]

        def learn(count: int, share: float) -> None:
            self._set(self._read(Path(own)) if own else self._count(keeper.some(pairs[:count], share)))

        learn(len(train), 0.4)
        if keeper.affords(0):
            self.calibrate(valid)
        learn(len(pairs), 0.8)
        words = self._strongest(list(self._numbers), self._weights_WL.T)
        return FitReport({"words": words} | keeper.facts(train, valid))

    def _set(self, weights: dict[str, list[float]]) -> None:
        self._numbers = {word: i for i, word in enumerate(weights)}
        self._weights_WL = np.array(list(weights.values()) or np.zeros((0, len(self.labels))))

    def _count(self, examples: Iterable[tuple[int, Example[Any, Any]]]) -> dict[str, list[float]]:
        """Log-odds of each word in a label (by number) against the others, 0 where not above chance."""
        counts: list[Counter[str]] = [Counter() for _ in self.labels]
        for label, example in examples:
            counts[label].update({stem for word in counted_words(example.input) for stem in stems(word)})
        total = sum(counts, Counter[str]())
        words = sorted(total, key=lambda word: (-total[word], word))[: self.options.max_words]
        here_LW = np.array([[count[word] for word in words] for count in counts], dtype=np.float64)
        weights_LW = log_odds(here_LW)
        return {word: weights_LW[:, w].tolist() for w, word in enumerate(words) if weights_LW[:, w].any()}

    def _read(self, path: Path) -> dict[str, list[float]]:
        weights: dict[str, list[float]] = {}
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"lexicon {path} cannot be read ({error.strerror}); give its path") from None
        for number, line in enumerate(decoded(content, f"lexicon {path}").splitlines(), start=1):
            if not line.strip():
                continue
            try:
                word, label, weight = (*line.split("\t"), "1")[:3]
                found = weights.setdefault(word.lower(), [0.0] * len(self.labels))
                found[self.labels.index(label)] += float(weight)
                if not math.isfinite(float(weight)):
                    raise ValueError
            except ValueError:
                raise UserError(
                    f"{path}:{number}: not 'word TAB label [TAB weight]' with a label of {list(self.labels)} "
                    "and a finite weight"
                ) from None
        if not weights:
            raise UserError(f"lexicon {path} has no words; give lines of 'word TAB label [TAB weight]'")
        return weights

    def _number(self, word: str) -> int | None:
        return next((self._numbers[stem] for stem in stems(word) if stem in self._numbers), None)

    def log_probs(self, inputs: Sequence[str]) -> Floats:
        """log_probs_NL: the softmax of the summed weights; equal sums: the commoner label."""
        rows = []
        for text in inputs:
            known = [number for word in counted_words(text) if (number := self._number(word)) is not None]
            sums_L = self._weights_WL[known].sum(axis=0)
            rows.append(sums_L + TIE * self._prior_L if known else self._prior_L)
        return _log_softmax(np.array(rows))

    def insides(self, value: str) -> tuple[Source, ...]:
        """See `Method.insides`."""
        words = value.split()
        added_LW = np.zeros((len(self.labels), len(words)))
        known = False
        for place, word in enumerate(words):
            for part in counted_words(word):
                if (number := self._number(part)) is not None:
                    added_LW[:, place] += self._weights_WL[number]
                    known = True
        bias_L = np.zeros(len(self.labels)) if known else np.asarray(self._prior_L)
        return ReadText(value), BagOfWords(tuple(words), tuple(self.labels), added_LW, bias_L)

    def parts(self) -> Parts:
        """See `Method.parts`."""
        weights = {word: self._weights_WL[i].tolist() for word, i in self._numbers.items()}
        config: Json = {"labels": list(self.labels), "prior": self._prior_L.tolist()}
        return Parts(config, files={"lexicon.json": json.dumps(weights, ensure_ascii=False).encode()})

    def restore(self, parts: Parts) -> None:
        """See `Method.restore`."""
        self.labels, self._prior_L = parts.config["labels"], np.array(parts.config["prior"])
        self._set(json.loads(parts.files["lexicon.json"]))


def counted_words(text: str) -> list[str]:
    """What a lexicon counts: words in lower case, without signs."""
    return words_in(text.lower())


def log_odds(counts_LW: Floats) -> Floats:
    """Log-odds of each word in each label against the rest, with a Dirichlet prior of the words' shares;
    0 where it is below SIGNIFICANT deviations (Monroe et al. 2008, equations 16 and 20)."""
    total_W = counts_LW.sum(axis=0)
    prior_W = PRIOR_WORDS * total_W / total_W.sum()
    inside_LW, outside_LW = counts_LW + prior_W, total_W - counts_LW + prior_W
    odds_LW = np.log(inside_LW / (inside_LW.sum(axis=1, keepdims=True) - inside_LW))
    odds_LW -= np.log(outside_LW / (outside_LW.sum(axis=1, keepdims=True) - outside_LW))
    deviation_LW = np.sqrt(1 / inside_LW + 1 / outside_LW)
    return np.where(odds_LW / deviation_LW >= SIGNIFICANT, odds_LW, 0.0)


VIEWS = ((NgramView("word", 1, 2), NgramView("char_wb", 1, 5)), (NgramView("char", 1, 5),))
CHOICE_TEXTS = 10_000  # of training, while constants are chosen
PROBED_TEXTS = 1000  # of these, to see how long that takes


class _Setting(NamedTuple):
    views: tuple[NgramView, ...]
    c: float
    balanced: bool
    ratios: bool


class _Cut(NamedTuple):
    """Examples to learn from: their labels, and their rows by views, which are made once."""

    targets: list[str]
    rows: Callable[[tuple[NgramView, ...]], tuple[Vectors, Any]]


def _cut(examples: Examples, max_features: int) -> _Cut:
    texts = [example.input for example in examples]

    @cache
    def rows(views: tuple[NgramView, ...]) -> tuple[Vectors, Any]:
        vectors = Vectors(views, max_features).fit(texts)
        return vectors, vectors.rows(texts)

    return _Cut([example.target for example in examples], rows)


def _tried(option: bool | None) -> tuple[bool, ...]:
    return (False, True) if option is None else (option,)


class TfIdf(LabelMethod):
    """Logistic regression over n-grams of words and of characters, weighed by naive Bayes' log-count ratios
    where that helps to tell two labels apart (Wang & Manning 2012)."""

    name = "tfidf"
    libraries = LIBRARIES

    class Options(StrictModel):
        """c: inverse strengths of the L2 penalty to try, the usual one first. balanced: whether every label
        weighs the same (None: try both). ratios: whether features are multiplied by naive Bayes' log-count
        ratios, of two labels (None: try both). max_features: of a view. max_iterations: of the solver."""

        c: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (4.0, 1.0, 16.0)
        balanced: bool | None = None
        ratios: bool | None = None
        max_features: PositiveInt = 400_000
        max_iterations: PositiveInt = 100

    def check(self, train: Examples) -> None:
        """Raises UserError where ratios are asked for and there are more than two labels."""
        labels = {example.target for example in train}
        if self.options.ratios and len(labels) > 2:
            raise UserError(f"tfidf: ratios are for two labels, here are {len(labels)}; leave ratios out")

    def fit(self, train: Examples, valid: Examples, work: Work = Work()) -> FitReport:
        """See `Method.fit`. Views, C, balance and ratios are chosen on `valid` one after another; with these
        it learns from all examples."""
        self.check(train)
        keeper, options = TimeKeeper.of(work), self.options
        self._learn_labels(train)
        shuffled = [train[i] for i in np.random.default_rng(0).permutation(len(train))]
        every_label = {example.target: example for example in train}.values()
        few, some, whole, both = (
            _cut(part, options.max_features)
            for part in (
                [*shuffled[:PROBED_TEXTS], *every_label], [*shuffled[:CHOICE_TEXTS], *every_label],
                train, [*train, *valid],
            )
        )  # fmt: skip
        times = len(both.targets) / len(some.targets)  # what the last fit is of a try
        balanced = _tried(options.balanced)
        ratios = _tried(options.ratios if len(self.labels) == 2 else False)
        setting = _Setting(VIEWS[0], options.c[0], balanced[0], ratios[0])
        if valid:
            keeper.expect(lambda n: self._fit_with(setting, few, n), options.max_iterations)
            keeper.try_s *= len(some.targets) / len(few.targets)
            fields = {"views": VIEWS, "c": options.c, "balanced": balanced}
            setting = keeper.best(setting, fields, lambda it: self._value(it, some, valid), times)
            if keeper.affords(1 + times):
                self._fit_with(setting, some, options.max_iterations)
                self.calibrate(valid)
            keeper.try_s *= times
            # ratios pay where texts are many
            setting = keeper.best(setting, {"ratios": ratios}, lambda it: self._value(it, whole, valid))
        self._learn_labels([*train, *valid])
        setting = setting._replace(ratios=setting.ratios and len(self.labels) == 2)
        both.rows(setting.views)
        iterations = keeper.iterations(lambda n: self._fit_with(setting, both, n), options.max_iterations)
        self._fit_with(setting, both, iterations)
        strongest = self._strongest(self._vectors.names, self._weights_FL.T)
        facts = {"setting": setting._asdict(), "features": len(self._weights_FL), "words": strongest}
        return FitReport(facts | keeper.facts(train, valid))

    def _value(self, setting: _Setting, learned: _Cut, valid: Examples) -> float:
        """How good it is on `valid` when it has learned from `learned`."""
        self._fit_with(setting, learned, self.options.max_iterations)
        return quality(self.task, self.predict([example.input for example in valid]).values, valid)

    def _fit_with(self, setting: _Setting, learned: _Cut, iterations: int) -> None:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        targets = learned.targets
        self._vectors, rows_NF = learned.rows(setting.views)
        model = LogisticRegression(
            C=setting.c, class_weight="balanced" if setting.balanced else None, random_state=0,
            solver="liblinear" if len(set(targets)) == 2 else "lbfgs", max_iter=iterations,
        )  # fmt: skip
        scale_F = log_count_ratios(rows_NF, np.array(targets) == self.labels[1]) if setting.ratios else 1.0
        with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
            model.fit(rows_NF.multiply(scale_F).tocsr(), targets)
        weights_LF, self._bias_L = softmax_layer(model)
        self._weights_FL = np.ascontiguousarray((weights_LF * scale_F).T, dtype=np.float32)

    def log_probs(self, inputs: Sequence[str]) -> Floats:
        """log_probs_NL."""
        scores_NL = self._vectors.rows(inputs) @ self._weights_FL + self._bias_L
        return _log_softmax(scores_NL.astype(np.float64))

    def insides(self, value: str) -> tuple[Source, ...]:
        """See `Method.insides`: each n-gram's part in the scores, divided among its words."""
        words, names = value.split(), self._vectors.names
        row_F = self._vectors.rows([value]).tocsr()
        added_FL = row_F.data[:, None].astype(np.float64) * self._weights_FL[row_F.indices]
        terms = [names[feature] for feature in row_F.indices]
        added_LW = np.zeros((len(self.labels), len(words)))
        for term, added_L in zip(terms, added_FL, strict=True):
            added_LW += np.outer(added_L, _shares(term, words))
        bias_L = self._bias_L.astype(np.float64)
        telling = _most_telling(terms, added_FL, bias_L)
        return ReadText(value), BagOfWords(tuple(words), tuple(self.labels), added_LW, bias_L, telling)

    def parts(self) -> Parts:
        """See `Method.parts`."""
        tensors = {"weights": self._weights_FL, "bias": self._bias_L}
        parts = Parts({"labels": list(self.labels)}, tensors)
        self._vectors.save(parts)
        return parts

    def restore(self, parts: Parts) -> None:
        """See `Method.restore`."""
        self.labels, self._vectors = parts.config["labels"], Vectors.restore(parts)
        self._weights_FL, self._bias_L = parts.tensors["weights"], parts.tensors["bias"]


def _most_telling(terms: list[str], added_FL: Floats, bias_L: Floats) -> tuple[tuple[str, Floats], ...]:
    """The n-grams that say most about the winner."""
    winner = int((added_FL.sum(0) + bias_L).argmax())
    said_F = np.abs(added_FL[:, winner] - added_FL.mean(1))
    return tuple((terms[f], added_FL[f]) for f in np.argsort(-said_F, kind="stable")[:STRONGEST])


def _shares(term: str, words: Sequence[str]) -> Floats:
    """How much of an n-gram belongs to each word: 1 in all."""
    touched = np.zeros(len(words))
    for first, last in _places(term, words):
        touched[first : last + 1] += 1 / (last + 1 - first)
    return touched / touched.sum() if touched.any() else np.full(len(words), 1 / max(1, len(words)))


def _places(term: str, words: Sequence[str]) -> Iterator[tuple[int, int]]:
    """(first, last) word of each place where an n-gram of words, or of characters («»), stands."""
    if term.startswith("«"):
        text, gram = f" {' '.join(words)} ".lower(), term[1:-1]
        owners = np.cumsum([letter == " " for letter in text]) - 1
        start = text.find(gram)
        while start >= 0:
            inner = [place for place in range(start, start + len(gram)) if text[place] != " "] or [start]
            yield min(owners[inner[0]], len(words) - 1), min(owners[inner[-1]], len(words) - 1)
            start = text.find(gram, start + 1)
        return
    pairs = [(part, w) for w, word in enumerate(words) for part in re.findall(TERM, word.lower())]
    wanted = term.split(" ")
    for start in range(len(pairs) - len(wanted) + 1):
        if [part for part, _ in pairs[start : start + len(wanted)]] == wanted:
            yield pairs[start][1], pairs[start + len(wanted) - 1][1]
