"""All of a decoder's blocks and its output matrix in one call, in place of some twenty operations a block.

Shape letters: B rows, T new positions, N real tokens of all rows, C head width, D width, V vocabulary.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from malmoi.models.blocks import OffsetRMSNorm
from malmoi.models.language import capped
from malmoi.models.native import library
from malmoi.models.native.linear import KINDS, TILED_TOKENS, NativeLinear
from malmoi.models.rope import Rotary
from malmoi.models.state import KVState, State
from malmoi.models.transformer import Block, SandwichBlock, Transformer

PIECE_TOKENS = 512  # in one call, which bounds the memory of what is between the matrices
_FEED_FORWARDS = {"swiglu": 0, "geglu": 1, "gelu": 2}


def can_fuse(model: nn.Module) -> bool:
    """Whether the kernels know all that a model with native matrices does: its blocks, and a rotation that is
    the same for all rows."""
    return (
        type(model) is Transformer
        and all(type(block) in (Block, SandwichBlock) for block in model.blocks)
        and not any(isinstance(module, nn.Linear) for module in model.modules())
        and all(rotary.steady is None for rotary in _rotaries(model))
    )


class _Way(NamedTuple):
    """How a call computes: see `Batch` in `kernels.cpp`."""

    tiles_blocks: bool = False
    tiles_head: bool = False
    one_by_one: bool = False


class FusedDecoder:
    """`Scorer.step` of a packed Transformer by one call of our kernels.

    Between the matrices everything is in fp32, whatever they are in; keys and values are cached as the plain
    blocks cache them, so both can continue the same state.

    Where the processor has tiles, texts of `TILED_TOKENS` new tokens or more are multiplied in them, which
    rounds otherwise. Shorter ones beside them are read by a call of their own, so that what stands beside a
    row still does not change it.
    """

    most_verified = 64

    def __init__(self, model: Transformer) -> None:
        self._kept: list[Tensor] = []  # what the structures refer to
        config = model.config
        layers = [self._layer(model, layer) for layer in range(config.layers)]
        self._library = _native(model.head).panels[0].library
        in_fp32 = all(
            it.matrix.kind == KINDS[torch.float32] for it in model.modules() if isinstance(it, NativeLinear)
        )
        self._has_tiles = bool(self._library.malmoi_has_tiles()) and not in_fp32
        self._decoder = library.Decoder(
            layers=(library.Layer * len(layers))(*layers),
            norm=self._norm(model.norm),
            head=_native(model.head).matrix,
            num_layers=config.layers,
            width=config.width,
            heads=config.heads,
            kv_heads=config.num_kv_heads,
            head_width=config.size_of_head,
            ff_width=config.size_of_ff,
            feed_forward=_FEED_FORWARDS[config.feed_forward],
            eps=config.norm_eps,
            scale=(config.query_scalar or config.size_of_head) ** -0.5,
            softcap=config.attention_softcap or 0,
        )

    def __call__(
        self, model: Transformer, ids_BT: Tensor, counts_B: Tensor, state: State, *, last_only: bool = False
    ) -> Tensor:
        """See `FusedStep`."""
        is_long_B = (counts_B >= TILED_TOKENS) & self._has_tiles
        some_long, some_short = bool(is_long_B.any()), bool(counts_B[~is_long_B].any())
        if not (some_long and some_short):
            return self._step(model, ids_BT, counts_B, state, last_only, some_long)
        long_BTV, short_BTV = (
            self._step(model, ids_BT, counts_B * part_B, state, last_only, in_tiles)
            for part_B, in_tiles in ((is_long_B, True), (~is_long_B, False))
        )
        return torch.where(is_long_B[:, None, None], long_BTV, short_BTV)

    def _step(
        self,
        model: Transformer,
        ids_BT: Tensor,
        counts_B: Tensor,
        state: State,
        last_only: bool,
        in_tiles: bool,
    ) -> Tensor:
        """The same, of texts whose products may all be in tiles, or none."""
        wanted = (counts_B.cumsum(0) - 1).clamp(min=0) if last_only else None
        way = _Way(in_tiles, in_tiles and not last_only)
        logits = self._logits(model, ids_BT, counts_B, state, way, wanted)
        if last_only or logits.shape[0] == ids_BT.numel():
            return logits.view(len(ids_BT), -1, model.vocab_size)
        real_BT = _real(ids_BT, counts_B)
        return logits.new_zeros(*ids_BT.shape, model.vocab_size).index_put_((real_BT,), logits)

    def verify(self, model: Transformer, ids_BT: Tensor, counts_B: Tensor, state: State) -> Tensor:
        """See `FusedStep.verify`."""
        assert int(counts_B.sum()) <= self.most_verified
        return self._logits(model, ids_BT, counts_B, state, _Way(one_by_one=True))

    def _logits(
        self,
        model: Transformer,
        ids_BT: Tensor,
        counts_B: Tensor,
        state: State,
        way: _Way,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Read; the logits at the real tokens that are wanted, at all if None."""
        assert isinstance(state, KVState)
        state.reserve(int((state.lengths_B + counts_B).max()))
        real_BT = _real(ids_BT, counts_B)
        here_1T = torch.arange(ids_BT.shape[1])[None]
        ids_N, positions_N = ids_BT[real_BT], (state.lengths_B[:, None] + here_1T)[real_BT]
        wanted = torch.arange(len(ids_N)) if wanted is None else wanted
        logits = torch.empty(len(wanted), model.vocab_size, dtype=torch.float32, device="cpu")
        for piece in _pieces(counts_B, state.lengths_B, wanted):
            ids, positions = ids_N[piece.tokens], positions_N[piece.tokens]
            self._read(model, piece, ids, positions, state, logits[piece.rows_wanted], way)
        state.lengths_B += counts_B
        return capped(logits, model.softcap)

    def _read(
        self,
        model: Transformer,
        piece: _Piece,
        ids_N: Tensor,
        positions_N: Tensor,
        state: KVState,
        logits: Tensor,
        way: _Way,
    ) -> None:
        x_ND = model.embedded(ids_N, positions_N).float().contiguous()
        length = int(positions_N.max()) + 1
        turns = [
            [table.float().flatten(1) for table in rotary.tables(positions_N, length)]
            for rotary in _rotaries(model)
        ]
        pointers = [[table.data_ptr() for table in tables] for tables in zip(*turns, strict=True)] or [[], []]
        keys, values = state.rooms_LRKSC
        assert keys.device.type == "cpu"
        assert keys.dtype in (torch.float32, torch.bfloat16)
        assert keys.stride() == values.stride()
        assert keys[0, 0, 0].is_contiguous()
        batch = library.KernelBatch(
            rows=len(piece.counts_B),
            num_tokens=len(ids_N),
            num_wanted=len(piece.wanted),
            threads=torch.get_num_threads(),
            counts=piece.counts_B.data_ptr(),
            lengths=piece.lengths_B.data_ptr(),
            wanted=piece.wanted.data_ptr(),
            x=x_ND.data_ptr(),
            cos=(ctypes.c_void_p * 2)(*pointers[0]),
            sin=(ctypes.c_void_p * 2)(*pointers[1]),
            keys=keys.data_ptr(),
            values=values.data_ptr(),
            layer_stride=keys.stride(0),
            row_stride=keys.stride(1),
            head_stride=keys.stride(2),
            is_bf16=keys.dtype == torch.bfloat16,
            tiles_blocks=way.tiles_blocks,
            tiles_head=way.tiles_head,
            one_by_one=way.one_by_one,
            logits=logits.data_ptr(),
        )
        self._library.malmoi_forward(self._decoder, batch)

    def _layer(self, model: Transformer, layer: int) -> library.Layer:
        block, kind = model.blocks[layer], model.kinds[layer]
        assert isinstance(block, Block)
        attention, feed_forward = block.attention, block.feed_forward
        up = feed_forward.up if model.config.feed_forward == "gelu" else feed_forward.gate_up
        post = block if isinstance(block, SandwichBlock) else None
        rotary = model.rotary_of(kind)
        return library.Layer(
            attention_norm=self._norm(block.attention_norm),
            attention_post_norm=self._norm(post and post.attention_post_norm),
            feed_forward_norm=self._norm(block.feed_forward_norm),
            feed_forward_post_norm=self._norm(post and post.feed_forward_post_norm),
            q_norm=self._norm(attention.q_norm),
            k_norm=self._norm(attention.k_norm),
            qkv=_native(attention.qkv).matrix,
            out=_native(attention.out).matrix,
            up=_native(up).matrix,
            down=_native(feed_forward.down).matrix,
            window=(model.config.window or 0) if kind.has_window else 0,
            turn=-1 if rotary is None else _rotaries(model).index(rotary),
        )

    def _norm(self, norm: nn.Module | None) -> library.Norm:
        """Its numbers in fp32; nothing for no norm."""
        if norm is None or isinstance(norm, nn.Identity):
            return library.Norm()
        assert isinstance(norm, nn.RMSNorm | nn.LayerNorm)
        weight = norm.weight.detach().float()
        numbers = [1 + weight if isinstance(norm, OffsetRMSNorm) else weight]
        if isinstance(norm, nn.LayerNorm) and norm.bias is not None:
            numbers.append(norm.bias.detach().float())
        self._kept += numbers
        addresses = [*(tensor.data_ptr() for tensor in numbers), None]
        return library.Norm(*addresses[:2], isinstance(norm, nn.LayerNorm))


