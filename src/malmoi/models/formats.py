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
QUANTIZED = {  # in fewer bits than it computes with
    "int8": "malmoi.models.grouped:INT8",
    "int4": "malmoi.models.grouped:INT4",
}


class GroupLayout(NamedTuple):
    """How whole numbers of few bits stand for weights: w = scale * number + least, in groups of inputs.

    bits: 4 or 8. size: inputs in a group, 32 or 16. has_least: whether a group has a least value, and numbers
    begin at 0; else they lie around 0.
    """

    bits: int
    size: int = 32
    has_least: bool = False


class PackedRows(NamedTuple):
    """A packed matrix: its numbers (one a byte, where they are few bits), and what makes each group of them
    weights, where there are groups."""

    numbers_NW: Tensor
    scales_NG: Tensor | None = None
    least_NG: Tensor | None = None


class WeightFormat(Protocol):
    """How rows are packed, multiplied and unpacked. What is made here has a `weight`: what counts."""

    @property
    def name(self) -> str: ...

    @property
    def dtype(self) -> torch.dtype:
        """Of the model before it is packed."""
        ...

    @property
    def groups(self) -> GroupLayout | None:
        """How its numbers stand for weights; None: they are these."""
        ...

    @property
    def cache_dtype(self) -> torch.dtype | None:
        """Of keys and values, if not the model's."""
        ...

    @property
    def error(self) -> float:
        """How far a product may be from the plain one, of its norm."""
        ...

    def rows(self, matrix_NW: Tensor) -> PackedRows:
        """Pack a matrix."""
        ...

    def linear(self, linear: nn.Linear, rows: PackedRows) -> nn.Module:
        """What multiplies by packed rows without our kernels."""
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
