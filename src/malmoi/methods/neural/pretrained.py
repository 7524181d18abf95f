"""Networks that begin as an encoder that others trained: BERT, RoBERTa, DistilBERT, sentence encoders.

Texts are cut by its own tokenizer and framed by its own marks. Labels are read off the whole text; names and
answers off units, each by its first piece, so that spans are characters as everywhere else.

Shape letters: B rows, P pieces (with marks), T units, D width, L labels, N texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from malmoi.core.config import StrictModel
from malmoi.core.errors import UserError
from malmoi.core.nouns import Examples, Json, Work, with_note
from malmoi.hub.bert import Frame, load_encoder
from malmoi.hub.source import find_source
from malmoi.methods.base import Parts
from malmoi.methods.neural.form import Form, padded
from malmoi.methods.neural.labels import LabelForm, LabelOptions, LabelRow, LabelSetForm, WindowOptions
from malmoi.methods.neural.method import Neural
from malmoi.methods.neural.spans import SpanForm, SpanOptions, SpanRow
from malmoi.methods.neural.tags import TagForm, TagOptions, TagRow
from malmoi.methods.traditional.choice import (
    STRENGTHS,
    TimeKeeper,
    fit_head,
    fit_heads,
    missing_labels,
    quality,
    set_matrix,
    sets_above,
    sigmoid,
)
from malmoi.models.bert import BertConfig, BertEncoder
from malmoi.models.heads import Classifier, Pooling, SpanReader, Tagger
from malmoi.tasks.kinds import LABEL, LABELS, SPAN, TAGS, Kind
from malmoi.text.tokenizer import Tokenizer
from malmoi.text.units import Encoded, encode_units

MOST_PIECES = 16  # of a unit; its further ones are not looked at
# Of an encoder of 20 to 100 million weights; a larger one wants smaller steps.
GENTLE: Json = {"optimizer": "adamw", "lr": 1e-4, "weight_decay": 0.01, "batch": 16, "dropout": 0.1}
FRESH: Json = GENTLE | {"lr": 2e-4}  # below a head that begins at random
READ_AT_ONCE = 256  # texts, between two looks at the clock


class _Setting(NamedTuple):
    strength: float


class FolderOptions(StrictModel):
    """encoder: a pre-trained encoder's folder or hub id; a fitted method is whole without it."""

    encoder: str = Field("", validate_default=True)

    @field_validator("encoder")
    @classmethod
    def _check_encoder(cls, encoder: str) -> str:
        if not encoder:
            raise ValueError("give the folder of a pre-trained encoder, for example `set` encoder=DIR")
        return encoder


class PretrainedWindowOptions(WindowOptions, FolderOptions):
    """frozen: the encoder stays as it is and only the final layer is fitted, in seconds. pooling: where it is
    not given, the encoder's own."""

    max_tokens: Annotated[int, Field(ge=3)] = 256  # two of them are marks
    frozen: bool = False

    @model_validator(mode="after")
    def _check_frozen(self) -> Self:
        read = {"pooling", "max_tokens", "max_windows"}
        used = {*FolderOptions.model_fields, *read, "frozen", "balance", "seed"}
        idle = sorted(self.model_fields_set - used) if self.frozen else []
        if idle:
            raise ValueError(f"a frozen encoder takes no steps, so {idle[0]} says nothing; leave it out")
        return self


class PretrainedLabelOptions(PretrainedWindowOptions, LabelOptions):
    """See the bases."""


class PretrainedTagOptions(TagOptions, FolderOptions):
    """See the bases."""


class PretrainedSpanOptions(SpanOptions, FolderOptions):
    """See the bases."""


class FromFolder:
    """What forms with a pre-trained encoder share."""

    options: Any
    config: BertConfig
    frame: Frame
    tokenizer: Tokenizer
    pooling: Pooling
    _read: BertEncoder | None = None

    @property
    def width(self) -> int:
        """Of the encoder's vectors."""
        return self.config.width

    def read_folder(self, pieces: int, named: str) -> None:
        """Open the encoder's folder. Raises UserError where it reads fewer pieces than `named` ask for."""
        folder = find_source(self.options.encoder).folder
        found = load_encoder(folder, dropout=self.options.dropout)
        if pieces > found.encoder.config.context:
            most = found.encoder.config.context
            raise UserError(
                f"{named} with their marks make {pieces} pieces, but {folder} reads {most} at most"
            )
        self._read, self.config = found.encoder, found.encoder.config
        self.tokenizer, self.frame, self.pooling = found.tokenizer, found.frame, found.pooling

    def encoder(self) -> BertEncoder:
        """As it was read; after `restore_folder` one to be filled."""
        found, self._read = self._read or BertEncoder(self.config), None
        return found

    def folder_parts(self) -> Parts:
        """All of the folder but the weights."""
        config = {"encoder": self.config.model_dump(), "frame": list(self.frame)}
        return Parts(config).with_tokenizer(self.tokenizer)

    def restore_folder(self, parts: Parts) -> None:
        """The inverse of `folder_parts`."""
        self._read, self.config = None, BertConfig.model_validate(parts.config["encoder"])
        self.frame = Frame(*parts.config["frame"])
        self.tokenizer = parts.tokenizer()


