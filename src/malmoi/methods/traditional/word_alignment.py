"""Word-by-word translation: IBM Model 1 (Brown et al. 1993) and an n-gram model of the target language.

A word keeps the space before it (" word", "."), so a translation is its words one after another.

Shape letters: P sentence pairs, C cells (a source word beside a target word of one pair), K different cells,
S source words, B hypotheses.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt

from malmoi.core.config import StrictModel
from malmoi.core.errors import UserError
from malmoi.core.nouns import Examples, FitReport, Predictions, Work
from malmoi.methods.base import Method, Parts
from malmoi.methods.traditional.choice import TimeKeeper, quality
from malmoi.metrics.word_table import Pair, Table, learn_table
from malmoi.models.ngram import KneserNey
from malmoi.tasks.kinds import TEXT
from malmoi.util.scripts import MARKS, SPACELESS, run_of

UNKNOWN = 1  # of source words, after NULL; of target words 0 begins a sentence
MAX_CELLS = 16_000_000  # some 50 bytes of memory each; pairs beyond are left out
MAX_WORDS = 60  # of a sentence in training; longer pairs are left out
KEPT = ("sources", "translations", "log_probs", "fertility")  # tensors
BEAM = 6
ORDER = 3
CHOICE_TEXTS = 60
WEIGHTS = (
    (0.3, 0.0),
    (0.3, 2.0),
    (0.6, 2.0),
    (0.6, 4.0),
    (0.6, 6.0),
    (1.0, 6.0),
    (1.0, 9.0),
)  # of the LM, a word's bonus


_RUN = run_of(rf"(?:(?![{SPACELESS}])[\w'’])")
_WORD = re.compile(rf" ?[{SPACELESS}][{MARKS}]*| ?{_RUN}| ?[^\w\s][{MARKS}]*")


def words(text: str) -> list[str]:
    """Words and signs, each with one space before it where the text has white space (or begins); of scripts
    without spaces letters."""
    return _WORD.findall(" " + " ".join(text.split()))


def _is_sign(word: str) -> bool:
    return not any(map(str.isalnum, word))


class _Weighing(NamedTuple):
    weights: tuple[float, float]  # one of WEIGHTS


class _Hypothesis(NamedTuple):
    score: float
    text: str
    context: tuple[int, ...]  # the last ORDER - 1 target words


class Ibm1(Method):
    """Keeps the source order; chooses among each word's best translations by their probability and the
    language model. A word of fertility f is left out with probability exp(-f); an unknown one is copied."""

    name, family, kinds, only = "ibm1", "traditional", frozenset({TEXT}), frozenset({"parallel"})

    class Options(StrictModel):
        """iterations: of EM. max_words: vocabulary of each side. candidates: translations kept of a word."""

        iterations: PositiveInt = 8
        max_words: PositiveInt = 30_000
        candidates: PositiveInt = 8

    def fit(self, train: Examples, valid: Examples, work: Work = Work()) -> FitReport:
        """See `Method.fit`. Raises UserError where there are no pairs."""
        keeper = TimeKeeper.of(work)
        self._weights = WEIGHTS[1]
        table = keeper.timed(lambda: self._learn(train, lambda: keeper.within(0.5)))
        self._weigh(valid[:CHOICE_TEXTS], replace(keeper, try_s=0.0))
        if learned := keeper.also(valid, 1 + len(valid) / len(train)):
            table = self._learn([*train, *learned], lambda: keeper.affords(0))
        if count := self.options.iterations - len(table.log_likelihoods):
            keeper.left_out.append(f"{count} of {self.options.iterations} iterations")
        facts = {"log_likelihoods": table.log_likelihoods, "weights": self._weights}
        return FitReport(facts | keeper.facts(train, learned))

    def _learn(self, examples: Examples, go_on: Callable[[], bool]) -> Table:
        """Count the words of both sides, and which stand for which."""
        texts = [(words(example.input.lower()), words(example.target)) for example in examples]
        self._sources = self._numbered([source for source, _ in texts], first=UNKNOWN + 1)
        targets = self._numbered([target for _, target in texts], first=2)
        self._targets = ["", "", *targets]
        pairs = [([self._sources.get(w, 1) for w in s], [targets.get(w, 1) for w in t]) for s, t in texts]
        stream = [id for _, target in pairs for id in (*[0] * (ORDER - 1), *target)]
        if not any(id for id in stream):
            raise UserError("there is no pair of texts to learn from; give at least one with words")
        self._model = KneserNey.fit(np.array(stream), len(self._targets), order=ORDER)
        table = learn_table(_bounded(pairs), len(self._sources) + 2, self.options.iterations, go_on)
        self._keep(table)
        return table

    def _numbered(self, texts: Sequence[Sequence[str]], first: int) -> dict[str, int]:
        counts = Counter(word for text in texts for word in text)
        kept = sorted(counts, key=lambda word: (-counts[word], word))[: self.options.max_words]
        return {word: number for number, word in enumerate(kept, first)}

    def _keep(self, table: Table) -> None:
        """The best translations of each source word, the best first."""
        order_K = np.lexsort((table.targets_K, -table.probs_K, table.sources_K))
        signs_T = np.array([_is_sign(word) for word in self._targets])  # they are copied, not translated
        known_K = (table.sources_K > UNKNOWN) & ~signs_T[table.targets_K]
        order_K = order_K[known_K[order_K]]
        sources_K = table.sources_K[order_K]
        kept_K = np.arange(len(order_K)) - np.searchsorted(sources_K, sources_K) < self.options.candidates
        order_K, sources_K = order_K[kept_K], sources_K[kept_K]
        fertility_K = np.clip(table.fertility_S[sources_K], 1e-3, 20)
        kept = (sources_K, table.targets_K[order_K], np.log(table.probs_K[order_K]), fertility_K)
        self._index(dict(zip(KEPT, kept, strict=True)))

    def _index(self, tensors: dict[str, NDArray[Any]]) -> None:
        """translations: each source word's (target id, nats), 0 for leaving it out."""
        self._tensors, self._translations = tensors, dict[int, list[tuple[int, float]]]()
        for source, target, nats, fertility in zip(
            *(part.tolist() for part in tensors.values()), strict=True
        ):
            ways = self._translations.setdefault(source, [(0, -fertility)])
            ways.append((target, nats + math.log1p(-math.exp(-fertility))))

    def _weigh(self, valid: Examples, keeper: TimeKeeper) -> None:
        def value(setting: _Weighing) -> float:
            self._weights = setting.weights
            return quality(self.task, self.predict([example.input for example in valid]).values, valid)

        if valid:
            self._weights = keeper.best(_Weighing(WEIGHTS[1]), {"weights": WEIGHTS}, value, last=0).weights

    def predict(self, inputs: Sequence[str]) -> Predictions:
        """See `Method.predict`."""
        return Predictions([self._translate(text) for text in inputs])

    def _translate(self, text: str) -> str:
        beam = [_Hypothesis(0.0, "", (0,) * (ORDER - 1))]
        for word in words(text):
            source = UNKNOWN if _is_sign(word) else self._sources.get(word.lower(), UNKNOWN)
            beam = self._grown(beam, word, self._translations.get(source, [(UNKNOWN, 0.0)]))
        return beam[0].text.strip()

    def _grown(
        self, beam: list[_Hypothesis], word: str, options: list[tuple[int, float]]
    ) -> list[_Hypothesis]:
        """The best hypotheses of one source word more, one for each end of the text, the best first."""
        trigrams = [(*h.context, id) for h in beam for id, _ in options]
        nats = iter(self._model.token_log_probs(np.array(trigrams).ravel())[ORDER - 1 :: ORDER])
        weight, bonus = self._weights
        best: dict[tuple[int, ...], _Hypothesis] = {}
        for hypothesis in beam:
            for id, log_prob in options:
                language = weight * float(next(nats)) + bonus if id else 0.0
                context = (*hypothesis.context[1:], id) if id else hypothesis.context
                piece = word if id == UNKNOWN else self._targets[id]
                grown = _Hypothesis(hypothesis.score + log_prob + language, hypothesis.text + piece, context)
                if context not in best or grown.score > best[context].score:
                    best[context] = grown
        return sorted(best.values(), key=lambda h: (-h.score, h.text))[:BEAM]

    def parts(self) -> Parts:
        """See `Method.parts`."""
        config = {"weights": list(self._weights), "language_model": self._model.config}
        vocabulary = json.dumps([list(self._sources), self._targets], ensure_ascii=False).encode()
        return Parts(config, self._tensors | self._model.tensors(), {"vocabulary.json": vocabulary})

    def restore(self, parts: Parts) -> None:
        """See `Method.restore`."""
        sources, self._targets = json.loads(parts.files["vocabulary.json"])
        self._sources = {word: number for number, word in enumerate(sources, UNKNOWN + 1)}
        first, second = parts.config["weights"]
        self._weights = (first, second)
        self._model = KneserNey.from_tensors(parts.config["language_model"], parts.tensors)
        self._index({name: parts.tensors[name] for name in KEPT})


def _bounded(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs that are short enough and fit into memory. Raises UserError where none is left."""
    short = [(s, t) for s, t in pairs if 0 < len(s) <= MAX_WORDS and 0 < len(t) <= MAX_WORDS]
    sizes = np.cumsum([(len(source) + 1) * len(target) for source, target in short])
    if not short:
        raise UserError(f"no pair has 1 to {MAX_WORDS} words on both sides; give shorter texts")
    return short[: max(1, int(np.searchsorted(sizes, MAX_CELLS)))]
