"""Files of tensors, as safetensors: written whole or not at all, read within bounds, without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from malmoi.core.errors import UserError
from malmoi.util import files


def write_tensors(path: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    """`write_bytes` for a safetensors file."""
    rows_first = {name: np.ascontiguousarray(array) for name, array in tensors.items()}  # save takes no other
    files.write_bytes(path, save(rows_first, {"format": "pt"}))


def open_tensors(path: Path, library: str) -> Any:
    """A safetensors file, to read tensors of numpy ("np") or PyTorch ("pt") from.

    Raises UserError where it is missing or damaged.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would never end
            raise UserError(f"{path} is not a file; copy the folder again")
        return safe_open(path, library)
    except FileNotFoundError:  # which is also what the library says of a file that it may not open
        files.check_readable(path)
        raise absent(path) from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}); train or copy it again") from None


def absent(path: Path) -> UserError:
    """The error about weights that are not there."""
    return UserError(f"{path} does not exist; is {path.parent} a finished model folder?")


def read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """One safetensors file whole. Raises UserError as `open_tensors`, and for NaN or infinity."""
    with open_tensors(path, "np") as stored:
        found = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  (it is no dict)
    for name, array in found.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise UserError(f"{path}: {name} holds NaN or infinity, so nothing is predicted; fit it again")
    return found
