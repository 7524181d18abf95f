"""What crosses layers as tensors: batches of tokens and losses.

Shape letters: B rows, T positions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

IGNORE = -100  # a target that takes no part in the loss, as in torch.nn.functional.cross_entropy


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


def mean(losses: Iterable[Loss]) -> float:
    """Of everything that was summed."""
    pairs = [(loss.sum.item(), loss.count) for loss in losses]
    return sum(total for total, _ in pairs) / max(1, sum(count for _, count in pairs))
