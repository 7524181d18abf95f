"""Tensors in files: safetensors only, written whole or not at all, read one by one.

A checkpoint is one `model.safetensors`, or several with a `model.safetensors.index.json` that says which
tensor is where.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from malmoi.core.errors import UserError
from malmoi.models.packed import Sources
from malmoi.util import files
from malmoi.util.files import WEIGHTS
from malmoi.util.tensor_files import absent, open_tensors

WEIGHTS_INDEX = f"{WEIGHTS}.index.json"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "consolidated.00.pth")
_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

Pairs = Callable[[Mapping[str, Tensor]], Iterable[tuple[str, Tensor]]]  # our names, from outside ones


class Checkpoint(Mapping[str, Tensor]):
    """Tensors by name; each is read when it is asked for, and its file is closed with the tensor.

    shapes and dtypes are known without reading a tensor. `unread` are the names not asked for so far.
    To read a tensor with NaN or infinity raises UserError.
    """

    def __init__(self, files_of: Mapping[str, Path]) -> None:
        """files_of: where each tensor is. Raises UserError where a file is missing, damaged or lacks one."""
        self._files_of = dict(files_of)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._dtypes: dict[str, str] = {}
        for path in dict.fromkeys(self._files_of.values()):
            self._read_header(path)
        self.unread = set(self._files_of)

    @property
    def paths(self) -> list[Path]:
        """Its files, sorted."""
        return sorted(set(self._files_of.values()))

    def __getitem__(self, name: str) -> Tensor:
        path = self._files_of[name]
        with open_tensors(path, "pt") as file:
            try:
                tensor = file.get_tensor(name)
            except (SafetensorError, OSError) as error:
                raise UserError(f"{path} cannot be read ({error}); copy it again") from None
        return self._seen(name, tensor, path)

    def _seen(self, name: str, tensor: Tensor, path: Path) -> Tensor:
        """A tensor that was read. Raises UserError where a number is not finite."""
        if not _is_finite(tensor):
            bad = int((~tensor.isfinite()).sum())
            raise UserError(
                f"{path}: {name} holds NaN or infinity ({bad:,} of {tensor.numel():,} numbers), so the model "
                "is broken; copy it again, or train it again with a lower train.lr"
            )
        self.unread.discard(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._files_of)

    def __len__(self) -> int:
        return len(self._files_of)

    def __contains__(self, name: object) -> bool:
        return name in self._files_of

    def shape(self, name: str) -> str:
        """A tensor's size as people write it: 320x64."""
        return "x".join(map(str, self.shapes[name])) or "one number"

    def take_groups(self, pairs: Pairs) -> Sources:
        """The matrices in few bits, by our names; the checkpoint no longer has their tensors.

        pairs: gives our names to the tensors that they are made of, one after the other.
        """
        del pairs
        return {}

    @property
    def quantised(self) -> str:
        """The first tensor of whole numbers or of too few bits to be a weight, with its kind; or ''."""
        odd = (f"{name} is {kind}" for name, kind in sorted(self._dtypes.items()) if kind not in _FLOATS)
        return next(odd, "")

    @property
    def dtype(self) -> torch.dtype:
        """The kind of number that most of the weights are."""
        sizes: dict[str, int] = {}
        for name, kind in self._dtypes.items():
            sizes[kind] = sizes.get(kind, 0) + torch.Size(self.shapes[name]).numel()
        return _FLOATS.get(max(sizes, key=lambda kind: sizes[kind], default="F32"), torch.float32)

    def _read_header(self, path: Path) -> None:
        with open_tensors(path, "pt") as file:
            stored = set(file.keys())
            expected = {name for name, where in self._files_of.items() if where == path}
            if stored != expected:
                odd = min(stored ^ expected)
                way = "holds" if odd in stored else "does not hold"
                raise UserError(f"{path} {way} {odd}, unlike {WEIGHTS_INDEX}; copy the folder again")
            for name in stored:
                found = file.get_slice(name)
                self.shapes[name], self._dtypes[name] = tuple(found.get_shape()), found.get_dtype()


