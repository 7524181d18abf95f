"""Completion: a language model learns every token of every text, and goes on with a new one.

Shape letters: B rows, T positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import PositiveFloat, PositiveInt

from malmoi.core.errors import UserError
from malmoi.core.nouns import Example, Json
from malmoi.core.tensors import IGNORE, Loss, TokenBatch
from malmoi.engine.engine import Engine
from malmoi.engine.request import Sampling
from malmoi.engine.score import score_in_parts
from malmoi.inside.sources import NextTokenModel, ReadText, Source
from malmoi.learn.losses import next_token_loss
from malmoi.methods.base import Parts, cut_words
from malmoi.methods.neural.form import Backbone, Form, NeuralOptions, padded
from malmoi.models.build import build_model
from malmoi.models.config import RecurrentConfig, TransformerConfig
from malmoi.models.language import LanguageModel
from malmoi.tasks.base import Task
from malmoi.text.tokenizer import Tokenizer, train_tokenizer


class ContinuationOptions(NeuralOptions):
    """context: the most tokens of a row; a longer text is learned in parts. A Transformer reads no more at
    once, so its prompts leave room for max_new_tokens."""

    context: PositiveInt = 512
    max_new_tokens: PositiveInt = 64
    temperature: PositiveFloat = 0.7


class ContinuationForm(Form[list[int], LanguageModel]):
    """See the module. A row is eos (which begins a text), a part of the text, and what follows it."""

    Options = ContinuationOptions
    defaults: ClassVar[dict[str, Json]] = {
        "transformer": {"layers": 4, "width": 256, "lr": 5e-3, "dropout": 0.0, "vocab_size": 4096,
                        "batch": 16, "epochs": 3},
        "recurrent": {"width": 256, "lr": 1e-2, "dropout": 0.0, "vocab_size": 4096, "batch": 16,
                      "epochs": 3},
    }  # fmt: skip
    by_metric = False
    tokenizer: Tokenizer

    def __init__(self, options: Any, backbone: Backbone, task: Task[Any, Any]) -> None:
        super().__init__(options, backbone, task)
        if backbone == "transformer" and options.max_new_tokens >= options.context:
            raise UserError(
                f"max_new_tokens {options.max_new_tokens} leaves no room for a prompt in a context of "
                f"{options.context}; lower max_new_tokens or raise context"
            )

    def learn(self, train: Sequence[Example[Any, Any]]) -> None:
        self.tokenizer = train_tokenizer((_text(e) for e in train), "bpe", self.options.vocab_size)

    def build(self) -> LanguageModel:
        o, size = self.options, self.tokenizer.vocab_size
        if self.backbone != "transformer":
            return build_model(
                RecurrentConfig(
                    family=self.backbone, vocab_size=size, layers=o.layers, width=o.width, dropout=o.dropout
                )
            )
        config = TransformerConfig(
            vocab_size=size, context=o.context, layers=o.layers, width=o.width, heads=o.heads, tied=True,
            dropout=o.dropout,
        )  # fmt: skip
        return build_model(config)

    def rows(self, examples: Sequence[Example[Any, Any]]) -> list[list[int]]:
        """Each token but a row's first is learned; the last of a row begins the next one of its text."""
        return text_rows(self.tokenizer, [_text(example) for example in examples], self.options.context)

    def length(self, row: list[int]) -> int:
        return len(row) - 1

    def loss(
        self, model: LanguageModel, rows: Sequence[list[int]], random: np.random.Generator | None
    ) -> Loss:
        del random  # nothing is hidden from a language model
        ids_BT = padded([row[:-1] for row in rows], self.tokenizer.specials.eos)
        targets_BT = padded([row[1:] for row in rows], IGNORE)
        return next_token_loss(model, TokenBatch(ids_BT, targets_BT).to(self.device))

    def cut_note(self, inputs: Sequence[str], targets: Sequence[Any]) -> str:
        if self.backbone != "transformer" or targets:  # it learns all of a text, in parts
            return ""
        most = self.options.context - self.options.max_new_tokens
        long = (text for text in inputs if len(text.encode()) >= most)
        count = sum(len(self.tokenizer.encode(text)) >= most for text in long)
        return cut_words(count, inputs, f"their last {most} tokens")

    def predict(self, model: LanguageModel, inputs: Sequence[Any]) -> list[str]:
        o = self.options
        sampling = Sampling(max_tokens=o.max_new_tokens, temperature=o.temperature, top_k=50, seed=o.seed)
        most = model.context and model.context - o.max_new_tokens
        found = self._engine(model).generate([self._prompt(text, most) for text in inputs], sampling)
        return [completion.text for completion in found]

    def log_likelihood(
        self, model: LanguageModel, inputs: Sequence[str], targets: Sequence[str]
    ) -> list[float]:
        """Of the target's tokens after the input's; what exceeds the context is scored in further parts."""
        pairs = [
            (self._prompt(x, model.context and max(model.context // 2, model.context - len(ids) + 1)), ids)
            for x, ids in zip(inputs, self.tokenizer.encode_batch(targets), strict=True)
        ]
        return score_in_parts(self._engine(model), pairs)

    def _prompt(self, text: str, most: int | None) -> list[int]:
        """Eos, which begins a text, and the text; of these the last `most` ids."""
        ids = [self.tokenizer.specials.eos, *self.tokenizer.encode(text)]
        return ids[-most:] if most else ids

    def _engine(self, model: LanguageModel) -> Engine:
        return Engine(model.eval(), self.tokenizer, max_rows=32)

    def insides(self, model: LanguageModel, value: str) -> tuple[Source, ...]:
        return ReadText(value, self.tokenizer), NextTokenModel(model, self.tokenizer, value)

    def parts(self) -> Parts:
        return Parts().with_tokenizer(self.tokenizer)

    def restore(self, parts: Parts) -> None:
        self.tokenizer = parts.tokenizer()


def text_rows(tokenizer: Tokenizer, texts: Sequence[str], most: int) -> list[list[int]]:
    """Each text between two eos ids, in pieces of `most` tokens and one more, which begins the next one."""
    eos = tokenizer.specials.eos
    rows = [[eos, *ids, eos] for ids in tokenizer.encode_batch(texts)]
    return [row[start : start + most + 1] for row in rows for start in range(0, len(row) - 1, most)]


def _text(example: Example[Any, Any]) -> str:
    return example.input + example.target
