"""Named entities by a conditional random field on hand-made features (Lafferty et al. 2001)."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pycrfsuite
from pydantic import NonNegativeFloat, PositiveInt

from malmoi.core.config import StrictModel
from malmoi.core.errors import UserError
from malmoi.core.nouns import Entity, Example, Examples, FitReport, Predictions, Work
from malmoi.methods.base import Method, Parts, unsure
from malmoi.methods.traditional.choice import TimeKeeper
from malmoi.tasks.kinds import TAGS
from malmoi.text.units import OUTSIDE, Span, bio_tags, entities_of, units

CRFSUITE: Any = pycrfsuite  # its compiled part has no types
MODEL_FILE = "model.crfsuite"
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)
DEFAULT = 0.7  # where nothing is held out
LEAST_SHARE = 1e-6  # of a tag, where logarithms are taken
FEATURES_SHARE = 0.4  # of a budget, that making features may take
Marginals = dict[str, float]


def features(text: str, spans: Sequence[Span]) -> list[list[str]]:
    """What each unit shows: itself, its shape and parts, and its neighbours up to two units away."""
    words = [text[start:end] for start, end in spans]
    glued = [a[1] == b[0] for a, b in pairwise(spans)]
    own = [_own(word) for word in words]
    rows = []
    for i, word in enumerate(words):
        row = ["bias", *own[i], *_syllables(text, spans[i])]
        row += [f"glued:{k}" for k in (-1, 0) if 0 <= i + k < len(glued) and glued[i + k]]
        row += [f"{k}{part}" for k in (-2, -1, 1, 2) if 0 <= i + k < len(words) for part in own[i + k][:3]]
        row += [f"pair:{words[i - 1].lower()} {word.lower()}"] if i else ["begin"]
        rows.append(row if i + 1 < len(words) else [*row, "end"])
    return rows


def _own(word: str) -> list[str]:
    """The features of one unit alone; the first three are shown to its neighbours too."""
    lower, shape = word.lower(), "".join(map(_kind, word[:12]))
    short = "".join(kind for i, kind in enumerate(shape) if not i or shape[i - 1] != kind)
    parts = [f"{n}^{lower[:n]}" for n in range(1, 5)] + [f"{n}${lower[-n:]}" for n in range(1, 5)]
    return [f"w:{lower}", f"s:{short}", f"c:{word[:1].isupper()}", f"S:{shape}", *parts]


def _kind(character: str) -> str:
    if "가" <= character <= "힣":
        return "가"
    if character.isdigit():
        return "0"
    if character.isalpha():
        return "A" if character.isupper() else "a"
    return character


def _syllables(text: str, span: Span) -> list[str]:
    """For Korean, where words are of several units: the word's rest on both sides, and n-grams around."""
    start, end = span
    if not "가" <= text[start] <= "힣":
        return []
    after = text[end : end + 4].partition(" ")[0]
    before = text[max(0, start - 4) : start].rpartition(" ")[2]
    grams = [
        f"gram:{left}{n}:{text[max(0, start - left) : start - left + n]}" for n in (2, 3) for left in (0, 1)
    ]
    return [f"after:{after}", f"before:{before}", f"word:{before}|{text[start]}|{after}", *grams]


def _tagged(spans: Sequence[Span], marginals: Sequence[Marginals], threshold: float) -> tuple[Entity, ...]:
    """A unit is outside only where that is more probable than `threshold`."""
    tags = [
        OUTSIDE
        if row.get(OUTSIDE, 0.0) > threshold
        else max(row.keys() - {OUTSIDE}, key=lambda t: (row[t], t), default=OUTSIDE)
        for row in marginals
    ]
    return entities_of(spans, tags)


def _show(trainer: Any, example: Example[Any, Any]) -> None:
    """An example to learn from."""
    spans = units(example.input)
    trainer.append(features(example.input, spans), bio_tags(spans, example.target))


