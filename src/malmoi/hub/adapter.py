"""LoRA adapters in the format of the PEFT library: `adapter_config.json`, `adapter_model.safetensors`.

Where an outside library has q, k and v apart, we have one fused matrix. Going out, our A is copied to each
and B is cut; coming in, A's that differ are stacked and B is block-diagonal: the function stays the same.
Shape letters: I inputs, O outputs, R rank.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from malmoi.core.errors import UserError
from malmoi.core.nouns import Json
from malmoi.hub.architectures import Architecture, architecture_of, obstacle
from malmoi.hub.outside import require
from malmoi.hub.weights import load_weights, save_weights
from malmoi.models.config import MOST_SIZE, TransformerConfig
from malmoi.models.language import LanguageModel
from malmoi.models.lora import (
    LoRALinear,
    freeze_tokens,
    inner_layers,
    lora_layers,
    put_layer,
    token_layers,
    token_rows,
)
from malmoi.text.tokenizer import Tokenizer
from malmoi.util import files

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX, _ROWS = "base_model.model.", ".token_adapter.trainable_tokens_delta"
_MOST_ALPHA = 1e6
# what changes an adapter's function without a tensor of its own
_UNKNOWN = (
    "rank_pattern", "alpha_pattern", "use_dora", "use_qalora", "use_bdlora", "layer_replication",
    "alora_invocation_tokens",
)  # fmt: skip


class Thin(NamedTuple):
    """A change of low rank, B A, for the rows `rows_O` of one of our matrices."""

    rows_O: Tensor
    a_RI: Tensor
    b_OR: Tensor


def is_adapter(folder: Path) -> bool:
    """Whether `folder` holds an adapter."""
    return (folder / ADAPTER_CONFIG).is_file()


def save_adapter(folder: Path, model: LanguageModel, base: Path, tokenizer: Tokenizer | None = None) -> str:
    """Write the LoRA layers of a model (not merged yet) that was made from the model folder `base`.

    Returns '', or why only malmoi can load it: which choices keep the base from being another library's.
    """
    layers = lora_layers(model)
    assert layers, "no LoRA layer; call this before merge_lora"
    rank, scale = (max(of) for of in zip(*((len(it.a_RI), it.scale) for it in layers.values()), strict=True))
    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        spare = rank - len(layer.a_RI)  # one rank for all of them: rows and columns of zeros do nothing
        a_RI = nn.functional.pad(layer.a_RI, (0, 0, 0, spare))
        b_OR = nn.functional.pad(layer.b_OR, (0, spare)) * (layer.scale / scale)
        for outside, rows_O in _outside_rows(model, name, layer.out_features).items():
            tensors[f"{_PREFIX}{outside}.lora_A.weight"] = a_RI.clone()
            tensors[f"{_PREFIX}{outside}.lora_B.weight"] = b_OR[rows_O]
    targets = {".".join(name.removeprefix(_PREFIX).split(".")[-4:-2]) for name in tensors}
    learned: dict[str, list[int]] = {}  # tokens that have vectors of their own, by layer
    for name, rows in token_rows(model).items():
        (outside,) = _outside_rows(model, name, model.vocab_size)
        tensors[f"{_PREFIX}{outside}{_ROWS}"] = torch.stack(list(rows.rows))
        learned[outside.rpartition(".")[2]] = rows.ids
    architecture = _architecture(model)
    folder.mkdir(parents=True, exist_ok=True)
    if tokenizer is not None:
        tokenizer.save(folder)
    files.write_json(folder / ADAPTER_CONFIG, {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(base.resolve()),
        "r": rank, "lora_alpha": scale * rank, "lora_dropout": _dropout(layers), "bias": "none",
        "target_modules": sorted(targets), "inference_mode": True,
        "fan_in_fan_out": architecture is not None and architecture.fan_in_fan_out,
        **({"trainable_token_indices": learned} if learned else {}),
    })  # fmt: skip
    save_weights(folder / ADAPTER_WEIGHTS, tensors)
    return obstacle(model.config)


def base_of(folder: Path) -> Path:
    """The model (or adapter) folder that an adapter is for. Raises UserError where it is not there, and where
    it is for itself, be it by way of others."""
    seen, base = {folder.resolve()}, _next(folder)
    first = base
    while is_adapter(base) and not (base / "config.json").is_file():
        if base.resolve() in seen:
            raise UserError(
                f"{folder} is an adapter for an adapter that is for itself ({base}); "
                f"put a model's folder into base_model_name_or_path of {ADAPTER_CONFIG}"
            )
        seen.add(base.resolve())
        base = _next(base)
    return first


def _next(folder: Path) -> Path:
    """What the folder's own config says."""
    name = _config(folder).get("base_model_name_or_path")
    try:
        base = folder / str(name)
        is_there = (base / "config.json").is_file() or is_adapter(base)
    except (OSError, ValueError):  # no name that a folder can have
        is_there = False
    if not is_there:
        raise UserError(
            f"{folder} is an adapter for the model {name}, which is not there; "
            f"put that model's folder into base_model_name_or_path of {ADAPTER_CONFIG}"
        )
    return folder / str(name)


