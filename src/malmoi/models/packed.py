"""A model made ready to answer on a processor: matrices in the layout of its kernels, or in 8 bits.

A matrix times few rows is bound by memory, and a plain matrix of PyTorch's is read there at a fraction of the
speed. Packed once for our kernels (`malmoi.models.native`) it is not; where these cannot be had, for
oneDNN's. A packed model computes the same function (in 8 bits: nearly), but can no longer be trained or
saved.

Shape letters: N rows, W their width, V vocabulary, O outputs, I inputs.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from malmoi.core.errors import UserError
from malmoi.models.blocks import constant
from malmoi.models.native.decoder import FusedDecoder, can_fuse
from malmoi.models.native.library import kernels
from malmoi.models.native.linear import NativeEmbedding, NativeLinear, Panels
from malmoi.models.transformer import Transformer
from malmoi.util.hardware import cpu_flags, has_amx, onednn_packs

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
class Rows8:
    """A matrix in 8 bits: whole numbers, and what each row of them is multiplied by."""

    whole_NW: Tensor
    scales_N: Tensor

    @classmethod
    def of(cls, matrix_NW: Tensor) -> Rows8:
        """The nearest multiples of a row's largest magnitude / `_most()`."""
        matrix_NW = matrix_NW.detach().float()
        scales_N = matrix_NW.abs().amax(1).clamp(min=1e-30) / _most()
        return cls((matrix_NW / scales_N[:, None]).round().to(torch.int8), scales_N)

    def values(self) -> Tensor:
        """In fp32."""
        return self.whole_NW * self.scales_N[:, None]


class Int8Linear(nn.Module):
    """x W^T + b with each row of W in 8 bits, and each row of x brought to 8 bits for the product.

    Every row of x has a scale of its own (its largest magnitude) and sums are of whole numbers, so a row's
    result is the same whatever stands beside it in a batch.
    """

    def __init__(self, rows: Rows8, bias_O: Tensor | None) -> None:
        super().__init__()
        self._rows, self._bias_O = rows, None if bias_O is None else bias_O.detach().float()
        self._scales_O = rows.scales_N / 127  # of both sides

    @property
    def weight(self) -> Tensor:
        """A copy of W_OI as it counts, in fp32."""
        return self._rows.values()

    def forward(self, x: Tensor) -> Tensor:
        x_NI = x.reshape(-1, x.shape[-1])
        largest_N1 = torch.linalg.vector_norm(x_NI, float("inf"), -1, keepdim=True)
        # where all are 0, what 0 / 0 becomes is multiplied by 0 again
        whole_NI = torch.addcdiv(constant(0.0), x_NI, largest_N1, value=127.0).round_().to(torch.int8)
        y_NO = (torch.ops.aten._int_mm(whole_NI, self._rows.whole_NW.T) * self._scales_O).mul_(largest_N1)
        y_NO = y_NO if self._bias_O is None else y_NO.add_(self._bias_O)
        return y_NO.view(*x.shape[:-1], -1)


class Int8Embedding(nn.Module):
    """Rows of a matrix in 8 bits, each with its scale."""

    def __init__(self, rows: Rows8) -> None:
        super().__init__()
        self._rows, self._scales_V1 = rows, rows.scales_N[:, None]

    @property
    def weight(self) -> Tensor:
        """A copy of all rows as they count, in fp32."""
        return self._rows.values()

    def forward(self, ids: Tensor) -> Tensor:
        return functional.embedding(ids, self._rows.whole_NW) * functional.embedding(ids, self._scales_V1)


