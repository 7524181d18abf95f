"""A trained model's folder: `config.json`, `model.safetensors`, tokenizer, generation config, model card.

A decoder that maps to an outside architecture is saved as a Hugging Face folder; every other model uses
the same shape with a `model_type` that begins with `malmoi_`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import ValidationError
from torch import Tensor

from malmoi.hub.adapter import base_of, is_adapter, load_adapter
from malmoi.hub.architectures import ARCHITECTURES, architecture_of, obstacle
from malmoi.hub.outside import Json
from malmoi.hub.weights import load_weights, save_weights
from malmoi.models.build import build_model
from malmoi.models.config import TransformerConfig, model_config_adapter
from malmoi.models.language import LanguageModel
from malmoi.models.lora import lora_layers, merge_lora
from malmoi.models.ngram import KneserNey
from malmoi.text.tokenizer import TOKENIZER_FILE, Tokenizer
from malmoi.util import files
from malmoi.util.errors import UserError, nearest

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
OWN_PREFIX = "malmoi_"


class ModelFolder(NamedTuple):
    """A loaded folder. The tokenizer is None where the folder has none."""

    model: LanguageModel | KneserNey
    tokenizer: Tokenizer | None


def save_model(
    folder: Path,
    model: LanguageModel | KneserNey,
    tokenizer: Tokenizer | None,
    card: str = "",
    *,
    ends: Sequence[int] = (),
) -> str:
    """Write the files of a model folder, each whole or absent; weights come last, so they vouch for the rest.

    folder: made if missing; other files in it stay. card: the text of README.md. ends: ids that end a reply,
    beside the end of a text.
    Returns '', or which choices keep a decoder from being a folder for other libraries, too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config, weights = _export(model)
    if tokenizer is not None:
        tokenizer.save(folder)
        ids = {
            "bos_token_id": tokenizer.specials.bos,
            "eos_token_id": tokenizer.specials.eos,
            "pad_token_id": tokenizer.specials.pad,
        }
        config |= ids
        stops = {"eos_token_id": [ids["eos_token_id"], *ends]} if ends else {}
        files.write_json(folder / "generation_config.json", ids | stops | {"do_sample": True})
    files.write_json(folder / CONFIG, config)
    if card:
        files.write_text(folder / "README.md", card)
    save_weights(folder / WEIGHTS, weights)
    return obstacle(model.config) if isinstance(model.config, TransformerConfig) else ""


def load_model(folder: Path, *, device: torch.device | str = "cpu") -> ModelFolder:
    """Read a model folder, or an adapter's: its base with the adapter merged into it.

    Raises UserError with the mend where a part is missing or does not fit.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the --out folder of a finished run")
    if is_adapter(folder) and not (folder / CONFIG).exists():
        return _load_adapted(folder, device)
    if not (folder / CONFIG).exists():
        raise UserError(
            f"{folder} has no {CONFIG}: not a finished model folder (an unfinished run goes on with --resume)"
        )
    config = files.read_json(folder / CONFIG)
    if not isinstance(config, dict):
        raise UserError(f"{folder / CONFIG} is not a JSON object; restore it or make the folder again")
    if isinstance(config.get("task"), dict):
        raise UserError(f"{folder} is a fitted method for one task, not a language model")
    model = _import(config, load_weights(folder / WEIGHTS), folder)
    tokenizer = Tokenizer.load(folder) if (folder / TOKENIZER_FILE).exists() else None
    if isinstance(model, LanguageModel):
        model = model.to(device).eval()
    return ModelFolder(model, tokenizer)


def _load_adapted(folder: Path, device: torch.device | str) -> ModelFolder:
    base = load_model(base_of(folder), device=device)
    if not isinstance(base.model, LanguageModel):
        raise UserError(f"{folder} is an adapter for an n-gram model, which has no layers to adapt")
    load_adapter(folder, base.model)
    merge_lora(base.model)
    own = Tokenizer.load(folder) if (folder / TOKENIZER_FILE).exists() else None
    return ModelFolder(base.model, own or base.tokenizer)


def _export(model: LanguageModel | KneserNey) -> tuple[Json, dict[str, Tensor]]:
    if isinstance(model, KneserNey):
        return {"model_type": f"{OWN_PREFIX}ngram"} | model.config, model.tensors()
    assert not lora_layers(model), "merge_lora, or save_adapter"
    weights = dict(model.state_dict())
    architecture = architecture_of(model.config) if isinstance(model.config, TransformerConfig) else None
    if architecture is not None:
        assert isinstance(model.config, TransformerConfig)
        return architecture.export_config(model.config), architecture.export_weights(weights, model.config)
    if model.config.tied:
        del weights["head.weight"]
    return {"model_type": f"{OWN_PREFIX}{model.config.family}"} | model.config.model_dump(
        exclude_none=True
    ), weights


def _import(found: Json, tensors: dict[str, Tensor], folder: Path) -> LanguageModel | KneserNey:
    model_type = str(found.get("model_type"))
    try:
        if model_type == f"{OWN_PREFIX}ngram":
            return KneserNey.from_tensors(found, tensors)
        if model_type.startswith(OWN_PREFIX):
            known = {
                name: value
                for name, value in found.items()
                if not name.endswith("_token_id") and name != "model_type"
            }
            config = model_config_adapter.validate_python(known)
            if config.tied:
                tensors["head.weight"] = tensors["embed.weight"]
        elif model_type in ARCHITECTURES:
            architecture = ARCHITECTURES[model_type]
            config = architecture.import_config(found)
            tensors = architecture.import_weights(tensors, config)
        else:
            raise UserError(f"unknown model_type {model_type!r}; {nearest(model_type, ARCHITECTURES)}")
    except (UserError, KeyError, TypeError, IndexError, ValidationError) as error:
        raise UserError(f"{folder} cannot be opened: {_finding(error)}") from None
    model = build_model(config)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder / WEIGHTS} does not fit {CONFIG}: {reason}") from None
    return model


def _finding(error: Exception) -> str:
    """The first thing that is wrong, in a line."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return f"{where}: {first['msg'].removeprefix('Value error, ')}"
    return f"{CONFIG} or {WEIGHTS} has no {error}" if isinstance(error, KeyError) else str(error)
