"""Training state that is whole or absent: safetensors and JSON with a manifest of hashes, never a pickle."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.optim import Optimizer

from malmoi.hub.weights import save_weights
from malmoi.models.language import LanguageModel
from malmoi.models.lora import trained_parameters
from malmoi.util.files import damage, new_folder, read_object, write_json

TENSORS, META = "state.safetensors", "state.json"
KEEP = 2


def save_checkpoint(root: Path, step: int, model: LanguageModel, optimizers: list[Optimizer]) -> Path:
    """Write `root/step-N`, then drop all but the newest KEEP. An error leaves older ones as they were."""
    tensors = {f"model.{name}": tensor for name, tensor in trained_parameters(model).items()}
    for number, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{index}.{name}": tensor for name, tensor in state.items()}
    tensors["random"] = torch.get_rng_state()
    for abandoned in root.glob(".step-*"):  # by a process that was killed while it wrote
        shutil.rmtree(abandoned, ignore_errors=True)
    folder = root / f"step-{step:08d}"
    with new_folder(folder) as temporary:
        save_weights(temporary / TENSORS, tensors)
        write_json(temporary / META, {"step": step})
    for old in _folders(root)[KEEP:]:
        shutil.rmtree(old)
    return folder


def load_checkpoint(
    root: Path, model: LanguageModel, optimizers: list[Optimizer], warn: Callable[[str], None]
) -> int | None:
    """Restore the newest whole checkpoint; returns its step, or None. A damaged one is named and skipped."""
    for folder in _folders(root):
        reason = damage(folder)
        if reason is None:
            _restore(load_file(folder / TENSORS), model, optimizers)
            return int(read_object(folder / META, "step")["step"])
        warn(f"skipping the damaged checkpoint {folder}: {reason}")
    return None


def _restore(tensors: dict[str, Tensor], model: LanguageModel, optimizers: list[Optimizer]) -> None:
    weights = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
    with torch.no_grad():
        for name, parameter in trained_parameters(model).items():
            parameter.copy_(weights[name])
    for number, optimizer in enumerate(optimizers):
        states: dict[int, dict[str, Any]] = {}
        for name, tensor in tensors.items():
            if name.startswith(f"optimizer.{number}."):
                _, _, index, key = name.split(".", 3)
                states.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    torch.set_rng_state(tensors["random"])


def _folders(root: Path) -> list[Path]:
    return sorted(root.glob("step-*"), reverse=True) if root.is_dir() else []
