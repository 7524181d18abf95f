"""Named entities: units with their characters, an encoder, one BIO tag for each unit.

Shape letters: B rows, T positions (units), W characters of a unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor

from malmoi.core.errors import UserError
from malmoi.core.nouns import Entity, Example, Json
from malmoi.core.tensors import IGNORE, Loss
from malmoi.data.batches import overlapping
from malmoi.methods.base import Parts
from malmoi.methods.neural.form import EncoderForm, EncoderOptions, hidden, moved, padded
from malmoi.models.encoder import Encoder
from malmoi.models.heads import EncoderBatch, MaskedLanguageModel, Tagger
from malmoi.tasks.kinds import joined_entities
from malmoi.text.units import (
    PAD,
    UNKNOWN,
    Encoded,
    UnitVocabulary,
    bio_tags,
    entities_of,
    tag_names,
)


class UnitOptions(EncoderOptions):
    """Networks that read units: the word as a whole and, with `characters`, what it is spelled with."""

    characters: bool = True


class TagOptions(UnitOptions):
    """crf: tags are chosen together (Lafferty et al. 2001). max_units: longer texts are read in
    overlapping windows of so many."""

    crf: bool = True
    max_units: PositiveInt = 256


class TagRow(NamedTuple):
    """Units of (a window of) a text and the numbers of their tags."""

    encoded: Encoded
    tags: list[int]


class UnitForm:
    """What forms that read units share."""

    vocabulary: UnitVocabulary
    options: Any
    device: torch.device

    def learn_units(self, texts: Sequence[str]) -> None:
        """Words seen once stay unknown, so that the model learns to read their characters."""
        self.vocabulary = UnitVocabulary.build(texts, min_count=2, max_size=self.options.vocab_size)

    def encode(self, text: str) -> Encoded:
        """The text's units."""
        return self.vocabulary.encode(text)

    @property
    def sizes(self) -> tuple[int, int]:
        """Of the vocabularies of words and characters; 0 characters where they are not used."""
        chars = len(self.vocabulary.characters) + 2 if self.options.characters else 0
        return len(self.vocabulary.words) + 2, chars

    def tensors(self, rows: Sequence[Encoded]) -> tuple[Tensor, Tensor, Tensor | None]:
        """ids_BT, mask_BT and chars_BTW, filled up with PAD."""
        ids_BT = padded([row.word_ids or [UNKNOWN] for row in rows], PAD)
        mask_BT = torch.arange(ids_BT.shape[1]) < torch.tensor([[max(1, len(row.word_ids))] for row in rows])
        if not self.options.characters:
            return ids_BT, mask_BT, None
        width = max((len(chars) for row in rows for chars in row.char_ids), default=1)
        chars_BTW = torch.full((*ids_BT.shape, width), PAD)
        for b, row in enumerate(rows):
            if row.char_ids:
                chars_BTW[b, : len(row.char_ids)] = torch.tensor(row.char_ids)
        return ids_BT, mask_BT, chars_BTW

    def masked(self, rows: Sequence[Encoded], share: float, random: np.random.Generator) -> EncoderBatch:
        """A batch with hidden units (their characters too), the targets what stood there."""
        ids_BT, mask_BT, chars_BTW = self.tensors(rows)
        hidden_BT, chosen_BT = hidden(ids_BT, mask_BT, share, UNKNOWN, random)
        if chars_BTW is not None:
            chars_BTW = chars_BTW.masked_fill(chosen_BT.unsqueeze(-1), PAD)
        targets_BT = torch.where(chosen_BT & (ids_BT != UNKNOWN), ids_BT, IGNORE)
        return moved(EncoderBatch(hidden_BT, mask_BT, chars_BTW, targets=targets_BT), self.device)