def load_adapter(folder: Path, model: LanguageModel) -> None:
    """Give the model the adapter's LoRA layers, in place, and freeze everything else.

    Raises UserError where the adapter does not fit the model, or does what ours cannot.
    """
    config, tensors = _config(folder), load_weights(folder / ADAPTER_WEIGHTS)
    scale, dropout = _scale(config, folder)
    model.requires_grad_(False)
    for name, layer in inner_layers(model).items():
        found = [
            thin for outside, rows_O in _outside_rows(model, name, layer.out_features).items()
            if (thin := _taken(tensors, outside, rows_O, layer, folder)) is not None
        ]  # fmt: skip
        if found:
            put_layer(model, name, _joined(layer, found, scale, dropout))
    _take_rows(config, tensors, model, folder)
    if tensors:
        raise UserError(
            f"{folder / ADAPTER_WEIGHTS} has {min(tensors)}, which has no place in the base model"
        )


def _scale(config: Json, folder: Path) -> tuple[float, float]:
    """What B A is multiplied by, and the dropout. Raises UserError for anything but numbers within reason."""
    rank, alpha, dropout = config.get("r"), config.get("lora_alpha"), config.get("lora_dropout") or 0.0
    if (
        type(rank) is int and 0 < rank <= MOST_SIZE
        and isinstance(alpha, int | float) and abs(alpha) <= _MOST_ALPHA
        and isinstance(dropout, int | float) and 0 <= dropout < 1
    ):  # fmt: skip
        return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank), float(dropout)
    raise UserError(
        f"{folder / ADAPTER_CONFIG} has {rank=}, {alpha=}, {dropout=}, which cannot be used; "
        "save the adapter again"
    )


def _take_rows(config: Json, tensors: dict[str, Tensor], model: LanguageModel, folder: Path) -> None:
    """Give tokens the vectors that the adapter has for them, which are taken out of `tensors`."""
    found, learned = config.get("trainable_token_indices") or {}, dict[str, Tensor]()
    ids_of: dict[str, list[int]] = {}
    for name in token_layers(model):
        (outside,) = _outside_rows(model, name, model.vocab_size)
        rows_KD = tensors.pop(f"{_PREFIX}{outside}{_ROWS}", None)
        if rows_KD is None:
            continue
        named = found.get(outside.rpartition(".")[2]) if isinstance(found, dict) else found
        ids = (
            [id for id in named if type(id) is int and 0 <= id < model.vocab_size]
            if isinstance(named, list)
            else []
        )
        if ids != named or rows_KD.shape != (len(ids), model.config.width):
            raise UserError(f"{folder / ADAPTER_CONFIG} has no trainable_token_indices that fit {outside}")
        ids_of[name], learned[name] = ids, rows_KD
    if ids_of:
        freeze_tokens(model, ids_of)
    with torch.no_grad():
        for name, rows in token_rows(model).items():
            for row, given in zip(rows.rows, learned[name], strict=True):
                row.copy_(given)


def _config(folder: Path) -> Json:
    config = files.read_object(folder / ADAPTER_CONFIG)
    require(config, "peft_type", "LORA", file=ADAPTER_CONFIG)
    for name in _UNKNOWN:
        require(config, name, None, False, {}, [], file=ADAPTER_CONFIG)
    return config


def _architecture(model: LanguageModel) -> Architecture | None:
    return architecture_of(model.config) if isinstance(model.config, TransformerConfig) else None


def _outside_rows(model: LanguageModel, name: str, num_rows: int) -> dict[str, Tensor]:
    """The outside modules that one of our layers is, each with the rows of ours that it has."""
    rows_O1 = torch.arange(num_rows)[:, None]
    architecture = _architecture(model)
    if architecture is None:
        return {name: rows_O1[:, 0]}
    assert isinstance(model.config, TransformerConfig)
    pieces = architecture.export_weights({f"{name}.weight": rows_O1}, model.config)
    return {outside.removesuffix(".weight"): rows.flatten() for outside, rows in pieces.items()}


def _taken(
    tensors: dict[str, Tensor], outside: str, rows_O: Tensor, layer: nn.Linear, folder: Path
) -> Thin | None:
    """What the adapter changes in an outside module, taken out of `tensors`; None: nothing."""
    a_RI, b_OR = (tensors.pop(f"{_PREFIX}{outside}.lora_{it}.weight", None) for it in "AB")
    if a_RI is None and b_OR is None:
        return None
    fits = (
        a_RI is not None and b_OR is not None
        and a_RI.shape == (b_OR.shape[-1], layer.in_features) and b_OR.shape == (len(rows_O), len(a_RI))
    )  # fmt: skip
    if not fits:
        raise UserError(f"{folder / ADAPTER_WEIGHTS} does not fit the base model at {outside}")
    assert a_RI is not None
    assert b_OR is not None
    return Thin(rows_O, a_RI, b_OR)


def _joined(layer: nn.Linear, thins: list[Thin], scale: float, dropout: float) -> LoRALinear:
    """One LoRA layer for the changes of parts of a matrix."""
    first, shared = thins[0].a_RI, all(torch.equal(thin.a_RI, thins[0].a_RI) for thin in thins)
    a_RI = first if shared else torch.cat([thin.a_RI for thin in thins])
    joined = LoRALinear(layer, len(a_RI), scale, dropout)
    start = 0
    with torch.no_grad():
        joined.a_RI.copy_(a_RI)
        for thin in thins:
            joined.b_OR[thin.rows_O, start : start + len(thin.a_RI)] = thin.b_OR.to(joined.b_OR)
            start += 0 if shared else len(thin.a_RI)
    return joined


def _dropout(layers: dict[str, LoRALinear]) -> float:
    return max(it.dropout.p if isinstance(it.dropout, nn.Dropout) else 0.0 for it in layers.values())
