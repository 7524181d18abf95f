"""Matrices that do not learn, in a model where others do: as they are, in bf16, or in 8 or 4 bits.

What is in few bits is unpacked for every product, and once more for its gradient, so that memory holds one
matrix at a time in full (QLoRA, Dettmers et al. 2023).

Shape letters: N positions, I inputs, O outputs, W a row's numbers, G groups of S; V vocabulary, D width,
K rows that learn, M places that have one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from malmoi.models.formats import PackedRows
from malmoi.models.native.linear import GroupSource, fp16_unit

_CHUNK = 1 << 18  # numbers that are unpacked at once: they stay in a processor's cache


class FewBits(nn.Module):
    """Rows of whole numbers in groups, those of 4 bits two in a byte.

    numbers_OW: of 8 bits. Of 4, the first half of a row is in the low halves of its bytes, the second in the
    high ones; 8 more than they are, if there is no least value. Scales and least values are in fp16, and
    `unit` multiplies them.
    """

    numbers_OW: Tensor
    scales_OG: Tensor
    least_OG: Tensor | None

    def __init__(self, source: GroupSource) -> None:
        super().__init__()
        (rows, self.width), self.layout = source.shape, source.layout
        self.unit = fp16_unit(source.largest)
        groups = -(-self.width // self.layout.size)
        kind = torch.int8 if self.layout.bits == 8 else torch.uint8
        numbers = torch.empty(rows, groups * self.layout.size * self.layout.bits // 8, dtype=kind)
        halves = [torch.empty(rows, groups, dtype=torch.float16) for _ in range(1 + self.layout.has_least)]
        for name, tensor in zip(("numbers_OW", "scales_OG", "least_OG"), (numbers, *halves), strict=False):
            self.register_buffer(name, tensor, persistent=False)
        if not self.layout.has_least:
            self.least_OG = None
        for part in source.parts(1):
            self._put(part, source.read(part))

    @property
    def numel(self) -> int:
        """How many weights it stands for."""
        return len(self.numbers_OW) * self.width

    def values(self, which: slice | Tensor, dtype: torch.dtype) -> Tensor:
        """Some rows, as they count."""
        numbers_RW, scales_RG = self.numbers_OW[which], self.scales_OG[which].float() * self.unit
        least_RG = None if self.least_OG is None else self.least_OG[which].float() * self.unit
        out_RW = torch.empty(len(numbers_RW), self.width, dtype=dtype, device=numbers_RW.device)
        step = max(1, _CHUNK // self.width)
        exact_CW = torch.empty(step, scales_RG.shape[1] * self.layout.size, device=numbers_RW.device)
        for start in range(0, len(numbers_RW), step):
            part = slice(start, start + step)
            values_CW = self._numbers(numbers_RW[part], exact_CW)
            groups_CGS = values_CW.unflatten(1, (-1, self.layout.size)).mul_(scales_RG[part, :, None])
            if least_RG is not None:
                groups_CGS.add_(least_RG[part, :, None])
            out_RW[part] = values_CW[:, : self.width]
        return out_RW

    def _numbers(self, numbers_CW: Tensor, exact_CW: Tensor) -> Tensor:
        """As they count without their scales, in `exact_CW`."""
        exact_CW = exact_CW[: len(numbers_CW)]
        if self.layout.bits == 8:
            return exact_CW.copy_(numbers_CW)
        half = numbers_CW.shape[1]
        exact_CW[:, :half], exact_CW[:, half:] = numbers_CW & 15, numbers_CW >> 4
        return exact_CW if self.layout.has_least else exact_CW.sub_(8)

    def _put(self, part: slice, rows: PackedRows) -> None:
        assert rows.scales_NG is not None
        pad = self.scales_OG.shape[1] * self.layout.size - self.width
        numbers_CW = functional.pad(rows.numbers_NW, (0, pad))
        if self.layout.bits == 4:
            low, high = (numbers_CW + (0 if self.layout.has_least else 8)).view(torch.uint8).chunk(2, 1)
            numbers_CW = low | high << 4
        self.numbers_OW[part] = numbers_CW
        self.scales_OG[part] = rows.scales_NG / self.unit
        if self.least_OG is not None:
            assert rows.least_NG is not None
            self.least_OG[part] = rows.least_NG / self.unit


class TokenRows(nn.Module):
    """Rows of a frozen matrix that learn: they count instead of its own."""

    def __init__(self, rows_KD: Tensor, ids: Sequence[int]) -> None:
        super().__init__()
        self.ids = list(ids)
        self.rows = nn.ParameterList(nn.Parameter(row_D.float().clone()) for row_D in rows_KD)

    @property
    def rows_KD(self) -> Tensor:
        """All of them, with their gradients."""
        return torch.stack(list(self.rows))


class Frozen(nn.Module):
    """What a layer has whose matrix does not learn; `weight` is None where it is in few bits.

    few: of its rows, some after the others. learned: rows that do learn.
    """

    weight: Tensor | None  # a parameter, of every class that this is mixed into
    few: nn.ModuleList
    learned: TokenRows | None

    def take(self, weight: Tensor, learned: TokenRows | None) -> None:
        """Take over a parameter."""
        weight.requires_grad_(False)
        self.weight, self.few, self.learned = weight, nn.ModuleList(), learned

    def hold(self, few: Sequence[FewBits]) -> None:
        """Have these rows instead of the matrix."""
        self.weight, self.few = None, nn.ModuleList(few)

    def own_rows(self, which: slice | Tensor, dtype: torch.dtype) -> Tensor:
        """Some rows of the matrix. Those at a tensor of places need it to be whole, or one piece."""
        if self.weight is not None:
            return self.weight.detach()[which].to(dtype)
        if len(self.few) == 1:
            return self._pieces[0].values(which, dtype)
        assert isinstance(which, slice)
        found, begin = list[Tensor](), 0
        start, stop, _ = which.indices(sum(len(it.numbers_OW) for it in self._pieces))
        for piece in self._pieces:
            end = begin + len(piece.numbers_OW)
            if start < end and stop > begin:
                found.append(piece.values(slice(max(start - begin, 0), stop - begin), dtype))
            begin = end
        return torch.cat(found)

    def matrix(self, dtype: torch.dtype, which: slice = slice(None)) -> Tensor:
        """The matrix or some of its rows as they count now, without gradients."""
        rows = self.own_rows(which, dtype)
        if self.learned is None:
            return rows
        places = range(which.start or 0, (which.start or 0) + len(rows))
        within = [(at, id) for at, id in enumerate(self.learned.ids) if id in places]
        if not within:
            return rows
        rows = rows.clone() if self.weight is not None else rows
        for at, id in within:
            rows[id - places.start] = self.learned.rows[at].detach()
        return rows

    @property
    def _pieces(self) -> list[FewBits]:
        return [it for it in self.few if isinstance(it, FewBits)]


class FrozenLinear(Frozen, nn.Linear):  # pyright: ignore[reportIncompatibleVariableOverride]
    """x W^T + b, where neither W nor b learns."""

    def __init__(self, linear: nn.Linear, learned: TokenRows | None = None) -> None:
        """Takes over the linear layer's own parameters."""
        nn.Linear.__init__(self, linear.in_features, linear.out_features, bias=False, device="meta")
        self.take(linear.weight, learned)
        self.bias = linear.requires_grad_(False).bias

    def forward(self, input: Tensor) -> Tensor:
        y = FrozenProduct.apply(input, self)
        assert isinstance(y, Tensor)
        return y

    def plain(self) -> nn.Linear:
        """A layer without anything frozen that computes the same; it has this one's memory."""
        plain = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        plain.weight, plain.bias = _with_learned(self), self.bias
        return plain


