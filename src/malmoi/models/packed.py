"""A model made ready to answer on a processor: matrices in the layout of its kernels, or in 8 bits.

A matrix times few rows is bound by memory, and a plain matrix of PyTorch's is read there at a fraction of the
speed; one packed once for oneDNN's kernels is not. A packed model computes the same function (in 8 bits:
nearly), but can no longer be trained or saved.

Shape letters: N rows, W their width, V vocabulary, O outputs, I inputs.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from malmoi.models.blocks import constant
from malmoi.util.errors import UserError
from malmoi.util.hardware import cpu_flags

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
    on_cpu = next(model.parameters()).device.type == "cpu"
    if quantize not in (None, "int8"):
        raise UserError(f"quantize is {quantize!r}; it can be int8")
    if quantize and not on_cpu:
        raise UserError("int8 is for processors; on a GPU leave quantize out")
    if quantize:
        _replace(model.float(), _In8Bits())
    elif on_cpu and torch.backends.mkldnn.is_available():
        _replace(model, lambda it: PackedLinear(it) if isinstance(it, nn.Linear) and _pays(it.weight) else it)
    model.requires_grad_(False)


def _replace(model: nn.Module, made: Callable[[nn.Module], nn.Module]) -> None:
    """Put what `made` makes of each innermost module in its place."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if (new := made(child)) is not child:
                setattr(parent, name, new)


class _In8Bits:
    """What takes a module's place in 8 bits; a matrix that two modules share stays one."""

    def __init__(self) -> None:
        self._made: dict[int, Rows8] = {}

    def __call__(self, module: nn.Module) -> nn.Module:
        if not isinstance(module, nn.Linear | nn.Embedding):
            return module
        if (rows := self._made.get(id(module.weight))) is None:
            rows = self._made[id(module.weight)] = Rows8.of(module.weight)
        return Int8Linear(rows, module.bias) if isinstance(module, nn.Linear) else Int8Embedding(rows)


def _pays(weight: Tensor) -> bool:
    return weight.dtype in _LEAST_NUMBERS and weight.numel() >= _LEAST_NUMBERS[weight.dtype]


def _most() -> int:
    """The largest weight in 8 bits. x86 processors without VNNI add pairs of products in 16 bits, which hold
    weights of 7 bits only."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return 127 if not x86 or {"avx512_vnni", "avx_vnni"} & cpu_flags() else 63
