"""Forms: how the examples of one kind of task become rows of numbers, a model, and predictions.

`Neural` trains every form with the same loop; a form knows vocabularies, batches and how to read an answer
off the model, and nothing about steps or optimizers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from malmoi.core.nouns import Example, Json
from malmoi.core.tensors import Loss
from malmoi.data.batches import within
from malmoi.inside.sources import Network, ReadText, Source
from malmoi.learn.objectives.examples import PART_TOKENS, FitSpec
from malmoi.learn.optim import OptimizerKind
from malmoi.methods.base import Parts
from malmoi.models.encoder import EncoderConfig
from malmoi.models.heads import MaskedLanguageModel
from malmoi.tasks.base import Task
from malmoi.util.threads import share_cores

Backbone = str  # "transformer", or the name of a recurrent cell
Share = Annotated[float, Field(ge=0, lt=1)]

Row = TypeVar("Row")
Model = TypeVar("Model", bound=nn.Module)
T = TypeVar("T")
B = TypeVar("B", bound=tuple[Any, ...])


class NeuralOptions(FitSpec):
    """Shape and fit of a network. heads: of a Transformer; recurrent networks have none."""

    optimizer: OptimizerKind = "muon"
    width: PositiveInt = 128
    layers: PositiveInt = 1
    heads: PositiveInt = 4
    dropout: Share = 0.3
    vocab_size: PositiveInt = 8192

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Before any work: each head has an even width, each of two directions half of it."""
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} is not a multiple of {2 * self.heads}, twice the heads")
        return self


class EncoderOptions(NeuralOptions):
    """Networks that read a whole text. word_dropout: share of a row's tokens that are hidden in training.

    unlabelled: a file or folder of text; the encoder first learns to guess hidden tokens of it, for
    `warm_up_epochs` (masked-token pre-training, Devlin et al. 2019).
    """

    word_dropout: Share = 0.1
    unlabelled: str | None = None
    warm_up_epochs: Annotated[float, Field(gt=0)] = 3.0


class Form(ABC, Generic[Row, Model]):
    """One kind of task for one backbone."""

    Options: ClassVar[type[NeuralOptions]]
    defaults: ClassVar[dict[str, Json]] = {}  # "recurrent", "transformer" -> options that suit it better
    by_metric: ClassVar[bool] = True  # whether validation looks at the task's metric, or at the loss
    tokenizer: Any = None  # a Tokenizer where one cuts the texts

    def __init__(self, options: Any, backbone: Backbone, task: Task[Any, Any]) -> None:
        share_cores()
        self.options, self.task = options, task
        self.backbone: Backbone = backbone
        self.device = torch.device("cpu")  # where the model is; batches go there

    @property
    def width(self) -> int:
        """Of the model's vectors."""
        return self.options.width

    @abstractmethod
    def learn(self, train: Sequence[Example[Any, Any]]) -> None:
        """Make vocabularies and label sets. Raises UserError where nothing can be learned."""

    @abstractmethod
    def build(self) -> Model:
        """The model with fresh weights from torch's global generator."""

    @abstractmethod
    def rows(self, examples: Sequence[Example[Any, Any]]) -> list[Row]:
        """What is trained on; a long example may be several rows."""

    @abstractmethod
    def length(self, row: Row) -> int:
        """Tokens that a row takes."""

    @abstractmethod
    def loss(self, model: Model, rows: Sequence[Row], random: np.random.Generator | None) -> Loss:
        """Of a batch of rows; random: for what is hidden in training, None in validation."""

    @abstractmethod
    def predict(self, model: Model, inputs: Sequence[Any]) -> list[Any]:
        """The model's answers."""

    def settled(self, model: Model, valid: Sequence[Example[Any, Any]]) -> list[Any]:
        """The answers to the held-out examples; what else than weights is chosen by these is chosen here."""
        return self.predict(model, [example.input for example in valid])

    @abstractmethod
    def parts(self) -> Parts:
        """Vocabularies and label sets, as JSON and files."""

    @abstractmethod
    def restore(self, parts: Parts) -> None:
        """The inverse of `parts`."""

    def cut_note(self, inputs: Sequence[Any], targets: Sequence[Any]) -> str:
        """See `Method.cut_note`; by default all of a text is read."""
        del inputs, targets
        return ""

    def sureness(self, model: Model, inputs: Sequence[Any], answers: Sequence[Any]) -> list[float] | None:
        """See `Method.sureness`; by default it has none."""
        del model, inputs, answers
        return None

    def of_rows(
        self, inputs: Sequence[Any], answers: Sequence[Any], read: Callable[[list[Row]], Sequence[float]]
    ) -> list[list[float]]:
        """Of each of its own answers the values that `read` gives its rows; none of no answer."""
        pairs = zip(inputs, answers, strict=True)
        cut = [[] if answer is None else self.rows([Example(value, answer)]) for value, answer in pairs]
        found = iter(self.in_batches([row for rows in cut for row in rows], read))
        return [[next(found) for _ in rows] for rows in cut]

    def insides(self, model: Model, value: Any) -> tuple[Source, ...]:
        """See `Method.insides`; of a long text the first window. Without an answer no row holds it."""
        text = ReadText.of(value, self.tokenizer)
        rows = [*map(self.first_window, self.rows([Example(value, self.predict(model, [value])[0])])[:1])]
        if not rows:
            return (text,)
        source, target = self.tokens(rows[0], value)
        return text, Network(model, lambda: self.loss(model, rows, None), tuple(source), tuple(target))

    def first_window(self, row: Row) -> Row:
        """The row, or what of it goes through the model as one."""
        return row

    def tokens(self, row: Row, value: Any) -> tuple[list[str], list[str]]:
        """What the encoder and the decoder read of a row of an input, for people."""
        raise NotImplementedError

    def in_batches(self, rows: Sequence[Row], read: Callable[[list[Row]], Sequence[T]]) -> list[T]:
        """`read` of all rows, in batches of like length; results in the order of `rows`."""
        lengths = [self.length(row) for row in rows]
        order = sorted(range(len(rows)), key=lengths.__getitem__)
        found: dict[int, T] = {}
        with torch.inference_mode():
            for part in within([lengths[i] for i in order], PART_TOKENS):
                numbers = order[part]
                found |= zip(numbers, read([rows[i] for i in numbers]), strict=True)
        return [found[i] for i in range(len(rows))]


