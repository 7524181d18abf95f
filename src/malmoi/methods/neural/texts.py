"""Translation, summarization, chat: an encoder reads the source, a decoder writes, beam search decides.

Shape letters: B rows, S source positions, T target positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from malmoi.core.nouns import Example, Json, Message
from malmoi.core.tensors import IGNORE, Loss
from malmoi.engine.beam import beam_search
from malmoi.methods.base import Parts, cut_words
from malmoi.methods.neural.form import Form, NeuralOptions, moved, padded
from malmoi.models.seq2seq import Seq2Seq, Seq2SeqBatch, Seq2SeqConfig
from malmoi.text.tokenizer import Tokenizer, train_tokenizer


class TextOptions(NeuralOptions):
    """copying: a word may be taken from the source (See et al. 2017). beams: 1 is greedy; length_penalty: 0
    likes short answers (Wu et al. 2016). max_source, max_target: tokens; a longer source is cut."""

    copying: bool = True
    beams: PositiveInt = 4
    length_penalty: float = Field(0.8, ge=0)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    max_source: PositiveInt = 384
    max_target: PositiveInt = 128


class TextRow(NamedTuple):
    """A source and a target in the shared vocabulary."""

    source: list[int]
    target: list[int]


class TextForm(Form[TextRow, Seq2Seq]):
    """See the module."""

    Options = TextOptions
    defaults: ClassVar[dict[str, Json]] = {
        "transformer": {"layers": 3, "width": 256, "lr": 1e-2, "dropout": 0.1},
        "recurrent": {"width": 256, "lr": 2e-2, "dropout": 0.1},
    }
    by_metric = False
    tokenizer: Tokenizer

    def learn(self, train: Sequence[Example[Any, Any]]) -> None:
        texts = (text for e in train for text in (*_said(e.input), e.target))
        self.tokenizer = train_tokenizer(texts, "bpe", self.options.vocab_size)

    def build(self) -> Seq2Seq:
        o = self.options
        config = Seq2SeqConfig(
            family=self.backbone, vocab_size=self.tokenizer.vocab_size, layers=o.layers, width=o.width,
            heads=o.heads, dropout=o.dropout, copy=o.copying,
        )  # fmt: skip
        return Seq2Seq(config)

    def rows(self, examples: Sequence[Example[Any, Any]]) -> list[TextRow]:
        targets = self.tokenizer.encode_batch([example.target for example in examples])
        most = self.options.max_target
        sources = [self._source(example.input) for example in examples]
        return [TextRow(s, t[:most]) for s, t in zip(sources, targets, strict=True)]

    def _source(self, value: str | tuple[Message, ...]) -> list[int]:
        """The text, or the turns one after another; of a long text the start, of a long talk the end."""
        eos, most = self.tokenizer.specials.eos, self.options.max_source
        if isinstance(value, str):
            return [*self.tokenizer.encode(value[: 16 * most])[: most - 1], eos]
        ids = [id for said in _said(value) for id in (*self.tokenizer.encode(said[-16 * most :]), eos)]
        return ids[-most:]

    def cut_note(self, inputs: Sequence[Any], targets: Sequence[Any]) -> str:
        pairs = ((inputs, self.options.max_source, ""), (targets, self.options.max_target, " of the answer"))
        return "; ".join(
            filter(None, (
                cut_words(sum(self._is_long(it, most) for it in values), values, f"{most} tokens{words}")
                for values, most, words in pairs
            ))
        )  # fmt: skip

    def _is_long(self, value: str | tuple[Message, ...], most: int) -> bool:
        """Whether it has more tokens than that, its end counted."""
        said = [text[: 16 * most] for text in _said(value)]
        if sum(len(text.encode()) + 1 for text in said) <= most:
            return False  # a token is a byte at least
        return sum(len(self.tokenizer.encode(text)) + 1 for text in said) > most

    def length(self, row: TextRow) -> int:
        return len(row.source) + len(row.target)

    def _sources(self, rows: Sequence[TextRow]) -> tuple[Tensor, Tensor]:
        source_BS = padded([row.source for row in rows], self.tokenizer.specials.pad)
        lengths_B1 = torch.tensor([[len(row.source)] for row in rows])
        return source_BS, torch.arange(source_BS.shape[1]) < lengths_B1

    def _batch(self, rows: Sequence[TextRow], targets: Sequence[list[int]]) -> Seq2SeqBatch:
        specials = self.tokenizer.specials
        batch = Seq2SeqBatch(
            *self._sources(rows),
            padded([[specials.bos, *target] for target in targets], specials.pad),
            padded([[*target, specials.eos] for target in targets], IGNORE),
        )
        return moved(batch, self.device)

    def loss(self, model: Seq2Seq, rows: Sequence[TextRow], random: np.random.Generator | None) -> Loss:
        smoothing = self.options.label_smoothing if random is not None else 0.0
        return model.loss(self._batch(rows, [row.target for row in rows]), label_smoothing=smoothing)

    def predict(self, model: Seq2Seq, inputs: Sequence[Any]) -> list[str]:
        rows = [TextRow(self._source(value), []) for value in inputs]
        o, specials = self.options, self.tokenizer.specials

        def read(part: list[TextRow]) -> list[str]:
            state = model.encode(*self._sources(part))
            found = beam_search(
                model, state, specials.bos, specials.eos, beams=o.beams,
                max_tokens=[min(o.max_target, 2 * len(row.source) + 16) for row in part],
                length_penalty=o.length_penalty,
                forbid=sorted(specials.ids - {specials.eos}),
            )  # fmt: skip
            return [self.tokenizer.decode(ids) for ids in found]

        return self.in_batches(rows, read)

    def log_likelihood(self, model: Seq2Seq, inputs: Sequence[Any], targets: Sequence[str]) -> list[float]:
        """Of each whole target and its end, however long."""
        ids = self.tokenizer.encode_batch(targets)
        rows = [TextRow(self._source(value), target) for value, target in zip(inputs, ids, strict=True)]

        def read(part: list[TextRow]) -> list[float]:
            batch = self._batch(part, [row.target for row in part])
            logits_BTV = model.step(
                batch.target_ids_BT, torch.tensor([len(row.target) + 1 for row in part]),
                model.encode(batch.source_BS, batch.source_mask_BS),
            )  # fmt: skip
            logprobs_BTV = logits_BTV.log_softmax(-1)
            safe_BT = batch.targets_BT.clamp_min(0)
            found_BT = logprobs_BTV.gather(2, safe_BT.unsqueeze(2)).squeeze(2)
            return (found_BT * (batch.targets_BT != IGNORE)).sum(1).tolist()

        return self.in_batches(rows, read)

    def tokens(self, row: TextRow, value: Any) -> tuple[list[str], list[str]]:
        del value
        target = [self.tokenizer.specials.bos, *row.target]
        return [*map(self.tokenizer.token_text, row.source)], [*map(self.tokenizer.token_text, target)]

    def parts(self) -> Parts:
        return Parts().with_tokenizer(self.tokenizer)

    def restore(self, parts: Parts) -> None:
        self.tokenizer = parts.tokenizer()


def _said(value: str | tuple[Message, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(message.content for message in value)
