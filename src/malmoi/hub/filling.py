"""A model whose weights come from files, so that memory never holds them twice.

The model is built in outline first, without any memory, and compared with the names and sizes that the files
hold: a config that asks for another model is refused before anything large is allocated. Then it is built
without values, its memory is taken in the wanted kind of number, and each of its tensors is filled as soon as
it is read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from malmoi.hub.weights import Checkpoint
from malmoi.util.errors import UserError

Outside = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
Model = TypeVar("Model", bound=nn.Module)
_FILLS = {
    Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_, nn.init.normal_, nn.init.uniform_,
    nn.init.trunc_normal_, nn.init.constant_, nn.init.kaiming_uniform_, nn.init.kaiming_normal_,
}  # fmt: skip
# Tables that older checkpoints hold and models make anew.
_TABLES = re.compile(r"(rotary_emb\.inv_freq|\.attn\.(masked_)?bias|\.position_ids)$")
_MOST_NAMED = 4


class _Unfilled(TorchFunctionMode):
    """Within it, parameters that are made get no values. in_outline: nor any memory."""

    def __init__(self, *, in_outline: bool = False) -> None:
        super().__init__()
        self.in_outline = in_outline

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if func in _FILLS and isinstance(filled := args[0] if args else named.get("tensor"), nn.Parameter):
            return filled
        if self.in_outline and func is torch.empty and named.get("device") is None:
            named = named | {"device": "meta"}
        return func(*args, **named)


def check_fit(build: Callable[[], nn.Module], stored: Checkpoint, outside: Outside = dict) -> None:
    """Compare the model that `build` makes with what is stored, by names and sizes alone.

    outside: what some of our tensors are in the checkpoint. Raises UserError naming tensors of another shape,
    and those that are missing where the model has more numbers than are stored.
    """
    with _Unfilled(in_outline=True):
        targets = build().state_dict(keep_vars=True)
    _check_shapes(outside(_shapes_only(targets)), stored)
    once = {id(target): (name, target) for name, target in reversed(targets.items())}
    if sum(target.numel() for _, target in once.values()) > sum(map(math.prod, stored.shapes.values())):
        _refuse_missing(dict(reversed(once.values())), stored, outside)


def build_unfilled(build: Callable[[], Model], device: torch.device | str, dtype: torch.dtype) -> Model:
    """The model that `build` makes, its parameters on `device`, of kind `dtype` and without values.

    Raises UserError where memory does not suffice.
    """
    try:
        with _Unfilled():
            model = build()
        for parameter in model.parameters():
            parameter.data = torch.empty_like(parameter, device=device, dtype=dtype)
    except RuntimeError as error:  # torch's word for no memory
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"there is no memory for the sizes in config.json ({reason})") from None
    return model


def fill(
    model: nn.Module, pairs: Iterable[tuple[str, Tensor]], stored: Checkpoint, outside: Outside = dict
) -> None:
    """Give every tensor of `model` its values.

    pairs: (our name, values), read from `stored` one by one. outside: as in `check_fit`. Raises UserError
    naming tensors that are missing, left over, of another shape, or should be one and differ.
    """
    targets = model.state_dict(keep_vars=True)
    filled: dict[int, str] = {}  # by identity: two names may share one matrix
    with torch.no_grad():
        for name, values in pairs:
            target = targets.get(name)
            if target is None or target.shape != values.shape:
                raise UserError(_unfit(name, values, target))
            if id(target) not in filled:
                target.copy_(values)
            elif not torch.equal(target, values.to(target)):
                raise UserError(f"config.json says that {name} is {filled[id(target)]}, but they differ")
            filled.setdefault(id(target), name)
            del values
    missing = {name: target for name, target in targets.items() if id(target) not in filled}
    if missing:
        _refuse_missing(missing, stored, outside)
    left = sorted(name for name in stored.unread if not _TABLES.search(name))
    if left:
        raise UserError(
            f"the weights have {_listed(f'{name} ({stored.shape(name)})' for name in left)}, "
            "which the config.json has no place for"
        )


def _refuse_missing(missing: Mapping[str, Tensor], stored: Checkpoint, outside: Outside) -> NoReturn:
    wanted = outside(_shapes_only(missing))
    gone = {name: tensor for name, tensor in wanted.items() if name not in stored} or wanted
    raise UserError(f"the weights lack {_listed(f'{n} ({_size(t)})' for n, t in gone.items())}")


def _shapes_only(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.empty(tensor.shape, device="meta") for name, tensor in tensors.items()}


def _check_shapes(wanted: Mapping[str, Tensor], stored: Checkpoint) -> None:
    wrong = [
        f"{name} is {stored.shape(name)}, not {_size(tensor)}"
        for name, tensor in wanted.items() if name in stored and stored.shapes[name] != tuple(tensor.shape)
    ]  # fmt: skip
    if wrong:
        raise UserError(f"the weights do not fit config.json: {_listed(wrong)}")


def _unfit(name: str, values: Tensor, target: Tensor | None) -> str:
    if target is None:
        return f"the weights have {name} ({_size(values)}), which the config.json has no place for"
    return f"the weights do not fit config.json: {name} is {_size(values)}, not {_size(target)}"


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "one number"


def _listed(names: Iterable[str]) -> str:
    found = list(names)
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    return ", ".join(found[:_MOST_NAMED]) + more