class Crf(Method):
    """A linear-chain CRF, trained with L-BFGS by CRFsuite (Okazaki 2007).

    It takes each unit's most probable tag, but believes in "outside" only above a threshold chosen on valid:
    the best path misses most names that training never saw.
    """

    name, family, kinds = "crf", "traditional", frozenset({TAGS})

    class Options(StrictModel):
        """c1, c2: strength of the L1 and L2 penalty. iterations: the most passes over the data."""

        c1: NonNegativeFloat = 0.02
        c2: NonNegativeFloat = 0.2
        iterations: PositiveInt = 80

    def fit(self, train: Examples, valid: Examples, work: Work = Work()) -> FitReport:
        """See `Method.fit`. Raises UserError where no text has an entity."""
        if not any(example.target for example in train):
            raise UserError("no training text has an entity; give texts with marked names")
        keeper = TimeKeeper.of(work)
        trainer = CRFSUITE.Trainer(algorithm="lbfgs", verbose=False)
        for example in keeper.some(train, FEATURES_SHARE):
            _show(trainer, example)
        iterations = keeper.iterations(lambda n: self._train(trainer, n), self.options.iterations)
        keeper.timed(lambda: self._train(trainer, iterations))
        chosen_by = [*keeper.some(valid, 0.9, "texts to choose by")]
        self._choose(chosen_by)
        self.calibrate(chosen_by)
        for example in (learned := keeper.also(valid, 1 + len(valid) / len(train))):
            _show(trainer, example)
        if learned:
            self._train(trainer, iterations)
        facts = {"labels": self._tagger.labels(), "threshold": self._threshold, "bytes": len(self._model)}
        return FitReport(facts | keeper.facts(train, learned))

    def _train(self, trainer: Any, iterations: int) -> None:
        """Learn from what was shown, in so many passes."""
        o = self.options
        trainer.set_params({"c1": o.c1, "c2": o.c2, "max_iterations": iterations})
        with tempfile.TemporaryDirectory() as folder:
            trainer.train(str(Path(folder) / MODEL_FILE))
            self._open((Path(folder) / MODEL_FILE).read_bytes())

    def _choose(self, valid: Examples) -> None:
        """The highest threshold whose F1 is within one standard error of the best: other text has more names
        that training never saw than text held out of it."""
        marginals = [self.marginals(example.input) for example in valid]
        num_true = sum(len(example.target) for example in valid)

        def f1(threshold: float) -> float:
            found = [set(_tagged(spans, rows, threshold)) for spans, rows in marginals]
            right = sum(len(f.intersection(e.target)) for f, e in zip(found, valid, strict=True))
            return 2 * right / max(1, sum(map(len, found)) + num_true)

        scores = {threshold: f1(threshold) for threshold in THRESHOLDS}
        best = max(scores.values())
        enough = best - math.sqrt(best * (1 - best) / max(1, num_true))
        self._threshold = max(t for t, score in scores.items() if score >= enough) if num_true else DEFAULT

    def _open(self, model: bytes) -> None:
        self._model, self._tagger = model, CRFSUITE.Tagger()
        self._tagger.open_inmemory(model)

    def predict(self, inputs: Sequence[str]) -> Predictions:
        """See `Method.predict`."""
        return Predictions([_tagged(*self.marginals(text), self._threshold) for text in inputs])

    def sureness(self, inputs: Sequence[str], answers: Sequence[Any]) -> list[float] | None:
        """Of each text the log-probability of its units' tags, as if each stood alone."""
        found: list[float] = []
        for text, entities in zip(inputs, answers, strict=True):
            spans, marginals = self.marginals(text)
            tags = bio_tags(spans, entities)
            shares = (row.get(tag, 0.0) for tag, row in zip(tags, marginals, strict=True))
            found.append(sum(math.log(max(share, LEAST_SHARE)) for share in shares))
        return found

    def unsureness(self, inputs: Sequence[str]) -> list[float] | None:
        """See `Method.unsureness`: of the unit of each text that it is least sure of."""
        rows = (self.marginals(text)[1] for text in inputs)
        return [max((unsure(row.values()) for row in marginals), default=0.0) for marginals in rows]

    def marginals(self, text: str) -> tuple[list[Span], list[Marginals]]:
        """The units' spans, and each unit's probability of every tag."""
        spans, tags = units(text), self._tagger.labels()
        self._tagger.set(features(text, spans))
        return spans, [{tag: self._tagger.marginal(tag, i) for tag in tags} for i in range(len(spans))]

    def parts(self) -> Parts:
        """See `Method.parts`."""
        return Parts({"threshold": self._threshold}, files={MODEL_FILE: self._model})

    def restore(self, parts: Parts) -> None:
        """See `Method.restore`."""
        self._threshold = parts.config["threshold"]
        try:
            self._open(parts.files[MODEL_FILE])
        except ValueError as error:
            raise UserError(f"{MODEL_FILE} is damaged ({error}); train or copy the folder again") from None