class TagForm(UnitForm, EncoderForm[TagRow, Tagger]):
    """See the module."""

    Options = TagOptions
    defaults: ClassVar[dict[str, Json]] = {
        "transformer": {"layers": 2, "lr": 1e-2, "vocab_size": 30_000, "batch": 16},
        "recurrent": {"lr": 2e-2, "vocab_size": 30_000, "batch": 16},
    }
    tags: list[str]

    def learn(self, train: Sequence[Example[Any, Any]]) -> None:
        labels = {entity.label for example in train for entity in example.target}
        if not labels:
            raise UserError("no example has an entity; give text with at least one tagged name")
        self.tags = tag_names(labels)
        self.learn_units([example.input for example in train])

    def build(self) -> Tagger:
        words, chars = self.sizes
        encoder = Encoder(self.encoder_config(words, self.options.max_units, chars))
        return Tagger(encoder, self.tags, crf=self.options.crf)

    def rows(self, examples: Sequence[Example[Any, Any]]) -> list[TagRow]:
        found = []
        for example in examples:
            encoded = self.encode(example.input)
            known = [entity for entity in example.target if f"B-{entity.label}" in self.tags]
            for part in self._windows(encoded):
                names = bio_tags(part.spans, known)  # what began before the window begins with it
                found.append(TagRow(part, [self.tags.index(name) for name in names]))
        return found

    def plain_rows(self, texts: Sequence[str]) -> list[TagRow]:
        parts = (part for text in texts for part in self._windows(self.encode(text)))
        return [TagRow(part, [0] * len(part.spans)) for part in parts if part.spans]

    def _windows(self, encoded: Encoded) -> list[Encoded]:
        """Parts that fit the encoder."""
        return [encoded.part(a, b) for a, b in overlapping(len(encoded.spans), self.options.max_units)]

    def length(self, row: TagRow) -> int:
        return max(1, len(row.tags))

    def _batch(self, rows: Sequence[TagRow], random: np.random.Generator | None = None) -> EncoderBatch:
        ids_BT, mask_BT, chars_BTW = self.tensors([row.encoded for row in rows])
        share = self.options.word_dropout
        ids_BT, _ = hidden(ids_BT, mask_BT, share, UNKNOWN, random)  # what it is spelled with stays
        targets_BT = padded([row.tags or [0] for row in rows], IGNORE)
        return moved(EncoderBatch(ids_BT, mask_BT, chars_BTW, targets=targets_BT), self.device)

    def loss(self, model: Tagger, rows: Sequence[TagRow], random: np.random.Generator | None) -> Loss:
        return model.loss(self._batch(rows, random))

    def masked_loss(
        self, model: MaskedLanguageModel, rows: Sequence[TagRow], share: float, random: np.random.Generator
    ) -> Loss:
        return model.loss(self.masked([row.encoded for row in rows], share, random))

    def predict(self, model: Tagger, inputs: Sequence[Any]) -> list[tuple[Entity, ...]]:
        cut = [self._windows(self.encode(text)) for text in inputs]
        rows = [TagRow(part, [0] * len(part.spans)) for parts in cut for part in parts]
        tags = iter(self.in_batches(rows, lambda part: model.decode(self._batch(part))))
        found = []
        for parts in cut:
            read = [[self.tags[it] for it in next(tags)[: len(part.spans)]] for part in parts]
            windows = [(part.spans[0][0], part.spans[-1][1]) if part.spans else (0, 0) for part in parts]
            entities = [entities_of(part.spans, names) for part, names in zip(parts, read, strict=True)]
            found.append(joined_entities(windows, entities))
        return found

    def sureness(self, model: Tagger, inputs: Sequence[Any], answers: Sequence[Any]) -> list[float] | None:
        """Of each answer its log-probability, summed over the windows."""
        found = self.of_rows(inputs, answers, lambda part: model.log_likelihood(self._batch(part)).tolist())
        return [sum(of_one) for of_one in found]

    def tokens(self, row: TagRow, value: str) -> tuple[list[str], list[str]]:
        return [value[start:end] for start, end in row.encoded.spans], []

    def parts(self) -> Parts:
        return Parts({"tags": self.tags, "vocabulary": self.vocabulary.to_json()})

    def restore(self, parts: Parts) -> None:
        self.tags = list(parts.config["tags"])
        self.vocabulary = UnitVocabulary.from_json(parts.config["vocabulary"])
