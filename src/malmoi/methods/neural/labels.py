"""Classification: sub-words, an encoder, one vector for the whole text, a label or a set of them.

Shape letters: B rows, T positions, L labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveInt
from torch import Tensor

from malmoi.core.nouns import Example, Json
from malmoi.core.tensors import IGNORE, Loss
from malmoi.data.batches import overlapping, reach
from malmoi.methods.base import Parts, cut_words
from malmoi.methods.neural.form import EncoderForm, EncoderOptions, hidden, moved, padded
from malmoi.methods.traditional.choice import (
    UNSURE,
    SavedThresholds,
    choose_thresholds,
    set_matrix,
    sets_above,
)
from malmoi.models.encoder import Encoder
from malmoi.models.heads import Classifier, EncoderBatch, MaskedLanguageModel, Pooling
from malmoi.tasks.checks import labels_in, refuse_too_few_labels, two_or_more
from malmoi.text.tokenizer import Tokenizer, train_tokenizer


class WindowOptions(EncoderOptions):
    """max_tokens: of a window; a longer text is read in overlapping ones, `max_windows` at most. What lies
    behind them is not read."""

    pooling: Pooling = "max"
    max_tokens: PositiveInt = 256
    max_windows: PositiveInt = 16


class LabelOptions(WindowOptions):
    """balance: 0 trains on the labels as frequent as they are, 1 as if all were equally frequent."""

    balance: float = Field(0.25, ge=0, le=1)
    label_smoothing: float = Field(0.1, ge=0, lt=1)


class LabelRow(NamedTuple):
    """The ids of a text's windows and its label's number; of sets, for each label whether it has it."""

    windows: list[list[int]]
    label: int | list[float]


class LabelForm(EncoderForm[LabelRow, Classifier]):
    """See the module."""

    Options = LabelOptions
    defaults: ClassVar[dict[str, Json]] = {
        "transformer": {"layers": 2, "lr": 5e-3, "vocab_size": 4096},
        "recurrent": {"lr": 1e-2, "vocab_size": 4096},
    }
    tokenizer: Tokenizer
    labels: list[str]
    weights_L: Tensor | None = None  # training's only

    def learn(self, train: Sequence[Example[Any, Any]]) -> None:
        counts = Counter(example.target for example in train)
        self.labels = two_or_more(counts)
        self.learn_pieces([example.input for example in train])
        counts_L = torch.tensor([counts[label] for label in self.labels], dtype=torch.float32)
        weights_L = counts_L**-self.options.balance
        self.weights_L = weights_L * len(train) / (weights_L * counts_L).sum()  # 1 for the average example

    def learn_pieces(self, texts: Sequence[str]) -> None:
        """How texts are cut."""
        self.tokenizer = train_tokenizer(texts, "bpe", self.options.vocab_size)

    def build(self) -> Classifier:
        config = self.encoder_config(self.tokenizer.vocab_size, self.options.max_tokens)
        return Classifier(Encoder(config), len(self.labels), self.options.pooling)

    def rows(self, examples: Sequence[Example[Any, Any]]) -> list[LabelRow]:
        """Examples with a label that training never saw teach and test nothing here: left out."""
        numbers = {label: number for number, label in enumerate(self.labels)}
        known = [example for example in examples if example.target in numbers]
        cut = self.cut_up([example.input for example in known])
        return [LabelRow(row, numbers[e.target]) for row, e in zip(cut, known, strict=True)]

    def plain_rows(self, texts: Sequence[str]) -> list[LabelRow]:
        most = self.options.max_tokens
        return [
            LabelRow([ids[start : start + most]], 0)
            for ids in self.tokenizer.encode_batch(texts)
            for start in range(0, len(ids), most)
        ]

    @property
    def room(self) -> int:
        """Tokens of the text in a window."""
        return self.options.max_tokens

    @property
    def most(self) -> int:
        """Tokens of a text that are read."""
        return reach(self.room, self.options.max_windows)

    def framed(self, ids: list[int]) -> list[int]:
        """A window's ids as the encoder reads them, one at least."""
        return ids or [self.tokenizer.specials.eos]

    def cut_up(self, texts: Sequence[str]) -> list[list[list[int]]]:
        """Each text's windows."""
        # what lies far behind the last token that is read need not be cut
        found = [
            ids[: self.most] for ids in self.tokenizer.encode_batch([it[: 16 * self.most] for it in texts])
        ]
        return [[self.framed(ids[a:b]) for a, b in overlapping(len(ids), self.room)] for ids in found]

    def cut_note(self, inputs: Sequence[str], targets: Sequence[Any]) -> str:
        del targets
        long = (text for text in inputs if len(text.encode()) > self.most)  # a token is a byte at least
        count = sum(len(self.tokenizer.encode(text[: 16 * self.most])) > self.most for text in long)
        return cut_words(count, inputs, f"{self.most:,} tokens")

    def length(self, row: LabelRow) -> int:
        return sum(map(len, row.windows))

    def _batch(
        self, rows: Sequence[LabelRow], share: float, random: np.random.Generator | None
    ) -> tuple[EncoderBatch, Tensor]:
        """The batch and its ids before a share of them was hidden."""
        cut = [ids for row in rows for ids in row.windows]
        ids_BT = padded(cut)
        lengths_B1 = torch.tensor([[len(ids)] for ids in cut])
        counts_N = torch.tensor([len(row.windows) for row in rows])
        texts_B = torch.arange(len(rows)).repeat_interleave(counts_N) if len(cut) > len(rows) else None
        mask_BT = torch.arange(ids_BT.shape[1]) < lengths_B1
        hidden_BT, chosen_BT = hidden(ids_BT, mask_BT, share, self.tokenizer.specials.bos, random)
        targets_B = torch.tensor([row.label for row in rows])
        batch = moved(EncoderBatch(hidden_BT, mask_BT, targets=targets_B, texts_B=texts_B), self.device)
        return batch, torch.where(chosen_BT, ids_BT, IGNORE).to(self.device)

    def batch(self, rows: Sequence[LabelRow]) -> EncoderBatch:
        """The rows as they are, nothing hidden."""
        return self._batch(rows, 0.0, None)[0]

    def loss(self, model: Classifier, rows: Sequence[LabelRow], random: np.random.Generator | None) -> Loss:
        batch, _ = self._batch(rows, self.options.word_dropout, random)
        smoothing = self.options.label_smoothing if random is not None else 0.0
        weights_L = None if self.weights_L is None else self.weights_L.to(self.device)
        return model.loss(batch, weights_L=weights_L, label_smoothing=smoothing)

    def masked_loss(
        self, model: MaskedLanguageModel, rows: Sequence[LabelRow], share: float, random: np.random.Generator
    ) -> Loss:
        batch, targets_BT = self._batch(rows, share, random)
        return model.loss(batch._replace(targets=targets_BT))

    def predict(self, model: Classifier, inputs: Sequence[Any]) -> list[Any]:
        return [max(found, key=found.__getitem__) for found in self.probabilities(model, inputs)]

    def probabilities(self, model: Classifier, inputs: Sequence[Any]) -> list[dict[str, float]]:
        """Each label's probability."""

        def read(rows: list[LabelRow]) -> list[list[float]]:
            return model(self.batch(rows)).softmax(-1).tolist()

        rows = [LabelRow(row, 0) for row in self.cut_up(inputs)]
        return [dict(zip(self.labels, row, strict=True)) for row in self.in_batches(rows, read)]

    def tokens(self, row: LabelRow, value: Any) -> tuple[list[str], list[str]]:
        del value
        return [self.tokenizer.token_text(id) for id in row.windows[0]], []

    def first_window(self, row: LabelRow) -> LabelRow:
        return LabelRow(row.windows[:1], row.label)

    def parts(self) -> Parts:
        return Parts({"labels": self.labels}).with_tokenizer(self.tokenizer)

    def restore(self, parts: Parts) -> None:
        self.labels = list(parts.config["labels"])
        self.tokenizer = parts.tokenizer()


