"""Blocks of GGUF's quantised kinds as numbers in groups, without going back to fp32.

Kinds whose blocks are no such groups (IQ, MXFP4, two and three bits) are unpacked and brought to 8 bits,
which adds little to what they have lost. Shape letters: N blocks, B their bytes, S numbers in a block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray
from torch import Tensor

from malmoi.core.errors import UserError
from malmoi.hub.gguf_file import Stored
from malmoi.models.formats import GroupLayout, PackedRows
from malmoi.models.grouped import INT8
from malmoi.models.native.linear import GroupSource

Decoded = tuple[Tensor, Tensor, Tensor | None]  # numbers_NS, scales_NG, least_NG


@dataclass(frozen=True, slots=True)
class BlockKind:
    """How the blocks of one kind stand for weights.

    halves: where a block has its numbers in fp16; no scale or least value is more than `times` one of them.
    decode: of blocks_NB.
    """

    layout: GroupLayout
    halves: slice
    times: int
    decode: Callable[[Tensor], Decoded]


def _q4_0(blocks_NB: Tensor) -> Decoded:
    return _nibbles(blocks_NB[:, 2:]) - 8, _halves(blocks_NB[:, :2]), None


def _q4_1(blocks_NB: Tensor) -> Decoded:
    return _nibbles(blocks_NB[:, 4:]), _halves(blocks_NB[:, :2]), _halves(blocks_NB[:, 2:4])


def _q5_0(blocks_NB: Tensor) -> Decoded:
    return _fives(blocks_NB[:, 2:]) - 16, _halves(blocks_NB[:, :2]), None


def _q5_1(blocks_NB: Tensor) -> Decoded:
    return _fives(blocks_NB[:, 4:]), _halves(blocks_NB[:, :2]), _halves(blocks_NB[:, 2:4])


def _q8_0(blocks_NB: Tensor) -> Decoded:
    return blocks_NB[:, 2:], _halves(blocks_NB[:, :2]), None


def _q4_k(blocks_NB: Tensor) -> Decoded:
    low = blocks_NB[:, 16:].view(-1, 4, 1, 32)  # 64 numbers in 32 bytes, four times
    numbers = torch.cat((low & 15, low >> 4), 2)
    return numbers.flatten(1), *_k_scales(blocks_NB)


def _q5_k(blocks_NB: Tensor) -> Decoded:
    low = blocks_NB[:, 48:].view(-1, 4, 1, 32)
    high = blocks_NB[:, None, 16:48] >> torch.arange(8, dtype=torch.uint8)[:, None] & 1
    numbers = torch.cat((low & 15, low >> 4), 2).view(-1, 8, 32) | high << 4
    return numbers.flatten(1), *_k_scales(blocks_NB)


def _q6_k(blocks_NB: Tensor) -> Decoded:
    low, high = blocks_NB[:, :128].view(-1, 2, 1, 64), blocks_NB[:, 128:192].view(-1, 2, 1, 32)
    fours = torch.cat((low & 15, low >> 4), 2).view(-1, 2, 4, 32)
    twos = high >> torch.tensor([0, 2, 4, 6], dtype=torch.uint8)[:, None] & 3
    scales = blocks_NB[:, 192:208].view(torch.int8) * _halves(blocks_NB[:, 208:])
    return (fours | twos << 4).flatten(1) - 32, scales, None


_FIRST, _FIRST_TWO = slice(0, 2), slice(0, 4)
KINDS = {
    Kind.Q4_0: BlockKind(GroupLayout(4), _FIRST, 1, _q4_0),
    Kind.Q4_1: BlockKind(GroupLayout(4, has_least=True), _FIRST_TWO, 1, _q4_1),
    Kind.Q5_0: BlockKind(GroupLayout(8), _FIRST, 1, _q5_0),
    Kind.Q5_1: BlockKind(GroupLayout(8, has_least=True), _FIRST_TWO, 1, _q5_1),
    Kind.Q8_0: BlockKind(GroupLayout(8), _FIRST, 1, _q8_0),
    Kind.Q4_K: BlockKind(GroupLayout(4, has_least=True), _FIRST_TWO, 63, _q4_k),
    Kind.Q5_K: BlockKind(GroupLayout(8, has_least=True), _FIRST_TWO, 63, _q5_k),
    Kind.Q6_K: BlockKind(GroupLayout(8, 16), slice(208, 210), 128, _q6_k),
}
FLOATS = (Kind.F64, Kind.F32, Kind.F16, Kind.BF16)


def in_groups(
    parts: Sequence[Stored], orders: Sequence[Tensor], unpack: Callable[[NDArray[np.uint8], Kind], Any]
) -> list[GroupSource]:
    """A matrix whose rows are those of stored ones, for the kernels: as few sources as formats allow.

    orders: which of its rows is each row of ours. unpack: rows' bytes to fp32, for kinds that are no groups.
    """
    found: list[GroupSource] = []
    for stored, order in zip(parts, orders, strict=True):
        source = _source(stored, order, unpack)
        if found and found[-1].layout == source.layout:
            source = _joined(found.pop(), source)
        found.append(source)
    return found


def _source(stored: Stored, order: Tensor, unpack: Callable[[NDArray[np.uint8], Kind], Any]) -> GroupSource:
    kind, count, width = KINDS.get(stored.kind), *stored.shape
    data_NB = stored.data.reshape(count, -1)
    in_order = bool((order == torch.arange(count)).all())

    def read(part: slice) -> NDArray[np.uint8]:
        return data_NB[part] if in_order else data_NB[order[part].numpy()]

    def decoded(part: slice) -> PackedRows:
        assert kind is not None
        blocks_NB = _blocks(stored, read(part))
        numbers, scales, least = kind.decode(blocks_NB)
        rows = part.stop - part.start
        return PackedRows(
            numbers.reshape(rows, width).view(torch.int8),
            scales.reshape(rows, -1),
            None if least is None else least.reshape(rows, -1),
        )

    def rounded(part: slice) -> PackedRows:
        return INT8.rows(torch.from_numpy(unpack(read(part), stored.kind)))

    source = GroupSource(
        (count, width),
        INT8.groups if kind is None else kind.layout,
        0.0,
        rounded if kind is None else decoded,
    )
    return replace(source, largest=_largest(stored, source, kind))


def _largest(stored: Stored, source: GroupSource, kind: BlockKind | None) -> float:
    """What no scale or least value is more than. Raises UserError where one is not finite."""
    most = 0.0
    for part in source.parts(1):
        if kind is None:
            numbers = source.read(part).scales_NG
            assert numbers is not None
        else:
            rows_NB = stored.data.reshape(source.shape[0], -1)[part]
            numbers = _halves(_blocks(stored, rows_NB)[:, kind.halves]) * kind.times
        if not bool(numbers.isfinite().all()):
            raise UserError(
                f"{stored.path}: {stored.name} holds NaN or infinity, so the model is broken; copy it again"
            )
        most = max(most, float(numbers.abs().max()))
    return most


def _blocks(stored: Stored, rows_NB: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(rows_NB.copy()).view(-1, gguf.GGML_QUANT_SIZES[stored.kind][1])


def _joined(first: GroupSource, second: GroupSource) -> GroupSource:
    """The rows of one, then those of the other."""
    count = first.shape[0]

    def read(part: slice) -> PackedRows:
        if part.stop <= count:
            return first.read(part)
        if part.start >= count:
            return second.read(slice(part.start - count, part.stop - count))
        one, other = first.read(slice(part.start, count)), second.read(slice(0, part.stop - count))
        return PackedRows(
            torch.cat((one.numbers_NW, other.numbers_NW)),
            _both(one.scales_NG, other.scales_NG),
            _both(one.least_NG, other.least_NG),
        )

    shape = (count + second.shape[0], first.shape[1])
    return GroupSource(shape, first.layout, max(first.largest, second.largest), read)


def _both(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return None if one is None or other is None else torch.cat((one, other))


def _halves(bytes_N2: Tensor) -> Tensor:
    return bytes_N2.contiguous().view(torch.float16).float()


def _nibbles(bytes_NB: Tensor) -> Tensor:
    """The low halves of all bytes, then the high ones."""
    return torch.cat((bytes_NB & 15, bytes_NB >> 4), 1)


def _fives(bytes_NB: Tensor) -> Tensor:
    """Four bytes of fifth bits, then sixteen of nibbles."""
    high = bytes_NB[:, :4, None] >> torch.arange(8, dtype=torch.uint8) & 1
    return _nibbles(bytes_NB[:, 4:]) | high.flatten(1) << 4


def _k_scales(blocks_NB: Tensor) -> tuple[Tensor, Tensor]:
    """The scales and least values of eight groups: two numbers in fp16, times 6 bits for each group."""
    scale, least = _halves(blocks_NB[:, :4]).split(1, 1)
    first, second, third = blocks_NB[:, 4:16].split(4, 1)
    sixes = torch.cat((first & 63, third & 15 | first >> 6 << 4), 1)
    offsets = torch.cat((second & 63, third >> 4 | second >> 6 << 4), 1)
    return scale * sixes, -least * offsets