class PretrainedLabelForm(FromFolder, LabelForm):
    """A text's pieces between the marks."""

    Options = PretrainedLabelOptions
    defaults: ClassVar[dict[str, Json]] = {"transformer": GENTLE | {"pooling": "mean"}}

    def learn_pieces(self, texts: Sequence[str]) -> None:
        del texts
        self.read_folder(self.options.max_tokens, "max_tokens")
        if "pooling" in self.options.model_fields_set:
            self.pooling = self.options.pooling

    def build(self) -> Classifier:
        return Classifier(self.encoder(), len(self.labels), self.pooling, unit_length=True)

    @property
    def room(self) -> int:
        return self.options.max_tokens - 2

    def framed(self, ids: list[int]) -> list[int]:
        return [self.frame.first, *ids, self.frame.last]

    def fit_head(
        self, model: Classifier, train: Examples, valid: Examples, keeper: TimeKeeper,
        calibrate: Callable[[Examples, list[dict[str, float]]], None],
    ) -> Json:  # fmt: skip
        """Logistic regression on the vectors as they are, with the strength that `valid` chooses.

        Where the encoder stays frozen it learns from `valid`, too. Fine-tuning begins where the encoder need
        not bend to a random head (Kumar et al. 2022), and stops by `valid`. Returns facts for the report.
        """
        x_ND, read = self._read_some(model, train, keeper, 0.6)
        if missing := missing_labels(read, train, self.task.kind):
            x_ND, read = np.concatenate((x_ND, self._vectors(model, missing))), [*read, *missing]
        x_valid_ND, seen = self._read_some(model, valid, keeper, 0.8)

        def value(setting: _Setting) -> float:
            weights_LD, bias_L = self._head(x_ND, read, setting.strength)
            return quality(self.task, self.decided(x_valid_ND @ weights_LD.T + bias_L, seen), seen)

        best = keeper.best(_Setting(STRENGTHS[0]), {"strength": STRENGTHS}, value).strength
        value(_Setting(best))  # once more, for a set's thresholds
        weights_LD, bias_L = self._set_head(model, x_ND, read, best)
        shares_NL = torch.from_numpy(x_valid_ND @ weights_LD.T + bias_L).softmax(-1).tolist()
        calibrate(seen, [dict(zip(self.labels, row, strict=True)) for row in shares_NL])
        known = set(self.labels)
        also = [i for i, one in enumerate(seen) if known.issuperset(self.task.kind.labels(one.target))]
        also = also if self.options.frozen else []
        x_ND, learned = np.concatenate((x_ND, x_valid_ND[also])), [*read, *(seen[i] for i in also)]
        self._set_head(model, x_ND, learned, best)
        return {"strength": best} | keeper.facts(read, learned[len(read) :])

    def _set_head(
        self, model: Classifier, x_ND: NDArray[np.float32], examples: Examples, strength: float
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Give the model this head; returns weights_LD and bias_L."""
        found = self._head(x_ND, examples, strength)
        for parameter, values in zip((model.head.weight, model.head.bias), found, strict=True):
            parameter.data.copy_(torch.from_numpy(values))
        return found

    def decided(self, scores_NL: NDArray[Any], seen: Examples) -> list[Any]:
        """What the scores of held-out examples say."""
        del seen
        return [self.labels[at] for at in scores_NL.argmax(1)]

    def _head(
        self, x_ND: NDArray[np.float32], examples: Examples, strength: float
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """weights_LD and bias_L."""
        numbers = {label: number for number, label in enumerate(self.labels)}
        labels_N = np.array([numbers[example.target] for example in examples])
        weights_N = None if self.weights_L is None else self.weights_L.numpy()[labels_N]
        return fit_head(x_ND, labels_N, weights_N, strength)

    def _read_some(
        self, model: Classifier, examples: Examples, keeper: TimeKeeper, share: float
    ) -> tuple[NDArray[np.float32], list[Any]]:
        """x_ND of as many of the examples as a `share` of the time is enough for, and which."""
        found, read = [], list[Any]()
        for part in keeper.portions(examples, READ_AT_ONCE, share, "texts"):
            found.append(self._vectors(model, part))
            read += part
        return np.concatenate(found), read

    def _vectors(self, model: Classifier, examples: Examples) -> NDArray[np.float32]:
        """x_ND."""
        model.eval()
        rows = [LabelRow(row, 0) for row in self.cut_up([example.input for example in examples])]
        return np.array(
            self.in_batches(rows, lambda part: list(model.vectors(self.batch(part)).cpu().numpy()))
        )

    def parts(self) -> Parts:
        parts = self.folder_parts()
        parts.config |= {"labels": self.labels, "pooling": self.pooling}
        return parts

    def restore(self, parts: Parts) -> None:
        self.restore_folder(parts)
        self.labels, self.pooling = list(parts.config["labels"]), parts.config["pooling"]


class PretrainedLabelSetForm(LabelSetForm, PretrainedLabelForm):
    """The same for sets of labels."""

    Options = PretrainedWindowOptions

    def decided(self, scores_NL: NDArray[Any], seen: Examples) -> list[Any]:
        """The sets, by the thresholds that are best for `seen`."""
        probs_NL = sigmoid(scores_NL)
        self.settle(probs_NL, seen)
        return sets_above(probs_NL, self.thresholds, self.labels)

    def _head(
        self, x_ND: NDArray[np.float32], examples: Examples, strength: float
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return fit_heads(x_ND, set_matrix([one.target for one in examples], self.labels), strength)


class FromFolderUnits(FromFolder):
    """Rows of units, each with its pieces."""

    def encode(self, text: str) -> Encoded:
        """The text's units."""
        return encode_units(self.tokenizer, text)

    def tensors(self, rows: Sequence[Encoded]) -> tuple[Tensor, Tensor, Tensor | None]:
        """ids_BP, mask_BT of the units, and first_BT1: where each one's first piece stands."""
        framed = [self._framed(row) for row in rows]
        first_BT = padded([first or [0] for _, first in framed])
        lengths_B1 = torch.tensor([[max(1, len(first))] for _, first in framed])
        ids_BP = padded([ids for ids, _ in framed], self.config.pad_id)
        return ids_BP, torch.arange(first_BT.shape[1]) < lengths_B1, first_BT[..., None]

    def _framed(self, row: Encoded) -> tuple[list[int], list[int]]:
        """A row's pieces with all marks, and each unit's first position. The units without spans of theirs,
        which come first, are the first text of a pair."""
        between = len(row.word_ids) - len(row.spans)
        room = self.config.context - 2 - (self.frame.between if between else 0)
        most = MOST_PIECES
        while most > 1 and sum(min(most, len(pieces)) for pieces in row.char_ids) > room:
            most -= 1
        ids, first = [self.frame.first], []
        for number, pieces in enumerate(row.char_ids):
            ids += [self.frame.last] * self.frame.between if number == between > 0 else []
            first.append(len(ids))
            ids += pieces[:most]
        return [*ids, self.frame.last], first

    def tokens(self, row: TagRow | SpanRow, value: Any) -> tuple[list[str], list[str]]:
        """The pieces with the marks."""
        del value
        return [*map(self.tokenizer.token_text, self._framed(row.encoded)[0])], []


class PretrainedTagForm(FromFolderUnits, TagForm):
    """A tag for each unit."""

    Options = PretrainedTagOptions
    defaults: ClassVar[dict[str, Json]] = {"transformer": FRESH}

    def learn_units(self, texts: Sequence[str]) -> None:
        del texts
        self.read_folder(self.options.max_units + 2, "max_units")

    def build(self) -> Tagger:
        return Tagger(self.encoder(), self.tags, crf=self.options.crf)

    def parts(self) -> Parts:
        parts = self.folder_parts()
        parts.config["tags"] = self.tags
        return parts

    def restore(self, parts: Parts) -> None:
        self.restore_folder(parts)
        self.tags = list(parts.config["tags"])


class PretrainedSpanForm(FromFolderUnits, SpanForm):
    """Question and context as a pair."""

    Options = PretrainedSpanOptions
    defaults: ClassVar[dict[str, Json]] = {"transformer": FRESH}

    def learn_units(self, texts: Sequence[str]) -> None:
        del texts
        o = self.options
        self.read_folder(o.max_question + o.max_context + 4, "max_question and max_context")

    def build(self) -> SpanReader:
        return SpanReader(self.encoder())

    def parts(self) -> Parts:
        return self.folder_parts()

    def restore(self, parts: Parts) -> None:
        self.restore_folder(parts)


class Pretrained(Neural):
    """A pre-trained encoder (Devlin et al. 2019), fine-tuned whole or, for labels, frozen below its head."""

    name, family, backbone = "pretrained", "transformer", "transformer"
    kinds = frozenset({LABEL, LABELS, TAGS, SPAN})
    forms: ClassVar[dict[Kind, type[Form[Any, Any]]]] = {
        LABEL: PretrainedLabelForm, LABELS: PretrainedLabelSetForm, TAGS: PretrainedTagForm,
        SPAN: PretrainedSpanForm,
    }  # fmt: skip
    settled: ClassVar[Json] = {
        "width": 128, "layers": 1, "heads": 4, "vocab_size": 1, "characters": False, "word_dropout": 0.0,
        "unlabelled": None, "warm_up_epochs": 1.0,
    }  # fmt: skip

    def _learn(self, train: Examples, valid: Examples, dtype: str, work: Work, asked: Json) -> Json:
        facts: Json = {}
        if isinstance(self.form, PretrainedLabelForm):
            facts = self.form.fit_head(self.model, train, valid, TimeKeeper(work.budget), self.calibrate)
            if self.options.frozen:
                return facts
            facts.pop("learned_from")
        found = super()._learn(train, valid, dtype, work, asked)
        return with_note(facts | found, facts.get("note"))
