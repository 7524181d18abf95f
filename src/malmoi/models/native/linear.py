"""Matrices in the layout of our kernels.

Shape letters: N rows, I inputs, O outputs; P panels of W outputs, K words of G inputs.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional

from malmoi.models.native.library import Matrix
from malmoi.util.hardware import in_huge_pages

KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}  # the kernels' `Kind` of a matrix


@dataclass(frozen=True)
class Panels:
    """A matrix for the kernels: panels_PKWG of numbers in fp32, in bf16, or in 8 bits with their scales."""

    library: ctypes.CDLL
    panels_PKWG: Tensor
    outputs: int
    inputs: int
    scales_O: Tensor | None = None

    @classmethod
    def of(cls, library: ctypes.CDLL, matrix_OI: Tensor, scales_O: Tensor | None = None) -> Panels:
        """matrix_OI: in fp32 or bf16, or whole numbers of 8 bits that `scales_O` multiplies."""
        (outputs, inputs), group = matrix_OI.shape, 4 // matrix_OI.element_size()  # in a word of 32 bits
        wide, words = library.malmoi_wide(), -(-inputs // group)
        panels_PKWG = matrix_OI.new_empty(-(-outputs // wide), words, wide, group)
        if scales_O is None:  # in 8 bits it gains nothing
            in_huge_pages(panels_PKWG)
        for panel, rows_WI in zip(panels_PKWG, matrix_OI.detach().split(wide), strict=True):
            filled_WI = functional.pad(rows_WI, (0, words * group - inputs, 0, wide - len(rows_WI)))
            panel.copy_(filled_WI.view(wide, words, group).transpose(0, 1))
        return cls(library, panels_PKWG, outputs, inputs, scales_O)

    @property
    def kind(self) -> int:
        return KINDS[self.panels_PKWG.dtype]

    @cached_property
    def sums_O(self) -> Tensor:
        """What 128 in every input would give: the kernels add it to have no negative inputs."""
        return 128 * self._whole()[: self.outputs].sum(1, dtype=torch.int32)

    def values(self) -> Tensor:
        """A copy of the matrix, in fp32 where it is kept in 8 bits."""
        matrix_OI = self._whole()[: self.outputs, : self.inputs]
        return matrix_OI.contiguous() if self.scales_O is None else matrix_OI * self.scales_O[:, None]

    def rows(self, ids: Tensor) -> Tensor:
        """Some rows, as `values` has them."""
        wide = self.panels_PKWG.shape[2]
        rows = self.panels_PKWG[ids // wide, :, ids % wide].flatten(-2)[..., : self.inputs]
        return rows if self.scales_O is None else rows * self.scales_O[ids].unsqueeze(-1)

    def matrix(self, bias_O: Tensor | None) -> Matrix:
        """What the kernels are given; it refers to the tensors here and to the bias."""
        sums_O = None if self.scales_O is None else self.sums_O
        tensors = (self.panels_PKWG, self.scales_O, sums_O, bias_O)
        addresses = (None if tensor is None else tensor.data_ptr() for tensor in tensors)
        return Matrix(*addresses, self.outputs, self.inputs, self.kind)

    def _whole(self) -> Tensor:
        return self.panels_PKWG.transpose(1, 2).flatten(2).flatten(0, 1)


class NativeLinear(nn.Module):
    """x W^T + b by our kernels, which take and give fp32 and keep W as it is in its panels.

    many: computes the same, and is faster for `MANY_ROWS` rows and more; None: nothing is. Without it a row's
    result is the same to the bit whatever stands beside it in a batch.
    """

    MANY_ROWS = 32

    def __init__(self, panels: Panels, bias_O: Tensor | None, many: nn.Module | None = None) -> None:
        super().__init__()
        self.panels, self.many = panels, many
        self._bias_O = None if bias_O is None else bias_O.detach().float().contiguous()
        self.matrix = panels.matrix(self._bias_O)

    @property
    def weight(self) -> Tensor:
        """A copy of W_OI as it counts."""
        return self.panels.values()

    def forward(self, x: Tensor) -> Tensor:
        x_NI = x.reshape(-1, x.shape[-1])
        if self.many is not None and len(x_NI) >= self.MANY_ROWS:
            return self.many(x)
        x_NI = x_NI.float().contiguous()
        y_NO = x_NI.new_empty(len(x_NI), self.panels.outputs)
        threads = torch.get_num_threads()
        self.panels.library.malmoi_linear(self.matrix, x_NI.data_ptr(), len(x_NI), y_NO.data_ptr(), threads)
        return y_NO.to(x.dtype).view(*x.shape[:-1], self.panels.outputs)


class NativeEmbedding(nn.Module):
    """Rows of a matrix that is in panels for a product, too."""

    def __init__(self, panels: Panels) -> None:
        super().__init__()
        self.panels = panels

    @property
    def weight(self) -> Tensor:
        """A copy of all rows as they count."""
        return self.panels.values()

    def forward(self, ids: Tensor) -> Tensor:
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.panels.outputs:
            raise IndexError("an id is outside the vocabulary")
        return self.panels.rows(ids)
