"""Tensors in files: safetensors only, written whole or not at all, read one by one.

A checkpoint is one `model.safetensors`, or several with a `model.safetensors.index.json` that says which
tensor is where.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from malmoi.util import files
from malmoi.util.errors import UserError

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = f"{WEIGHTS}.index.json"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "consolidated.00.pth")
_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


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

    def __getitem__(self, name: str) -> Tensor:
        path = self._files_of[name]
        with _opened(path) as file:
            try:
                tensor = file.get_tensor(name)
            except (SafetensorError, OSError) as error:
                raise UserError(f"{path} cannot be read ({error}); copy it again") from None
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
        with _opened(path) as file:
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
    raise _absent(path)


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read one safetensors file whole. Raises UserError where it is missing or damaged."""
    return dict(Checkpoint(_names(path)))


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
    with _opened(path) as file:
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


def _opened(path: Path) -> Any:
    try:
        if path.exists() and not path.is_file():  # a pipe would never end
            raise UserError(f"{path} is not a file; copy the folder again")
        return safe_open(path, "pt")
    except FileNotFoundError:  # which is also what the library says of a file that it may not open
        files.check_readable(path)
        raise _absent(path) from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}); train or copy it again") from None


def _absent(path: Path) -> UserError:
    return UserError(f"{path} does not exist; is {path.parent} a finished model folder?")