def pack(model: nn.Module, *, quantize: str | None = None) -> None:
    """Replace the matrices of a model on a processor, in place.

    quantize: "int8", or None to keep their values. Raises UserError for another one, or
    where 8 bits are asked of a model on a GPU.
    """
    parameter = next(model.parameters())
    on_cpu = parameter.device.type == "cpu"
    if quantize not in (None, "int8"):
        raise UserError(f"quantize is {quantize!r}; it can be int8")
    if quantize and not on_cpu:
        raise UserError("int8 is for processors; on a GPU leave quantize out")
    model.requires_grad_(False)
    if not on_cpu:
        return
    if quantize:
        model.float()
    library = kernels() if parameter.dtype in (torch.float32, torch.bfloat16) else None
    if library is not None:
        _replace(model, _Native(library, model, in_8_bits=bool(quantize)))
        if can_fuse(model):
            assert isinstance(model, Transformer)
            model.fused = FusedDecoder(model)
            # what attention adds up has more digits than what 8 bits leave of it
            model.cache_dtype = torch.bfloat16 if quantize else None
    elif quantize:
        _replace(model, _In8Bits())
    elif onednn_packs(parameter.dtype):
        _replace(model, lambda it: PackedLinear(it) if isinstance(it, nn.Linear) and _pays(it.weight) else it)


def _replace(model: nn.Module, made: Callable[[nn.Module], nn.Module]) -> None:
    """Put what `made` makes of each innermost module in its place."""
    parents = [module for module in model.modules() if next(module.children(), None) is not None]
    for parent in parents:  # none of what is replaced is held here: memory would hold a model twice
        for name, child in list(parent.named_children()):
            if (new := made(child)) is not child:
                setattr(parent, name, new)


class _Quantizer:
    """Matrices in 8 bits; one that two modules share stays one."""

    def __init__(self) -> None:
        self._made: dict[int, Rows8] = {}

    def __call__(self, weight: Tensor) -> Rows8:
        if (rows := self._made.get(id(weight))) is None:
            rows = self._made[id(weight)] = Rows8.of(weight)
        return rows


class _In8Bits:
    """What takes a module's place in 8 bits."""

    def __init__(self) -> None:
        self._quantized = _Quantizer()

    def __call__(self, module: nn.Module) -> nn.Module:
        if isinstance(module, nn.Linear):
            return Int8Linear(self._quantized(module.weight), module.bias)
        return Int8Embedding(self._quantized(module.weight)) if isinstance(module, nn.Embedding) else module


class _Native:
    """What takes a module's place for our kernels; a matrix that two modules share stays one.

    On processors with AMX, PyTorch's own products use it and are faster for many rows: matrices are kept for
    them, too.
    """

    def __init__(self, library: ctypes.CDLL, model: nn.Module, *, in_8_bits: bool) -> None:
        self._library, self._quantized = library, _Quantizer() if in_8_bits else None
        self._multiplied = {id(module.weight) for module in model.modules() if type(module) is nn.Linear}
        self._made: dict[int, Panels] = {}

    def __call__(self, module: nn.Module) -> nn.Module:
        if type(module) is nn.Linear:
            return NativeLinear(self._panels(module.weight), module.bias, self._for_many(module))
        if isinstance(module, nn.Embedding) and id(module.weight) in self._multiplied:
            return NativeEmbedding(self._panels(module.weight))
        if isinstance(module, nn.Embedding) and self._quantized:
            return Int8Embedding(self._quantized(module.weight))
        return module

    def _panels(self, weight: Tensor) -> Panels:
        if (panels := self._made.get(id(weight))) is None:
            rows = self._quantized(weight) if self._quantized else None
            matrix, scales = (weight, None) if rows is None else (rows.whole_NW, rows.scales_N)
            panels = self._made[id(weight)] = Panels.of(self._library, matrix, scales)
        return panels

    def _for_many(self, linear: nn.Linear) -> nn.Module | None:
        if not has_amx():
            return None
        if self._quantized:
            return Int8Linear(self._quantized(linear.weight), linear.bias)
        dtype = linear.weight.dtype
        return PackedLinear(linear) if dtype == torch.bfloat16 and onednn_packs(dtype) else None


def _pays(weight: Tensor) -> bool:
    return weight.dtype in _LEAST_NUMBERS and weight.numel() >= _LEAST_NUMBERS[weight.dtype]


def _most() -> int:
    """The largest weight in 8 bits. x86 processors without VNNI add pairs of products in 16 bits, which hold
    weights of 7 bits only."""
    if (library := kernels()) is not None:
        return library.malmoi_most()
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return 127 if not x86 or {"avx512_vnni", "avx_vnni"} & cpu_flags() else 63
