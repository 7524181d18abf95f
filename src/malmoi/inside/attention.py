"""The attention weights of a network, exactly: attention is linear in its values, so reading unit vectors in
their place gives the weights, by the model's own arithmetic with its masks, windows and grouped heads.

Shape letters: B rows, T queries, S keys, H heads, K key-value heads, C head width, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from malmoi.models.attention import Attention, CrossAttention, Memory, Sight, attend_all
from malmoi.models.cells import RecurrentLayers
from malmoi.models.seq2seq import RecurrentDecoder, Seq2Seq

Kind = Literal["self", "cross"]


@dataclass(frozen=True, slots=True)
class Attended:
    """One layer's weights. part: "encoder", "decoder" or "" where there is one stack only."""

    part: str
    kind: Kind
    weights_HTS: Tensor


@dataclass(frozen=True, slots=True)
class Carried:
    """One call of recurrent layers: what went in. part: "encoder, forwards", "decoder", ..."""

    part: str
    cells: RecurrentLayers
    x_TD: Tensor
    state: Any  # as torch takes it, of one row; None: zeros


@dataclass(slots=True)
class Recording:
    """What was seen while one row went through a network, in the order of its layers."""

    attended: list[Attended] = field(default_factory=list)
    carried: list[Carried] = field(default_factory=list)


def depth(model: nn.Module | None) -> tuple[int, int]:
    """How many layers and heads of attention there are to choose from; 0 where there are none."""
    for part in () if model is None else model.modules():
        config: Any = getattr(part, "config", None)
        if hasattr(config, "layers"):
            recurrent = getattr(config, "family", "transformer") != "transformer"
            return config.layers, 0 if recurrent else getattr(config, "heads", 0)
    return 0, 0


def record(model: nn.Module, read: Callable[[], object]) -> Recording:
    """What `read` sends through `model`: one row. The model is left as it was."""
    found, was_training = Recording(), model.training
    model.eval()
    try:
        with torch.no_grad(), _watched(model, found):
            read()
    finally:
        model.train(was_training)
    return found


@contextmanager
def _watched(model: nn.Module, found: Recording) -> Iterator[None]:
    hooks = [
        module.register_forward_hook(see)
        for name, module in model.named_modules()
        if (see := _seer(_part(name), module, found))
    ]
    for module in model.modules():
        if isinstance(module, Seq2Seq) and isinstance(module.decoder, RecurrentDecoder):
            hooks += _watched_search(module.encoder, module.decoder, found)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _part(name: str) -> str:
    """ "encoder.layers.backwards.0" -> "encoder, backwards"."""
    steps = name.split(".")
    return ", ".join(step for step in steps if step in ("encoder", "decoder", "forwards", "backwards"))


def _seer(part: str, module: nn.Module, found: Recording) -> Callable[..., None] | None:
    """What to note of a call of `module`; None: nothing."""

    def attend(own: Attention, args: Any, _: Tensor) -> None:
        found.attended.append(Attended(part, "self", self_weights(own, args[0], args[1])[0]))

    def cross(own: CrossAttention, args: Any, _: Tensor) -> None:
        found.attended.append(Attended(part, "cross", cross_weights(own, *args)[0]))

    def carry(own: RecurrentLayers, args: Any, _: Any) -> None:
        state = args[1] if len(args) > 1 else None
        found.carried.append(Carried(part, own, args[0][0], state))

    seers = ((Attention, attend), (CrossAttention, cross), (RecurrentLayers, carry))
    return next((see for kind, see in seers if isinstance(module, kind)), None)


def _watched_search(encoder: nn.Module, decoder: RecurrentDecoder, found: Recording) -> list[Any]:
    """A recurrent decoder compares its queries with what the encoder gave."""
    encoded: list[Tensor] = []

    def keep(_: nn.Module, __: Any, x_BSD: Tensor) -> None:
        encoded.append(x_BSD)

    def search(_: nn.Module, __: Any, q_BTD: Tensor) -> None:
        weights_B1TS = read_units(q_BTD[:, None], encoded[-1][:, None], 1.0)
        found.attended.append(Attended("decoder", "cross", weights_B1TS[0]))

    return [
        encoder.register_forward_hook(keep),
        decoder.query.register_forward_hook(search),
    ]


def self_weights(attention: Attention, x_BTD: Tensor, sight: Sight) -> Tensor:
    """weights_BHTS of a self-attention that reads rows without a cache."""
    q_BHTC, k_BKTC, _ = attention.project(x_BTD, sight)
    rows, kv_heads, length, _ = k_BKTC.shape
    if length == 1:
        return torch.ones(rows, attention.heads, 1, 1)
    units_BKSS = torch.eye(length, dtype=q_BHTC.dtype, device=q_BHTC.device).expand(rows, kv_heads, -1, -1)
    return attention.attend(q_BHTC, k_BKTC, units_BKSS, sight).float()


def cross_weights(attention: CrossAttention, x_BTD: Tensor, memory: Memory, layer: int) -> Tensor:
    """weights_BHTS of an attention to a source."""
    q_BHTC = attention.query(x_BTD).unflatten(-1, (-1, attention.head_width)).transpose(1, 2)
    kv_BJSC = memory.kv_BSJ[layer].unflatten(-1, (-1, attention.head_width)).transpose(1, 2)
    k_BHSC = kv_BJSC.to(q_BHTC.dtype).chunk(2, dim=1)[0]
    return read_units(q_BHTC, k_BHSC, attention.head_width**-0.5, memory.mask_BS)


def read_units(q_BHTC: Tensor, k_BHSC: Tensor, scale: float, mask_BS: Tensor | None = None) -> Tensor:
    """weights_BHTS with which each query reads the keys of a source."""
    rows, heads, length, _ = k_BHSC.shape
    if mask_BS is None:
        mask_BS = torch.ones(rows, length, dtype=torch.bool, device=k_BHSC.device)
    units_BHSS = torch.eye(length, dtype=q_BHTC.dtype, device=q_BHTC.device).expand(rows, heads, -1, -1)
    return attend_all(q_BHTC, k_BHSC.to(q_BHTC.dtype), units_BHSS, mask_BS[:, None, None], scale).float()


def sharpest_head(weights_LHTS: list[Tensor]) -> tuple[int, int]:
    """(layer, head) that looks most sharply at tokens other than the first and its own."""
    best, found = -1.0, (0, 0)
    for layer, weights_HTS in enumerate(weights_LHTS):
        others_HTS = weights_HTS.clone()
        others_HTS[..., 0] = 0
        others_HTS.diagonal(dim1=-2, dim2=-1).zero_()
        for head, sharpness in enumerate(others_HTS.amax(-1).mean(-1).tolist()):
            if sharpness > best:
                best, found = sharpness, (layer, head)
    return found