class LabelSetForm(SavedThresholds, LabelForm):
    """A probability for each label, and the threshold from which on it is given."""

    Options = WindowOptions

    def learn(self, train: Sequence[Example[Any, Any]]) -> None:
        refuse_too_few_labels(train, self.task.kind)
        self.labels = labels_in(train, self.task.kind)
        self.thresholds = [UNSURE] * len(self.labels)
        self.learn_pieces([example.input for example in train])

    def rows(self, examples: Sequence[Example[Any, Any]]) -> list[LabelRow]:
        """Labels that training never saw teach nothing: left out."""
        given_NL = set_matrix([example.target for example in examples], self.labels).astype(np.float32)
        cut = self.cut_up([example.input for example in examples])
        return [LabelRow(row, given_L) for row, given_L in zip(cut, given_NL.tolist(), strict=True)]

    def loss(self, model: Classifier, rows: Sequence[LabelRow], random: np.random.Generator | None) -> Loss:
        return model.set_loss(self._batch(rows, self.options.word_dropout, random)[0])

    def predict(self, model: Classifier, inputs: Sequence[Any]) -> list[Any]:
        return sets_above(self._probs(model, inputs), self.thresholds, self.labels)

    def settled(self, model: Classifier, valid: Sequence[Example[Any, Any]]) -> list[Any]:
        """See `Form.settled`: the thresholds are those that are best for `valid`."""
        probs_NL = self._probs(model, [example.input for example in valid])
        self.settle(probs_NL, valid)
        return sets_above(probs_NL, self.thresholds, self.labels)

    def settle(self, probs_NL: NDArray[Any], valid: Sequence[Example[Any, Any]]) -> None:
        """Choose the thresholds by held-out examples with these probabilities."""
        self.thresholds = choose_thresholds(probs_NL, set_matrix([one.target for one in valid], self.labels))

    def probabilities(self, model: Classifier, inputs: Sequence[Any]) -> list[dict[str, float]]:
        """Each label's own probability."""
        return [dict(zip(self.labels, row, strict=True)) for row in self._probs(model, inputs).tolist()]

    def _probs(self, model: Classifier, inputs: Sequence[Any]) -> NDArray[Any]:
        """probs_NL."""

        def read(rows: list[LabelRow]) -> list[NDArray[Any]]:
            return list(model(self.batch(rows)).sigmoid().cpu().numpy())

        rows = [LabelRow(row, 0) for row in self.cut_up(inputs)]
        return np.array(self.in_batches(rows, read)).reshape(len(rows), len(self.labels))