def open_checkpoint(folder: Path) -> Checkpoint:
    """The tensors of a model folder. Raises UserError where its files are missing, damaged or pickles."""
    files.check_readable(folder)
    path, index = folder / WEIGHTS, folder / WEIGHTS_INDEX
    if path.exists():
        return Checkpoint(_names(path))
    if index.exists():
        return Checkpoint(_indexed(index))
    pickle = next((name for name in _PICKLES if (folder / name).exists()), "")
    if pickle:
        raise UserError(
            f"{folder} has {pickle}, which could run anything when opened, so only safetensors are read; "
            "convert it: in transformers, from_pretrained(FOLDER) and then save_pretrained(NEW_FOLDER)"
        )
    raise absent(path)


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read one safetensors file whole. Raises UserError where it is missing or damaged."""
    return dict(Checkpoint(_names(path)))


def arrays_of(model: nn.Module) -> dict[str, NDArray[Any]]:
    """A network's parameters, shared ones once."""
    return {name: it.detach().cpu().numpy() for name, it in model.named_parameters()}


def set_parameters(model: nn.Module, arrays: Mapping[str, NDArray[Any]]) -> None:
    """The inverse of `arrays_of`. Raises KeyError, and RuntimeError for another size."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.tensor(arrays[name]))


def save_weights(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write one safetensors file, whole or absent. Raises OSError where the disk does not take it."""
    with files.new_file(path) as temporary:
        try:
            save_file(
                {name: t.detach().cpu().contiguous() for name, t in tensors.items()},
                temporary,
                {"format": "pt"},
            )
        except SafetensorError as error:
            raise OSError(f"{path} cannot be written ({error})") from None


def _names(path: Path) -> dict[str, Path]:
    with open_tensors(path, "pt") as file:
        return dict.fromkeys(file.keys(), path)


def _indexed(index: Path) -> dict[str, Path]:
    places = files.read_object(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise UserError(f"{index} has no weight_map; copy the folder again")
    for name, place in places.items():
        if not isinstance(place, str) or Path(place).name != place or not place.endswith(".safetensors"):
            raise UserError(f"{index} looks for {name} in {place!r}, not a safetensors file of its folder")
    return {name: index.with_name(place) for name, place in places.items()}


def _is_finite(tensor: Tensor) -> bool:
    """Whether no number is NaN or infinite. Both survive a sum, which takes a tenth of the time of looking at
    each number; that is done only where the sum is not finite (16 bits may not hold it)."""
    if tensor.dtype not in _FLOATS.values():
        return True
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


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


def outline(build: Callable[[], nn.Module]) -> dict[str, Tensor]:
    """The tensors of the model that `build` makes, by name, without values and without memory for them."""
    with _Unfilled(in_outline=True):
        return build().state_dict(keep_vars=True)


def check_fit(build: Callable[[], nn.Module], stored: Checkpoint, outside: Outside = dict) -> None:
    """Compare the model that `build` makes with what is stored, by names and sizes alone.

    outside: what some of our tensors are in the checkpoint. Raises UserError naming tensors of another shape,
    and those that are missing where the model has more numbers than are stored.
    """
    targets = outline(build)
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
    model: nn.Module,
    pairs: Iterable[tuple[str, Tensor]],
    stored: Checkpoint,
    outside: Outside = dict,
    apart: Iterable[str] = (),
) -> None:
    """Give every tensor of `model` its values.

    pairs: (our name, values), read from `stored` one by one. outside: as in `check_fit`. apart: our names of
    what needs no values here. Raises UserError naming tensors that are missing, left over, of another shape,
    or should be one and differ.
    """
    targets = model.state_dict(keep_vars=True)
    filled = {id(targets[name]): name for name in apart}  # by identity: two names may share one matrix
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