class FrozenEmbedding(Frozen, nn.Embedding):  # pyright: ignore[reportIncompatibleVariableOverride]
    """Rows of a matrix that does not learn, but for some of them; in fp32."""

    def __init__(self, embedding: nn.Embedding, learned: TokenRows | None = None) -> None:
        """Takes over the embedding's own matrix."""
        nn.Embedding.__init__(self, embedding.num_embeddings, embedding.embedding_dim, device="meta")
        self.take(embedding.weight, learned)

    def forward(self, input: Tensor) -> Tensor:
        ids_N = input.flatten()
        x_ND = self.own_rows(ids_N, torch.float32)
        if self.learned is not None:
            is_NK = ids_N[:, None] == torch.tensor(self.learned.ids, device=ids_N.device)
            at_M, which_M = is_NK.nonzero(as_tuple=True)
            x_ND = x_ND.index_put((at_M,), self.learned.rows_KD[which_M])
        return x_ND.unflatten(0, input.shape)

    def plain(self) -> nn.Embedding:
        """See `FrozenLinear.plain`."""
        plain = nn.Embedding(self.num_embeddings, self.embedding_dim, device="meta")
        plain.weight = _with_learned(self)
        return plain


def computing_dtype(x: Tensor) -> torch.dtype:
    """What a product of x is computed in."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


class FrozenProduct(torch.autograd.Function):
    """x W^T + b whose gradient is only that of x, and asks for W once more."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FrozenLinear) -> Tensor:
        dtype = computing_dtype(x)
        ctx.layer, ctx.dtypes = layer, (dtype, x.dtype)
        bias = None if layer.bias is None else layer.bias.to(dtype)
        return functional.linear(x.to(dtype), layer.matrix(dtype), bias)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        dtype, given = ctx.dtypes
        return (grad_outputs[0].to(dtype) @ ctx.layer.matrix(dtype)).to(given), None


@torch.no_grad()
def _with_learned(layer: Frozen) -> Tensor:
    """The matrix, with the rows that have learned in it."""
    assert layer.weight is not None, "give the layer its matrix first"
    if layer.learned is not None:
        layer.weight[layer.learned.ids] = layer.learned.rows_KD.to(layer.weight)
    return layer.weight
