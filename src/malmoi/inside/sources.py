"""What can be looked into: a text with its cuts, a next-token model, a network, a bag of words.

Pictures know these forms and nothing of tasks and methods; a fitted method says what is inside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from malmoi.core.nouns import Message, Question

if TYPE_CHECKING:  # a bag of words needs no PyTorch
    from torch import nn

    from malmoi.models.state import Scorer
    from malmoi.text.tokenizer import Tokenizer

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ReadText:
    """A text, and the tokenizer of the model that reads it (None: the model reads it by other means)."""

    text: str
    tokenizer: Tokenizer | None = None

    @classmethod
    def of(cls, value: Any, tokenizer: Tokenizer | None = None) -> Self:
        """An input of any task as one text."""
        if isinstance(value, Question):
            value = f"{value.question}\n{value.context}"
        elif isinstance(value, tuple):
            value = "\n".join(message.content for message in value if isinstance(message, Message))
        return cls(value, tokenizer)


@dataclass(frozen=True, slots=True)
class NextTokenModel:
    """What predicts the next token of `text`: a GPT, a recurrent language model, an n-gram model."""

    model: Scorer
    tokenizer: Tokenizer
    text: str


@dataclass(frozen=True, slots=True)
class Network:
    """A network fitted to a task. `read` sends one row through it.

    source: the tokens that its encoder reads. target: those that its decoder reads; () where there is none.
    """

    model: nn.Module
    read: Callable[[], object]
    source: tuple[str, ...]
    target: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BagOfWords:
    """What each word of a text adds to the score of each label: their sum and `bias_L` are the scores.

    strongest: n-grams with what they add for each label, the strongest first. needed_L: of sets of labels,
    the score from which on each is given; else the highest one is. L labels, W words.
    """

    words: tuple[str, ...]
    labels: tuple[str, ...]
    added_LW: Floats
    bias_L: Floats
    strongest: tuple[tuple[str, Floats], ...] = ()
    needed_L: Floats | None = None


Source = ReadText | NextTokenModel | Network | BagOfWords


@runtime_checkable
class Inspectable(Protocol):
    """The handle of a fitted method: what can be looked into once it has read `text`."""

    def insides(self, text: str) -> tuple[Source, ...]: ...
