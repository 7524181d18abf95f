"""Matrices in 8 and in 4 bits: whole numbers in groups of inputs, each group with what makes them weights.

Shape letters: N rows, W their width, G groups, S inputs in a group, V vocabulary, O outputs, I inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from malmoi.models.formats import GroupLayout, PackedRows

_TINY = 1e-30
_STEPS = torch.linspace(-1.0, 0.5, 7)  # what is added to the 15 steps of 4 bits, to try
_CHUNK = 1 << 22  # numbers that are unpacked at once


@dataclass(frozen=True, slots=True)
class Grouped:
    """A format: see `malmoi.models.formats:WeightFormat`."""

    name: str
    groups: GroupLayout
    error: float
    dtype: torch.dtype = torch.float32
    cache_dtype: torch.dtype = torch.bfloat16  # attention adds up more digits than what few bits leave

    def rows(self, matrix_NW: Tensor) -> PackedRows:
        """The numbers that are near the matrix's."""
        (count, width), size = matrix_NW.shape, self.groups.size
        matrix_NW = functional.pad(matrix_NW.detach().float(), (0, -width % size))
        groups_NGS = matrix_NW.view(count, -1, size)
        numbers, scales, least = _with_least(groups_NGS) if self.groups.has_least else _around_0(groups_NGS)
        return PackedRows(
            numbers.to(torch.int8).flatten(1)[:, :width],
            scales[..., 0],
            None if least is None else least[..., 0],
        )

    def linear(self, linear: nn.Linear, rows: PackedRows) -> nn.Module:
        return GroupedLinear(rows, self.groups, linear.bias)

    def embedding(self, embedding: nn.Embedding, rows: PackedRows) -> nn.Module:
        del embedding
        return GroupedEmbedding(rows, self.groups)


INT8 = Grouped("int8", GroupLayout(8), error=0.015)
INT4 = Grouped("int4", GroupLayout(4, has_least=True), error=0.12)


def _around_0(groups_NGS: Tensor) -> tuple[Tensor, Tensor, None]:
    """The nearest multiples of a group's largest magnitude / 127."""
    scales = groups_NGS.abs().amax(-1, keepdim=True) / 127
    return (groups_NGS / scales.clamp(min=_TINY)).round_(), scales, None


def _with_least(groups_NGS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """0 to 15 times a scale and a least value that leave the smallest squared error.

    Several steps are tried for the numbers; for each, scale and least value are the line of least squares
    through the numbers and the weights.
    """
    low, high = groups_NGS.aminmax(dim=-1, keepdim=True)
    least_squares: list[tuple[Tensor, ...]] = []
    for extra in _STEPS:
        numbers = ((groups_NGS - low) * ((15 + extra) / (high - low).clamp(min=_TINY))).round_().clamp_(0, 15)
        scales, least = _line(numbers, groups_NGS)
        error = (numbers * scales + least - groups_NGS).square_().sum(-1, keepdim=True)
        found = (error, numbers, scales, least)
        if least_squares:
            better = error < least_squares[0][0]
            found = tuple(
                torch.where(better, one, other) for one, other in zip(found, least_squares[0], strict=True)
            )
        least_squares = [found]
    _, numbers, scales, least = least_squares[0]
    return numbers, scales, least


def _line(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and intercept of least squares, in the last dimension."""
    mean_x, mean_y = x.mean(-1, keepdim=True), y.mean(-1, keepdim=True)
    apart = x - mean_x
    slope = (apart * y).sum(-1, keepdim=True) / apart.square().sum(-1, keepdim=True).clamp(min=_TINY)
    return slope, mean_y - slope * mean_x


class GroupedModule(nn.Module):
    """Holds rows in groups."""

    def __init__(self, rows: PackedRows, layout: GroupLayout) -> None:
        super().__init__()
        self.rows, self.layout = rows, layout

    @property
    def weight(self) -> Tensor:
        """A copy of all rows as they count, in fp32."""
        return self._values(slice(None))

    def _values(self, which: slice | Tensor) -> Tensor:
        numbers = self.rows.numbers_NW[which]
        assert self.rows.scales_NG is not None
        values = numbers * self._wide(self.rows.scales_NG[which], numbers.shape[-1])
        least = self.rows.least_NG
        return values if least is None else values + self._wide(least[which], numbers.shape[-1])

    def _wide(self, groups: Tensor, width: int) -> Tensor:
        return groups.repeat_interleave(self.layout.size, -1)[..., :width]


class GroupedLinear(GroupedModule):
    """x W^T + b without our kernels: W is unpacked for every product, a part at a time."""

    def __init__(self, rows: PackedRows, layout: GroupLayout, bias_O: Tensor | None) -> None:
        super().__init__(rows, layout)
        self._bias_O = None if bias_O is None else bias_O.detach().float()

    def forward(self, x: Tensor) -> Tensor:
        outputs, inputs = self.rows.numbers_NW.shape
        step = max(1, _CHUNK // inputs)
        parts = (slice(start, start + step) for start in range(0, outputs, step))
        y = torch.cat([functional.linear(x, self._values(part)) for part in parts], -1)
        return y if self._bias_O is None else y + self._bias_O


class GroupedEmbedding(GroupedModule):
    """Rows of a matrix in groups."""

    def forward(self, ids: Tensor) -> Tensor:
        return self._values(ids)
