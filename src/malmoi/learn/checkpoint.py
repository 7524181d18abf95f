"""Training state that is whole or absent: safetensors and JSON with a manifest of hashes, never a pickle."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import Optimizer

from malmoi.hub.weights import save_weights
from malmoi.models.lora import trained_parameters
from malmoi.util.files import damage, new_folder, read_object, write_json

TENSORS, META = "state.safetensors", "state.json"
KEEP = 2


class Restored(NamedTuple):
    """What of a checkpoint is not the model's or the optimizers'. tensors: the best weights."""

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]


def save_checkpoint(
    root: Path, step: int, model: nn.Module, optimizers: list[Optimizer],
    best: Mapping[str, Tensor] | None = None, facts: Mapping[str, Any] | None = None,
) -> Path:  # fmt: skip
    """Write `root/step-N`, then drop all but the newest KEEP. An error leaves older ones as they were.

    best: the best weights so far; facts: what else to keep, as JSON.
    """
    tensors = {f"model.{name}": tensor for name, tensor in trained_parameters(model).items()}
    for number, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{index}.{name}": tensor for name, tensor in state.items()}
    tensors |= {f"best.{name}": tensor for name, tensor in (best or {}).items()}
    tensors["random"] = torch.get_rng_state()
    for abandoned in root.glob(".step-*"):  # by a process that was killed while it wrote
        shutil.rmtree(abandoned, ignore_errors=True)
    folder = root / f"step-{step:08d}"
    with new_folder(folder) as temporary:
        save_weights(temporary / TENSORS, tensors)
        write_json(temporary / META, {"step": step, **(facts or {})})
    for old in _folders(root)[KEEP:]:
        shutil.rmtree(old)
    return folder


def load_checkpoint(
    root: Path, model: nn.Module, optimizers: list[Optimizer], warn: Callable[[str], None]
) -> Restored | None:
    """Restore the newest whole checkpoint; None where there is none. A damaged one is named and skipped."""
    for folder in _folders(root):
        reason = damage(folder)
        if reason is None:
            tensors, facts = load_file(folder / TENSORS), read_object(folder / META, "step")
            _restore(tensors, model, optimizers)
            return Restored(int(facts["step"]), _under("best.", tensors), facts)
        warn(f"skipping the damaged checkpoint {folder}: {reason}")
    return None


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _restore(tensors: Mapping[str, Tensor], model: nn.Module, optimizers: list[Optimizer]) -> None:
    weights = _under("model.", tensors)
    with torch.no_grad():
        for name, parameter in trained_parameters(model).items():
            parameter.copy_(weights[name])
    for number, optimizer in enumerate(optimizers):
        states: dict[int, dict[str, Any]] = {}
        for name, tensor in _under(f"optimizer.{number}.", tensors).items():
            index, key = name.split(".", 1)
            states.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    torch.set_rng_state(tensors["random"])


def _folders(root: Path) -> list[Path]:
    return sorted(root.glob("step-*"), reverse=True) if root.is_dir() else []
