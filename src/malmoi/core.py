"""The nouns that cross layers. Read this file first.

Text is cut into tokens, tokens are grouped into batches, a model turns a batch into logits, training
turns logits into a loss, generation turns them into more tokens, and metrics say how good the result is.

Shape letters: B rows, T positions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor

IGNORE = -100  # a target that takes no part in the loss, as in torch.nn.functional.cross_entropy

X = TypeVar("X")
Y = TypeVar("Y")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Question:
    """The input of question answering: the answer stands somewhere in `context`."""

    question: str
    context: str


@dataclass(frozen=True, slots=True)
class Answer:
    """`context[start : start + len(text)] == text`; a start of -1: only the text is known."""

    text: str
    start: int = -1


@dataclass(frozen=True, slots=True, order=True)
class Entity:
    """`input[start:end]` is a name of the kind `label`, in characters."""

    start: int
    end: int
    label: str


@dataclass(frozen=True, slots=True)
class Example(Generic[X, Y]):
    """One labelled example of a task: what goes in, what should come out, where it was read.

    others: further targets that are as right as `target` (the reference answers of a question).
    """

    input: X
    target: Y
    source: str = ""  # "file:line", for error messages
    others: tuple[Y, ...] = ()

    @property
    def references(self) -> tuple[Y, ...]:
        """All right targets, `target` first."""
        return (self.target, *self.others)


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Token rows ready for a model.

    ids_BT: int64 token ids. targets_BT: what each position should predict (IGNORE: nothing).
    documents_BT: a number for the document that each position belongs to; attention stays within equal
    numbers. None means that every row is one document.
    """

    ids_BT: Tensor
    targets_BT: Tensor | None = None
    documents_BT: Tensor | None = None

    def to(self, device: torch.device) -> TokenBatch:
        """The same batch on `device`."""
        parts = (self.targets_BT, self.documents_BT)
        return TokenBatch(
            self.ids_BT.to(device), *(None if part is None else part.to(device) for part in parts)
        )


@dataclass(frozen=True, slots=True)
class Loss:
    """A sum and the count of what was summed, so that parts of a batch add up to exactly the whole."""

    sum: Tensor  # scalar, nats
    count: int  # trained positions
    measures: dict[str, float] = field(default_factory=dict)  # further sums over the same count


@dataclass(frozen=True, slots=True)
class Metric:
    """A measured number with its uncertainty and what exactly was computed."""

    value: float
    interval: tuple[float, float] | None = None  # 95% bootstrap interval
    higher_is_better: bool = True
    signature: str = ""

    def __str__(self) -> str:
        if self.interval is None:
            return f"{self.value:.4f}"
        return f"{self.value:.4f} [{self.interval[0]:.4f}, {self.interval[1]:.4f}]"


@dataclass(frozen=True, slots=True)
class Result:
    """What one method reached: its metrics and what it cost."""

    name: str
    metrics: dict[str, Metric]
    costs: dict[str, float] = field(default_factory=dict)  # unit in the key: seconds, bytes, tokens_per_s