@dataclass(frozen=True, slots=True)
class _Piece:
    """What one call reads: which tokens, each row's share of them and what it has read before."""

    tokens: slice
    counts_B: Tensor
    lengths_B: Tensor
    wanted: Tensor  # of the piece's tokens
    rows_wanted: slice  # and their places in the result


def _pieces(counts_B: Tensor, lengths_B: Tensor, wanted: Tensor) -> Iterator[_Piece]:
    """At most PIECE_TOKENS tokens at a time, in order.

    One token's attention is summed in another order than that of several, so none is cut off from its row: a
    row's result does not depend on where it stands.
    """
    ends_B = counts_B.cumsum(0)
    starts_B = ends_B - counts_B
    total, last = int(ends_B[-1]), 0
    while (first := last) < total:
        last = min(first + PIECE_TOKENS, total)
        while bool(
            ((starts_B < last) & (last < ends_B) & ((last == starts_B + 1) | (last == ends_B - 1))).any()
        ):
            last -= 1
        from_B, to_B = starts_B.clamp(first, last), ends_B.clamp(first, last)
        begin, end = torch.searchsorted(wanted, torch.tensor([first, last])).tolist()
        yield _Piece(
            slice(first, last), to_B - from_B, lengths_B + from_B - starts_B, wanted[begin:end] - first,
            slice(begin, end),
        )  # fmt: skip


def _real(ids_BT: Tensor, counts_B: Tensor) -> Tensor:
    """Which of the ids are no padding."""
    return torch.arange(ids_BT.shape[1])[None] < counts_B[:, None]


def _rotaries(model: Transformer) -> list[Rotary]:
    return [rotary for rotary in (model.rotary, model.window_rotary) if rotary is not None]


def _native(module: object) -> NativeLinear:
    assert isinstance(module, NativeLinear)
    return module
