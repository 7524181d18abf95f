"""The table of weight formats: how a model's matrices are held to answer on a processor.

A format is one object in a file of its own and one line here; names are those of `malmoi.load`, of the server
and of the benchmarks. This file does not need PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from malmoi.core.errors import UserError
from malmoi.util.tables import entry

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

DTYPES = {  # what a model computes with and holds
    "fp32": "malmoi.models.packed:FP32",
    "bf16": "malmoi.models.packed:BF16",
    "fp16": "malmoi.models.packed:FP16",
}
QUANTIZED = {"int8": "malmoi.models.int8:INT8"}  # in fewer bits than it computes with


class PackedRows(NamedTuple):
    """A packed matrix: its numbers, and what multiplies each row of them, if anything does."""

    numbers_NW: Tensor
    scales_N: Tensor | None = None


class WeightFormat(Protocol):
    """How rows are packed, multiplied and unpacked. Modules made here have a `weight`, the values that count.

    dtype: of the model before it is packed. packed: of the numbers, which our kernels multiply if they know
    it. cache_dtype: of keys and values, if not the model's. error: how far a product may be from the plain
    one, of its norm.
    """

    name: str
    dtype: torch.dtype
    packed: torch.dtype
    cache_dtype: torch.dtype | None
    error: float

    def rows(self, matrix_NW: Tensor) -> PackedRows:
        """Pack a matrix."""
        ...

    def linear(self, linear: nn.Linear, rows: PackedRows) -> nn.Module:
        """What multiplies by packed rows without our kernels."""
        ...

    def linear_for_many(self, linear: nn.Linear, rows: PackedRows) -> nn.Module | None:
        """What multiplies faster than our kernels where there are many rows and AMX; None: nothing."""
        ...

    def embedding(self, embedding: nn.Embedding, rows: PackedRows) -> nn.Module:
        """What looks up packed rows."""
        ...


def find_format(dtype: str = "fp32", quantize: str | None = None) -> WeightFormat:
    """The format of these options. Raises UserError for what is none."""
    if dtype not in DTYPES:
        raise UserError(f"dtype is {dtype!r}; it can be {', '.join(DTYPES)}")
    if not quantize:
        return entry(DTYPES[dtype])
    if quantize not in QUANTIZED:
        raise UserError(f"quantize is {quantize!r}; it can be {', '.join(QUANTIZED)}")
    if dtype != "fp32":
        raise UserError(f"{quantize} computes in fp32 between its products; leave dtype out")
    return entry(QUANTIZED[quantize])
