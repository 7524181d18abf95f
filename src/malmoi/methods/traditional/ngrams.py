"""Completion by counting: a Kneser-Ney n-gram model over byte-pair tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field, PositiveInt

from malmoi.core.config import StrictModel
from malmoi.core.nouns import Examples, FitReport, Predictions, Work, with_note
from malmoi.engine.engine import Engine
from malmoi.engine.request import Sampling
from malmoi.engine.score import score
from malmoi.inside.sources import NextTokenModel, ReadText, Source
from malmoi.methods.base import Method, Parts
from malmoi.methods.traditional.choice import TimeKeeper
from malmoi.models.ngram import KneserNey
from malmoi.tasks.kinds import CONTINUATION
from malmoi.text.tokenizer import Tokenizer, train_tokenizer

SAMPLING = Sampling(max_tokens=64, temperature=0.7, seed=0)  # the best token every time would go in circles
READING_SHARE = 0.3  # of a budget; counting takes longer


class NGram(Method):
    """Interpolated modified Kneser-Ney (see `malmoi.models.ngram`)."""

    name, family, kinds = "ngram", "traditional", frozenset({CONTINUATION})

    class Options(StrictModel):
        """order: of the longest n-grams. vocab_size: the most tokens."""

        order: Annotated[int, Field(ge=1, le=8)] = 5
        vocab_size: PositiveInt = 8192

    def fit(self, train: Examples, valid: Examples, work: Work = Work()) -> FitReport:
        """See `Method.fit`. Raises UserError where there is too little text or vocabulary."""
        keeper = TimeKeeper.of(work)
        texts = [example.input + example.target for example in (*train, *valid)]  # nothing is chosen
        tokenizer = train_tokenizer(texts, vocab_size=self.options.vocab_size)
        counted = keeper.some(texts, READING_SHARE, "texts")
        ids = [id for text in counted for id in (tokenizer.specials.eos, *tokenizer.encode(text))]
        model = KneserNey.fit(np.array(ids), tokenizer.vocab_size, order=self.options.order)
        self._set(model, tokenizer)
        facts = {"tokens": model.num_tokens, "vocabulary": tokenizer.vocab_size}
        return FitReport(with_note(facts | keeper.facts(train, valid), model.note))

    def _set(self, model: KneserNey, tokenizer: Tokenizer) -> None:
        self._model, self._tokenizer, self._engine = model, tokenizer, Engine(model, tokenizer)

    def _prompts(self, inputs: Sequence[str]) -> list[list[int]]:
        return [[self._tokenizer.specials.eos, *self._tokenizer.encode(text)] for text in inputs]

    def predict(self, inputs: Sequence[str]) -> Predictions:
        """See `Method.predict`: at most 64 tokens, drawn with the same seed for every input."""
        return Predictions(
            [completion.text for completion in self._engine.generate(self._prompts(inputs), SAMPLING)]
        )

    def log_likelihood(self, inputs: Sequence[str], targets: Sequence[str]) -> list[float]:
        """Nats of each target after its input; what ends a text is not counted, as a piece's end is none."""
        return score(self._engine, self._prompts(inputs), targets)

    def insides(self, value: str) -> tuple[Source, ...]:
        """See `Method.insides`."""
        return ReadText(value, self._tokenizer), NextTokenModel(self._model, self._tokenizer, value)

    def parts(self) -> Parts:
        """See `Method.parts`."""
        return Parts(dict(self._model.config), self._model.tensors()).with_tokenizer(self._tokenizer)

    def restore(self, parts: Parts) -> None:
        """See `Method.restore`."""
        self._set(KneserNey.from_tensors(parts.config, parts.tensors), parts.tokenizer())
