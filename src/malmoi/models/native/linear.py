"""Matrices in the layout of our kernels.

Shape letters: N rows, I inputs, O outputs; P panels of W outputs, K words of G inputs; in few bits, G groups
of B bytes.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from malmoi.models.formats import GroupLayout, PackedRows
from malmoi.models.native.library import Matrix
from malmoi.util.hardware import in_huge_pages

KINDS = {torch.float32: 0, torch.bfloat16: 1}  # the kernels' `Kind` of a matrix
_NIBBLES, _BYTES = 2, 3  # those of few bits
GROUP = 32  # inputs that the kernels bring to 8 bits together
TILED_TOKENS = 16  # a text of so many new tokens is multiplied in tiles, where the processor has them
_CHUNK = 1 << 20  # numbers that are packed at once


@dataclass(frozen=True)
class Panels:
    """A matrix in fp32 or in bf16: panels_PKWG of its numbers."""

    library: ctypes.CDLL
    panels_PKWG: Tensor
    outputs: int
    inputs: int

    @classmethod
    def of(cls, library: ctypes.CDLL, matrix_OI: Tensor) -> Panels:
        """matrix_OI: in fp32 or bf16."""
        (outputs, inputs), in_word = matrix_OI.shape, 4 // matrix_OI.element_size()
        wide, words = library.malmoi_wide(), -(-inputs // in_word)
        panels_PKWG = in_huge_pages(matrix_OI.new_empty(-(-outputs // wide), words, wide, in_word))
        for panel, rows_WI in zip(panels_PKWG, matrix_OI.detach().split(wide), strict=True):
            filled_WI = functional.pad(rows_WI, (0, words * in_word - inputs, 0, wide - len(rows_WI)))
            panel.copy_(filled_WI.view(wide, words, in_word).transpose(0, 1))
        return cls(library, panels_PKWG, outputs, inputs)

    def rows(self, ids: Tensor) -> Tensor:
        """Some rows, as they count."""
        wide = self.panels_PKWG.shape[2]
        return self.panels_PKWG[ids // wide, :, ids % wide].flatten(-2)[..., : self.inputs]

    def matrix(self) -> Matrix:
        """What the kernels are given, without a bias; it refers to the tensors here."""
        kind = KINDS[self.panels_PKWG.dtype]
        return Matrix(self.panels_PKWG.data_ptr(), None, None, self.outputs, self.inputs, kind)


@dataclass(frozen=True)
class GroupSource:
    """A matrix in groups that is read a part at a time.

    largest: no scale and no least value has a larger magnitude. read: some rows of it.
    """

    shape: tuple[int, int]
    layout: GroupLayout
    largest: float
    read: Callable[[slice], PackedRows]

    def parts(self, multiple: int) -> Iterator[slice]:
        """All rows, so many at once that memory holds little beside the result."""
        step = max(1, _CHUNK // self.shape[1] // multiple) * multiple
        for start in range(0, self.shape[0], step):
            yield slice(start, min(start + step, self.shape[0]))


def fp16_unit(largest: float) -> float:
    """What to divide numbers by so that fp16 holds the largest, and what is 2^-29 of it as exactly."""
    return 2.0 ** (math.frexp(largest)[1] - 15) if largest else 1.0


@dataclass(frozen=True)
class GroupPanels:
    """A matrix in 4 or 8 bits: panels_PGB, of each group W scales, W least values if it has some, and its
    numbers. Scales and least values are in fp16, and `unit` multiplies them.

    Numbers of 8 bits are 128 more than they are; of 4, 8 more if there is no least value, and the second half
    of a group is in the high halves of the first half's bytes.
    """

    library: ctypes.CDLL
    panels_PGB: Tensor
    outputs: int
    inputs: int
    layout: GroupLayout
    unit: float

    @classmethod
    def of(cls, library: ctypes.CDLL, source: GroupSource) -> GroupPanels:
        (outputs, inputs), layout, wide = source.shape, source.layout, library.malmoi_wide()
        groups = -(-inputs // GROUP) * GROUP // layout.size
        size = wide * (2 + 2 * layout.has_least + layout.size * layout.bits // 8)
        panels_PGB = in_huge_pages(torch.empty(-(-outputs // wide), groups, size, dtype=torch.uint8))
        found = cls(library, panels_PGB, outputs, inputs, layout, fp16_unit(source.largest))
        for part in source.parts(wide):
            found._put(part.start, source.read(part))
        return found

    def rows(self, ids: Tensor) -> Tensor:
        """Some rows, as they count."""
        wide, layout = self.library.malmoi_wide(), self.layout
        panel, place = ids // wide, ids % wide
        scales, *least = (half[panel, :, place].float() * self.unit for half in self._halves())
        words = self._words()[panel, :, :, place].contiguous().view(torch.uint8)
        numbers = words if layout.bits == 8 else torch.cat((words & 15, words >> 4), -1)
        offset = 128 if layout.bits == 8 else 0 if layout.has_least else 8
        values = (numbers.float() - offset) * scales[..., None]
        values = values + least[0][..., None] if least else values
        return values.flatten(-2)[..., : self.inputs]

    def matrix(self) -> Matrix:
        """See `Panels.matrix`."""
        kind = _BYTES if self.layout.bits == 8 else _NIBBLES
        return Matrix(
            self.panels_PGB.data_ptr(), None, None, self.outputs, self.inputs, kind,
            self.layout.size, self.layout.has_least, self.unit,
        )  # fmt: skip

    def _put(self, first: int, rows: PackedRows) -> None:
        """Rows from `first` on, with which a panel begins."""
        found = [rows.numbers_NW, rows.scales_NG, rows.least_NG]
        numbers, *groups = (None if it is None else it.contiguous() for it in found)
        assert numbers is not None
        addresses = (None if it is None else it.data_ptr() for it in groups)
        self.library.malmoi_pack(
            self.matrix(), self.panels_PGB.data_ptr(), first, len(numbers), numbers.data_ptr(), *addresses,
            1 / self.unit, torch.get_num_threads(),
        )  # fmt: skip

    def _halves(self) -> Iterator[Tensor]:
        """The scales [P, G, W], and the least values if there are any."""
        size = 2 * self.library.malmoi_wide()
        for part in range(1 + self.layout.has_least):
            yield self.panels_PGB[..., part * size : (part + 1) * size].view(torch.float16)

    def _words(self) -> Tensor:
        """The numbers [P, G, K, W], four bytes in one."""
        wide = self.library.malmoi_wide()
        start = 2 * wide * (1 + self.layout.has_least)
        return self.panels_PGB[..., start:].view(torch.int32).unflatten(-1, (-1, wide))


AnyPanels = Panels | GroupPanels  # a matrix, or some of its outputs, as the kernels read it


def values_of(panels: AnyPanels) -> Tensor:
    """A copy of the matrix, as it counts."""
    step = max(1, _CHUNK // panels.inputs)
    ids = torch.arange(panels.outputs)
    return torch.cat([panels.rows(part) for part in ids.split(step)])


class NativeLinear(nn.Module):
    """x W^T + b by our kernels, which take and give fp32 and keep W as it is in its panels.

    panels: of W's rows, some after the others, which may be in several formats. A row's result is the same to
    the bit whatever stands beside it in a batch, of texts that are as long.
    """

    def __init__(self, panels: Sequence[AnyPanels], bias_O: Tensor | None) -> None:
        super().__init__()
        self.panels = tuple(panels)
        self.outputs = sum(it.outputs for it in self.panels)
        self._bias_O = None if bias_O is None else bias_O.detach().float().contiguous()
        self._matrices = self._chain()  # each refers to the next
        self.matrix = self._matrices[0]

    @property
    def weight(self) -> Tensor:
        """A copy of W_OI as it counts."""
        return torch.cat([values_of(it) for it in self.panels])

    def forward(self, x: Tensor) -> Tensor:
        x_NI = x.reshape(-1, x.shape[-1]).float().contiguous()
        y_NO = x_NI.new_empty(len(x_NI), self.outputs)
        in_tiles = x.ndim > 2 and x.shape[-2] >= TILED_TOKENS
        self.panels[0].library.malmoi_linear(
            self.matrix, x_NI.data_ptr(), len(x_NI), y_NO.data_ptr(), in_tiles, torch.get_num_threads()
        )
        return y_NO.to(x.dtype).view(*x.shape[:-1], self.outputs)

    def _chain(self) -> list[Matrix]:
        found, begin = [it.matrix() for it in self.panels], 0
        for matrix, after in zip(found, [*found[1:], None], strict=True):
            if self._bias_O is not None:
                matrix.bias = self._bias_O[begin:].data_ptr()
            matrix.next = None if after is None else ctypes.addressof(after)
            begin += matrix.outputs
        return found


class NativeEmbedding(nn.Module):
    """Rows of a matrix that is in panels for a product, too."""

    def __init__(self, panels: AnyPanels) -> None:
        super().__init__()
        self.panels = panels

    @property
    def weight(self) -> Tensor:
        """A copy of all rows as they count."""
        return values_of(self.panels)

    def forward(self, ids: Tensor) -> Tensor:
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.panels.outputs:
            raise IndexError("an id is outside the vocabulary")
        return self.panels.rows(ids)
