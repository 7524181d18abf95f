"""Tensors in files: safetensors only, written whole or not at all."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from malmoi.util import files
from malmoi.util.errors import UserError


def save_weights(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write one safetensors file, whole or absent. Raises OSError where the disk does not take it."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        save_file(
            {name: t.detach().cpu().contiguous() for name, t in tensors.items()}, temporary, {"format": "pt"}
        )
        files.sync_file(temporary)
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, SafetensorError):
            raise OSError(f"{path} cannot be written ({error})") from None
        raise


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read one safetensors file. Raises UserError where it is missing or damaged."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; is {path.parent} a finished model folder?") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}); train or copy it again") from None