class EncoderForm(Form[Row, Model]):
    """A form whose model has an `Encoder` that can be warmed up on text without labels."""

    def encoder_config(self, vocab_size: int, context: int, chars: int = 0) -> EncoderConfig:
        """The encoder that the options ask for."""
        o = self.options
        return EncoderConfig(
            family=self.backbone, vocab_size=vocab_size, layers=o.layers, width=o.width, heads=o.heads,
            dropout=o.dropout, chars=chars, context=context,
        )  # fmt: skip

    @abstractmethod
    def plain_rows(self, texts: Sequence[str]) -> list[Row]:
        """Rows of texts without labels."""

    @abstractmethod
    def masked_loss(
        self, model: MaskedLanguageModel, rows: Sequence[Row], share: float, random: np.random.Generator
    ) -> Loss:
        """The loss of guessing a random share of the tokens, which are hidden."""


def moved(batch: B, device: torch.device) -> B:
    """A named tuple of tensors (or None) on `device`."""
    parts = (None if tensor is None else tensor.to(device) for tensor in batch)
    return type(batch)(*parts)  # pyright: ignore[reportCallIssue, reportArgumentType]


def padded(rows: Sequence[Sequence[int]], fill: int = 0) -> Tensor:
    """ids_BT, filled on the right."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows], dtype=torch.int64)


def hidden(
    ids_BT: Tensor, mask_BT: Tensor, share: float, mask_id: int, random: np.random.Generator | None
) -> tuple[Tensor, Tensor]:
    """ids_BT with a random `share` of the real tokens replaced by mask_id, and where."""
    if random is None or share == 0:
        return ids_BT, torch.zeros_like(mask_BT)
    chosen_BT = torch.from_numpy(random.random(ids_BT.shape) < share) & mask_BT
    return ids_BT.masked_fill(chosen_BT, mask_id), chosen_BT


def cuts(length: int, most: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of consecutive pieces of at most `most` items; one, empty, of nothing."""
    for start in range(0, max(1, length), most):
        yield start, min(length, start + most)
