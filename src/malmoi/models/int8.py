"""Matrices in 8 bits: each row is whole numbers and what multiplies them.

Shape letters: N rows, W their width, V vocabulary, O outputs, I inputs.
"""

from __future__ import annotations

import platform

import torch
from torch import Tensor, nn
from torch.nn import functional

from malmoi.models.blocks import constant
from malmoi.models.formats import PackedRows
from malmoi.models.native.library import kernels
from malmoi.util.hardware import cpu_flags


class Int8:
    """The format: see `malmoi.models.formats:WeightFormat`."""

    name = "int8"
    dtype, packed = torch.float32, torch.int8
    cache_dtype = torch.bfloat16  # what attention adds up has more digits than what 8 bits leave of it
    error = 0.03

    def rows(self, matrix_NW: Tensor) -> PackedRows:
        """The nearest multiples of a row's largest magnitude / `most()`."""
        matrix_NW = matrix_NW.detach().float()
        scales_N = matrix_NW.abs().amax(1).clamp(min=1e-30) / most()
        return PackedRows((matrix_NW / scales_N[:, None]).round().to(torch.int8), scales_N)

    def linear(self, linear: nn.Linear, rows: PackedRows) -> nn.Module:
        return Int8Linear(rows, linear.bias)

    linear_for_many = linear

    def embedding(self, embedding: nn.Embedding, rows: PackedRows) -> nn.Module:
        del embedding
        return Int8Embedding(rows)


INT8 = Int8()


class _Int8Module(nn.Module):
    """Holds rows in 8 bits."""

    def __init__(self, rows: PackedRows) -> None:
        super().__init__()
        assert rows.scales_N is not None
        self.rows, self._scales_N1 = rows, rows.scales_N[:, None]

    @property
    def weight(self) -> Tensor:
        """A copy of all rows as they count, in fp32."""
        return self.rows.numbers_NW * self._scales_N1


class Int8Linear(_Int8Module):
    """x W^T + b with each row of W in 8 bits, and each row of x brought to 8 bits for the product.

    Every row of x has a scale of its own (its largest magnitude) and sums are of whole numbers, so a row's
    result is the same whatever stands beside it in a batch.
    """

    def __init__(self, rows: PackedRows, bias_O: Tensor | None) -> None:
        super().__init__(rows)
        self._bias_O = None if bias_O is None else bias_O.detach().float()
        self._scales_O = self._scales_N1[:, 0] / 127  # of both sides

    def forward(self, x: Tensor) -> Tensor:
        x_NI = x.reshape(-1, x.shape[-1])
        largest_N1 = torch.linalg.vector_norm(x_NI, float("inf"), -1, keepdim=True)
        # where all are 0, what 0 / 0 becomes is multiplied by 0 again
        whole_NI = torch.addcdiv(constant(0.0), x_NI, largest_N1, value=127.0).round_().to(torch.int8)
        y_NO = (torch.ops.aten._int_mm(whole_NI, self.rows.numbers_NW.T) * self._scales_O).mul_(largest_N1)
        y_NO = y_NO if self._bias_O is None else y_NO.add_(self._bias_O)
        return y_NO.view(*x.shape[:-1], -1)


class Int8Embedding(_Int8Module):
    """Rows of a matrix in 8 bits, each with its scale."""

    def forward(self, ids: Tensor) -> Tensor:
        return functional.embedding(ids, self.rows.numbers_NW) * functional.embedding(ids, self._scales_N1)


def most() -> int:
    """The largest weight in 8 bits. x86 processors without VNNI add pairs of products in 16 bits, which hold
    weights of 7 bits only."""
    if (library := kernels()) is not None:
        return library.malmoi_most()
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return 127 if not x86 or {"avx512_vnni", "avx_vnni"} & cpu_flags() else 63
