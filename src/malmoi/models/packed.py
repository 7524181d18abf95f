"""A model made ready to answer on a processor: its matrices in a weight format, in its kernels' layout.

A matrix times few rows is bound by memory, and a plain matrix of PyTorch's is read there at a fraction of the
speed. Packed once for our kernels (`malmoi.models.native`) it is not; where these cannot be had, for
oneDNN's. A packed model computes the same function (in fewer bits: nearly), but can no longer be trained or
saved.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from malmoi.core.errors import UserError
from malmoi.models.formats import DTYPES, QUANTIZED, PackedRows, WeightFormat, find_format
from malmoi.models.grouped import GroupedModule
from malmoi.models.native.decoder import FusedDecoder, can_fuse
from malmoi.models.native.library import kernels
from malmoi.models.native.linear import (
    KINDS,
    AnyPanels,
    GroupPanels,
    GroupSource,
    NativeEmbedding,
    NativeLinear,
    Panels,
)
from malmoi.models.transformer import Transformer
from malmoi.util.hardware import onednn_packs

# smaller matrices stay in the processor's caches, where a plain product is as fast
_LEAST_NUMBERS = {torch.float32: 1 << 20, torch.bfloat16: 1 << 15}


class PackedLinear(nn.Module):
    """x W^T + b with W in the layout of oneDNN's kernels; fp32 and bf16."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._bias = None if linear.bias is None else linear.bias.detach()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), 1)

    @property
    def weight(self) -> Tensor:
        """A copy of W_OI."""
        return self._packed.to_dense()

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], "")


@dataclass(frozen=True, slots=True)
class Plain:
    """A format that holds numbers as the model computes with them. See `malmoi.models.formats`."""

    name: str
    dtype: torch.dtype
    error: float
    groups: None = None
    cache_dtype: torch.dtype | None = None

    def rows(self, matrix_NW: Tensor) -> PackedRows:
        return PackedRows(matrix_NW.detach())

    def linear(self, linear: nn.Linear, rows: PackedRows) -> nn.Module:
        del rows
        pays = linear.weight.numel() >= _LEAST_NUMBERS.get(self.dtype, torch.inf)
        return PackedLinear(linear) if pays and onednn_packs(self.dtype) else linear

    def embedding(self, embedding: nn.Embedding, rows: PackedRows) -> nn.Module:
        del rows
        return embedding


FP32 = Plain("fp32", torch.float32, error=1e-5)
BF16 = Plain("bf16", torch.bfloat16, error=0.02)
FP16 = Plain("fp16", torch.float16, error=0.005)
STORED = Plain("stored", torch.float32, 0.0, cache_dtype=torch.bfloat16)  # beside matrices in few bits


Sources = Mapping[
    str, Sequence[GroupSource]
]  # by the name of the weight, whose rows are some after the others


def pack(model: nn.Module, format: WeightFormat | None = None, sources: Sources | None = None) -> None:
    """Replace the matrices of a model on a processor, in place.

    format: if not given, that of the model's own dtype. sources: where matrices come from that are not to be
    in this format, but in the bits that they are stored in; their parameters are not read. Raises UserError
    where fewer bits are asked of a model on a GPU.
    """
    parameter = next(model.parameters())
    on_cpu = parameter.device.type == "cpu"
    format = format or next(it for it in map(find_format, DTYPES) if it.dtype == parameter.dtype)
    if format.name in QUANTIZED and not on_cpu:
        raise UserError(f"{format.name} is for processors; on a GPU leave quantize out")
    model.requires_grad_(False)
    if not on_cpu:
        return
    model.to(format.dtype)
    library = kernels() if format.groups is not None or format.dtype in KINDS else None
    assert library is not None or not sources
    _replace(model, _Packer(format, library, model, sources or {}))
    if library is not None and can_fuse(model):
        assert isinstance(model, Transformer)
        model.fused = FusedDecoder(model)
        model.cache_dtype = format.cache_dtype


def precision(model: nn.Module) -> str:
    """What the matrices of a packed model are held in, for people: "bf16", "4 and 8 bits"."""
    held: list[object] = list(model.modules())
    held += [panel for it in held if isinstance(it, NativeLinear) for panel in it.panels]
    if bits := sorted({it.layout.bits for it in held if isinstance(it, GroupPanels | GroupedModule)}):
        return f"{' and '.join(map(str, bits))} bits"
    return next(name for name in DTYPES if find_format(name).dtype == next(model.parameters()).dtype)


def _replace(model: nn.Module, packer: _Packer) -> None:
    """Put what the packer makes of each innermost module in its place."""
    parents = [module for module in model.modules() if next(module.children(), None) is not None]
    for parent in parents:  # none of what is replaced is held here: memory would hold a model twice
        for name, child in list(parent.named_children()):
            if (new := packer(child)) is not child:
                setattr(parent, name, new)


class _Packer:
    """What takes a module's place; a matrix that two modules share stays one."""

    def __init__(
        self, format: WeightFormat, library: ctypes.CDLL | None, model: nn.Module, sources: Sources
    ) -> None:
        self._format, self._library = format, library
        self._multiplied = {id(module.weight) for module in model.modules() if type(module) is nn.Linear}
        self._rows: dict[int, PackedRows] = {}
        self._panels: dict[int, Sequence[AnyPanels]] = {}
        self._sources = {
            id(it): sources[name]
            for name, it in model.named_parameters(remove_duplicate=False)
            if name in sources
        }

    def __call__(self, module: nn.Module) -> nn.Module:
        if self._library is not None and type(module) is nn.Linear:
            return NativeLinear(self._in_panels(self._library, module.weight), module.bias)
        if self._library is None and isinstance(module, nn.Linear):
            return self._format.linear(module, self._packed(module.weight))
        if isinstance(module, nn.Embedding):
            shared = id(module.weight) in self._multiplied or id(module.weight) in self._sources
            if self._library is not None and shared:
                (panels,) = self._in_panels(self._library, module.weight)
                return NativeEmbedding(panels)
            return self._format.embedding(module, self._packed(module.weight))
        return module

    def _packed(self, weight: Tensor) -> PackedRows:
        if self._format.groups is None:  # not kept: memory would hold the model twice
            return self._format.rows(weight)
        if (rows := self._rows.get(id(weight))) is None:
            rows = self._rows[id(weight)] = self._format.rows(weight)
        return rows

    def _in_panels(self, library: ctypes.CDLL, weight: Tensor) -> Sequence[AnyPanels]:
        if (panels := self._panels.get(id(weight))) is None:
            panels = self._panels[id(weight)] = self._new_panels(library, weight)
        return panels

    def _new_panels(self, library: ctypes.CDLL, weight: Tensor) -> Sequence[AnyPanels]:
        if sources := self._sources.get(id(weight)):
            return [GroupPanels.of(library, source) for source in sources]
        if self._format.groups is None:
            return [Panels.of(library, self._format.rows(weight).numbers_NW)]
        return [GroupPanels.of(library, source_of(weight, self._format))]


def source_of(matrix_NW: Tensor, format: WeightFormat) -> GroupSource:
    """A matrix that is brought to few bits."""
    assert format.groups is not None
    largest = 0.0 if not matrix_NW.numel() else float(matrix_NW.detach().abs().amax())
    count, width = matrix_NW.shape
    return GroupSource((count, width), format.groups, largest, lambda part: format.rows(matrix_NW[part]))
