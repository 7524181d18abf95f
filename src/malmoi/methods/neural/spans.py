"""Question answering: question and context as one row of units; where does the answer begin, where end?

Each unit says on which side it stands and whether the other side has it too, which a model that starts
from nothing learns from at once. Shape letters: B rows, T positions (units of both).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from pydantic import PositiveInt

from malmoi.core.errors import UserError
from malmoi.core.nouns import Answer, Example, Json, Question
from malmoi.core.tensors import Loss
from malmoi.methods.base import Parts, cut_words
from malmoi.methods.neural.form import EncoderForm, cuts, hidden, moved, padded
from malmoi.methods.neural.tags import UnitForm, UnitOptions
from malmoi.models.encoder import Encoder
from malmoi.models.heads import EncoderBatch, MaskedLanguageModel, SpanReader, best_spans
from malmoi.text.units import UNKNOWN, Encoded, UnitVocabulary, units


class SpanOptions(UnitOptions):
    """max_question, max_context: units; a longer context is read in overlapping pieces."""

    max_question: PositiveInt = 64
    max_context: PositiveInt = 256
    max_answer: PositiveInt = 30


class SpanRow(NamedTuple):
    """One question with (a piece of) its context."""

    encoded: Encoded  # of both; spans are those of the context, behind the question's
    features: list[int]  # 2 * (in the context) + (the other side has it too)
    answer: tuple[int, int]  # positions of its first and last unit; (-1, -1) where it is not in this piece


class SpanForm(UnitForm, EncoderForm[SpanRow, SpanReader]):
    """See the module."""

    Options = SpanOptions
    defaults: ClassVar[dict[str, Json]] = {
        "transformer": {"layers": 3, "lr": 1e-2, "vocab_size": 30_000, "dropout": 0.1},
        "recurrent": {"lr": 2e-2, "vocab_size": 30_000, "dropout": 0.1},
    }

    def learn(self, train: Sequence[Example[Any, Any]]) -> None:
        texts = dict.fromkeys(text for e in train for text in (e.input.context, e.input.question))
        self.learn_units(list(texts))
        if not any(e.answer[0] >= 0 for e in self.rows(train)):
            raise UserError("no answer stands in its context; give answers that do")

    def build(self) -> SpanReader:
        words, chars = self.sizes
        context = self.options.max_question + self.options.max_context
        return SpanReader(Encoder(self.encoder_config(words, context, chars)))

    def rows(self, examples: Sequence[Example[Any, Any]]) -> list[SpanRow]:
        """The pieces that hold the whole answer."""
        rows = [row for e in examples for row in self._windows(e.input, e.target)]
        return [row for row in rows if row.answer[0] >= 0]

    def plain_rows(self, texts: Sequence[str]) -> list[SpanRow]:
        return [
            SpanRow(encoded.part(start, stop), [2] * (stop - start), (-1, -1))
            for encoded in map(self.encode, texts)
            for start, stop in cuts(len(encoded.spans), self.options.max_context)
            if stop > start
        ]

    def _windows(self, asked: Question, answer: Answer | None = None) -> Iterator[SpanRow]:
        most_question, most = self.options.max_question, self.options.max_context
        encoded = self.encode(asked.question if units(asked.question) else "?")
        question = encoded.part(0, most_question)
        context = self.encode(asked.context)
        ours = {asked.question[a:b].lower() for a, b in question.spans}
        theirs = {asked.context[a:b].lower() for a, b in context.spans}
        before = [int(asked.question[a:b].lower() in theirs) for a, b in question.spans]
        matches = [int(asked.context[a:b].lower() in ours) for a, b in context.spans]
        first, last = _answer_units(context, answer)
        step = max(1, most // 2)
        for start in range(0, max(1, len(context.spans) - most + step), step):
            part = slice(start, start + most)
            count, offset = len(question.spans), len(question.spans) - start
            inside = start <= first and last < start + most and first >= 0
            yield SpanRow(
                Encoded(
                    question.word_ids + context.word_ids[part], question.char_ids + context.char_ids[part],
                    context.spans[part],
                ),
                before[:count] + [2 + match for match in matches[part]],
                (first + offset, last + offset) if inside else (-1, -1),
            )  # fmt: skip

    def cut_note(self, inputs: Sequence[Question], targets: Sequence[Any]) -> str:
        del targets
        most = self.options.max_question
        count = sum(len(units(asked.question)) > most for asked in inputs)
        return cut_words(count, inputs, f"{most} words of the question")

    def length(self, row: SpanRow) -> int:
        return max(1, len(row.features))

    def _batch(self, rows: Sequence[SpanRow], random: np.random.Generator | None = None) -> EncoderBatch:
        ids_BT, mask_BT, chars_BTW = self.tensors([row.encoded for row in rows])
        ids_BT, _ = hidden(ids_BT, mask_BT, self.options.word_dropout, UNKNOWN, random)
        features_BT = padded([row.features or [0] for row in rows])
        answers_B2 = torch.tensor([row.answer for row in rows])
        return moved(EncoderBatch(ids_BT, mask_BT, chars_BTW, features_BT, answers_B2), self.device)

    def loss(self, model: SpanReader, rows: Sequence[SpanRow], random: np.random.Generator | None) -> Loss:
        return model.loss(self._batch(rows, random))

    def masked_loss(
        self, model: MaskedLanguageModel, rows: Sequence[SpanRow], share: float, random: np.random.Generator
    ) -> Loss:
        return model.loss(self.masked([row.encoded for row in rows], share, random))

    def predict(self, model: SpanReader, inputs: Sequence[Any]) -> list[Answer | None]:
        cut = [list(self._windows(asked)) for asked in inputs]

        def read(rows: list[SpanRow]) -> list[tuple[float, int, int]]:
            batch = self._batch(rows)
            start_BT, end_BT = model(batch)
            found = best_spans(start_BT, end_BT, SpanReader.context_mask(batch), self.options.max_answer)
            return [
                (float(start_BT[b, first] + end_BT[b, last]), first, last)
                for b, (first, last) in enumerate(found)
            ]

        best = iter(self.in_batches([row for of_one in cut for row in of_one], read))
        return [
            _best_answer(asked, of_one, [next(best) for _ in of_one])
            for asked, of_one in zip(inputs, cut, strict=True)
        ]

    def sureness(
        self, model: SpanReader, inputs: Sequence[Any], answers: Sequence[Any]
    ) -> list[float] | None:
        """Of each answer its log-probability in the piece where that is largest."""
        found = self.of_rows(inputs, answers, lambda part: model.log_likelihood(self._batch(part)).tolist())
        return [max(of_one, default=0.0) for of_one in found]

    def tokens(self, row: SpanRow, value: Question) -> tuple[list[str], list[str]]:
        """The question's units, then the context's."""
        question = [value.question[start:end] for start, end in self.encode(value.question).spans]
        context = [value.context[start:end] for start, end in row.encoded.spans]
        return (question or ["?"])[: len(row.features) - len(context)] + context, []

    def parts(self) -> Parts:
        return Parts({"vocabulary": self.vocabulary.to_json()})

    def restore(self, parts: Parts) -> None:
        self.vocabulary = UnitVocabulary.from_json(parts.config["vocabulary"])


def _answer_units(context: Encoded, answer: Answer | None) -> tuple[int, int]:
    """The first and the last unit that the answer touches, or (-1, -1)."""
    if answer is None or answer.start < 0:
        return -1, -1
    end = answer.start + len(answer.text)
    inside = [i for i, (a, b) in enumerate(context.spans) if a < end and b > answer.start]
    return (inside[0], inside[-1]) if inside else (-1, -1)


def _best_answer(
    asked: Question, rows: Sequence[SpanRow], found: Sequence[tuple[float, int, int]]
) -> Answer | None:
    """Of the piece whose span scored best; None where the context has no unit."""
    usable = [(score, first, last, row) for (score, first, last), row in zip(found, rows, strict=True)
              if row.encoded.spans]  # fmt: skip
    if not usable:
        return None
    _, first, last, row = max(usable, key=lambda item: item[0])
    before = len(row.features) - len(row.encoded.spans)
    start, end = row.encoded.spans[first - before][0], row.encoded.spans[last - before][1]
    return Answer(asked.context[start:end], start)
