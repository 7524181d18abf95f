"""The features method: a language model reads, logistic regression decides.

The model stays as it is; a text's vector behind its last layer is all that is used. Shape letters: N texts,
D width, L labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt

from malmoi.core.config import StrictModel
from malmoi.core.nouns import Examples, FitReport, Predictions, Work
from malmoi.engine.embed import Embedder, Vector
from malmoi.hub.folder import model_with, stored_bytes, weights_hash
from malmoi.inside.sources import ReadText, Source
from malmoi.methods.base import Method, Parts, cut_words
from malmoi.methods.llm.prompted import ModelPath
from malmoi.methods.traditional.choice import STRENGTHS, TimeKeeper, fit_head, missing_labels, quality
from malmoi.tasks.checks import refuse_too_few_labels, two_or_more
from malmoi.tasks.kinds import LABEL
from malmoi.util.hardware import pick_device
from malmoi.util.units import counted

PORTION = 256  # texts that are read between two looks at the clock


class FeaturesOptions(StrictModel):
    """model: a language model's folder or GGUF file. vector: which one of a text (None: the better one in
    validation). max_tokens: of a window; a longer text is read in `max_windows` overlapping ones at most.
    strength: inverse one of the L2 penalty (None: as validation chooses)."""

    model: ModelPath = ""
    vector: Vector | None = None
    max_tokens: PositiveInt = 256
    max_windows: PositiveInt = 16
    strength: PositiveFloat | None = Field(None)


class _Setting(NamedTuple):
    vector: str
    strength: float


class _Read(NamedTuple):
    """Examples with their vectors_ND of each way."""

    examples: list[Any]
    vectors: dict[str, Any]

    def joined(self, more: _Read) -> _Read:
        """These and then those."""
        if not self.examples or not more.examples:
            return self if self.examples else more
        vectors = {way: np.concatenate((one, more.vectors[way])) for way, one in self.vectors.items()}
        return _Read(self.examples + more.examples, vectors)


class Features(Method):
    """A language model's vectors below a logistic regression (as of Alain & Bengio 2017's probes)."""

    name, family, kinds = "features", "transformer", frozenset({LABEL})
    needs_model = True
    libraries = ("sklearn.linear_model",)
    Options = FeaturesOptions
    embedder: Embedder

    def fit(self, train: Examples, valid: Examples, work: Work = Work()) -> FitReport:
        """See `Method.fit`. Raises UserError where there is one label only."""
        o, keeper = self.options, TimeKeeper.of(work)
        refuse_too_few_labels(train, self.task.kind)
        self._open(Path(o.model).resolve(), weights_hash(Path(o.model)))
        work.say(f"reading {counted(len(train) + len(valid), 'text')}")
        read = self._read(keeper, train, 0.6)
        read = read.joined(self._read(keeper, missing_labels(read.examples, train, self.task.kind), 1.0))
        seen = self._read(keeper, valid, 0.8)
        ways = [o.vector] if o.vector else list(self.embedder.ways)
        fields = {"vector": ways, "strength": [o.strength] if o.strength else STRENGTHS}
        setting = _Setting(ways[0], fields["strength"][0])
        if valid:
            setting = keeper.best(setting, fields, lambda it: self._value(it, read, seen))
            if self.task.kind.is_set and seen.examples:
                self._value(setting, read, seen)  # once more, for its thresholds
            else:
                self._learn(setting, read)
            self.calibrate(seen.examples, self._shares(seen.vectors[setting.vector]))
        self._learn(setting, read.joined(seen))
        facts = setting._asdict() | {"width": self.embedder.width}
        return FitReport(facts | keeper.facts(read.examples, seen.examples))

    def _read(self, keeper: TimeKeeper, examples: Examples, share: float) -> _Read:
        """As many as there is time for."""
        found: list[_Read] = []
        for part in keeper.portions(examples, PORTION, share, "texts") if examples else ():
            found.append(_Read(list(part), self.embedder.all_vectors([example.input for example in part])))
        return reduce(_Read.joined, found, _Read([], {}))

    def _value(self, setting: _Setting, read: _Read, seen: _Read) -> float:
        self._learn(setting, read)
        return quality(self.task, self._decided(seen.vectors[setting.vector], seen.examples), seen.examples)

    def _decided(self, vectors_ND: Any, seen: Examples) -> list[Any]:
        """The answers to held-out examples."""
        del seen
        return self._answers(vectors_ND)

    def _learn(self, setting: _Setting, read: _Read) -> None:
        self.labels = two_or_more(example.target for example in read.examples)
        numbers = {label: number for number, label in enumerate(self.labels)}
        targets_N = np.array([numbers[example.target] for example in read.examples])
        self._set(setting.vector, *fit_head(read.vectors[setting.vector], targets_N, None, setting.strength))

    def _open(self, path: Path, weights: str) -> None:
        self.weights = weights
        o = self.options
        self.embedder = Embedder(
            path, max_tokens=o.max_tokens, max_windows=o.max_windows, device=str(pick_device())
        )

    def _set(self, way: str, weights_LD: Any, bias_L: Any) -> None:
        self.way, self._weights_LD, self._bias_L = way, weights_LD, bias_L

    def _scores(self, vectors_ND: Any) -> Any:
        return vectors_ND @ self._weights_LD.T + self._bias_L

    def _answers(self, vectors_ND: Any) -> list[Any]:
        return [self.labels[at] for at in self._scores(vectors_ND).argmax(1)]

    def predict(self, inputs: Sequence[Any]) -> Predictions:
        return Predictions(self._answers(self.embedder.vectors(inputs, self.way)) if inputs else [])

    def cut_note(self, inputs: Sequence[str], targets: Sequence[Any] = ()) -> str:
        """See `Method.cut_note`."""
        del targets
        most, tokenizer = self.embedder.most, self.embedder.tokenizer
        long = (text for text in inputs if len(text.encode()) > most)  # a token is a byte at least
        return cut_words(sum(len(tokenizer.encode(text)) > most for text in long), inputs, f"{most:,} tokens")

    def raw_probabilities(self, inputs: Sequence[Any]) -> list[dict[str, float]] | None:
        return self._shares(self.embedder.vectors(inputs, self.way)) if inputs else []

    def _shares(self, vectors_ND: Any) -> list[dict[str, float]]:
        scores_NL = self._scores(vectors_ND).astype(np.float64)
        shares_NL = np.exp(scores_NL - scores_NL.max(1, keepdims=True))
        shares_NL /= shares_NL.sum(1, keepdims=True)
        return [dict(zip(self.labels, row, strict=True)) for row in shares_NL.tolist()]

    def insides(self, value: Any) -> tuple[Source, ...]:
        return (ReadText.of(value, self.embedder.tokenizer),)

    def to(self, device: str) -> Self:
        del device  # the model is where it was opened
        return self

    def costs(self) -> dict[str, float]:
        """On disk it takes what its model takes."""
        return {"disk_bytes": stored_bytes(self.embedder.path)}

    def parts(self) -> Parts:
        """The model stays where it is."""
        known = {"model": str(self.embedder.path), "weights": self.weights, "vector": self.way}
        return Parts(known | {"labels": self.labels}, {"weights": self._weights_LD, "bias": self._bias_L})

    def restore(self, parts: Parts) -> None:
        """Raises UserError where the model is gone, or is another one now."""
        config = parts.config
        path = model_with(config["weights"], (Path(config["model"]), Path(self.options.model)))
        self.labels = list(config["labels"])
        self._open(path.resolve(), config["weights"])
        self._set(self.embedder.way_named(config["vector"]), parts.tensors["weights"], parts.tensors["bias"])
