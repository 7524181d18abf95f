"""A trained model's folder: `config.json`, `model.safetensors`, tokenizer, generation config, model card.

A decoder that maps to an outside architecture is saved as a Hugging Face folder; every other model uses
the same shape with a `model_type` that begins with `malmoi_`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import ValidationError
from torch import Tensor

from malmoi.core.errors import DAMAGE, UserError, nearest
from malmoi.core.nouns import Json
from malmoi.hub.adapter import base_of, is_adapter, load_adapter
from malmoi.hub.architectures import ARCHITECTURES, ENCODERS, Architecture, architecture_of, obstacle
from malmoi.hub.gguf_file import is_first_part, is_gguf
from malmoi.hub.outside import check_values, first_fault
from malmoi.hub.shipped import SHIPPED, model_path
from malmoi.hub.weights import (
    WEIGHTS_INDEX,
    Checkpoint,
    Outside,
    Pairs,
    build_unfilled,
    check_fit,
    fill,
    open_checkpoint,
    save_weights,
)
from malmoi.models.build import build_model
from malmoi.models.config import RecurrentConfig, TransformerConfig, model_config_adapter
from malmoi.models.language import LanguageModel
from malmoi.models.lora import lora_layers, merge_lora
from malmoi.models.native.library import kernels
from malmoi.models.ngram import KneserNey
from malmoi.models.packed import STORED, Sources, pack
from malmoi.text.tokenizer import Tokenizer
from malmoi.util import files
from malmoi.util.files import CARD, CONFIG, OWN_PREFIX, WEIGHTS

NGRAM = f"{OWN_PREFIX}ngram"


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
        files.write_text(folder / CARD, card)
    save_weights(folder / WEIGHTS, weights)
    return obstacle(model.config)


def load_model(
    folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = torch.float32
) -> ModelFolder:
    """Read a model folder, ours or another library's, or an adapter's: its base with the adapter merged in.

    dtype: of the weights in memory; None: as they are stored. Weights are read one by one, so that memory
    holds them once. Raises UserError with the fix where a part is missing or does not fit.
    """
    return _load(folder, device, dtype)


def _load(
    folder: Path, device: torch.device | str, dtype: torch.dtype | None, *, as_stored: bool = False
) -> ModelFolder:
    files.check_readable(folder)
    if is_gguf(folder):
        return _load_gguf(folder, device, dtype, as_stored=as_stored)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the `out` folder of a finished run, or a .gguf file")
    if _is_adapted(folder):
        return _load_adapted(folder, device, dtype)
    found = read_config(folder)
    model = _import(found, open_checkpoint(folder), folder, device, dtype, as_stored=as_stored)
    tokenizer = Tokenizer.find(folder)
    if tokenizer is not None and tokenizer.vocab_size > model.vocab_size:
        raise UserError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens, the model {model.vocab_size}; "
            "they do not belong together"
        )
    return ModelFolder(model, tokenizer)


def load_stored(folder: Path, device: torch.device | str = "cpu") -> ModelFolder:
    """A model packed to answer: its weights as they are stored where our kernels have that, else in fp32.

    They have fp32, bf16, and what a GGUF file holds in few bits; not fp16, nor what an adapter makes of its
    base. Raises UserError as `load_model` does.
    """
    if torch.device(device).type == "cpu" and kernels() is not None and not _is_adapted(folder):
        return _load(folder, device, None, as_stored=True)
    found = load_model(folder, device=device)
    if isinstance(found.model, LanguageModel):
        pack(found.model)
    return found


def stored_groups(path: Path) -> Sources:
    """The matrices that a GGUF file has in few bits, by the names of our weights. Raises UserError for a
    broken one."""
    from malmoi.hub.gguf_import import open_gguf

    try:
        found, stored = open_gguf(path)
        return stored.take_groups(_read_as(str(found.get("model_type")), found)[1])
    except DAMAGE as error:
        raise UserError(_why(path, error)) from None


def weights_hash(folder: Path) -> str:
    """What identifies the weights of a model's folder or GGUF file. Raises UserError where it has none."""
    files.check_readable(folder)
    if is_gguf(folder):
        return files.sha256(folder)
    for name in (WEIGHTS, "adapter_model.safetensors"):
        if (folder / name).is_file():
            return files.sha256(folder / name)
    if (folder / WEIGHTS_INDEX).is_file():
        return hashlib.sha256("".join(map(files.sha256, open_checkpoint(folder).paths)).encode()).hexdigest()
    raise UserError(f"{folder} is not a finished model folder; give the `out` folder of a finished run")


def model_with(weights: str, places: Sequence[Path]) -> Path:
    """The first of the places, or of what comes with malmoi, whose model has these weights.

    Raises UserError where none has.
    """
    for place in (*places, *map(model_path, SHIPPED)):
        if place.exists() and weights_hash(place) == weights:
            return place
    there = [place for place in places if place.exists()]
    if not there:
        raise UserError(f"its language model {places[0]} is gone; put it back, or fit again")
    raise UserError(f"its language model {there[0]} has other weights now; fit again, or put them back")


def stored_bytes(path: Path) -> int:
    """What a model's folder or file takes on the disk."""
    found = path.iterdir() if path.is_dir() else [path]
    return sum(one.stat().st_size for one in found if one.is_file())


def is_model(path: Path) -> bool:
    """Whether a path is the folder of a model or an adapter, or a GGUF file (of a split model the first)."""
    return (path / CONFIG).exists() or is_adapter(path) or (is_gguf(path) and is_first_part(path))


def is_ngram(folder: Path) -> bool:
    """Whether a model folder holds counts, and no neural network."""
    return (folder / CONFIG).is_file() and files.read_object(folder / CONFIG).get("model_type") == NGRAM


def read_config(folder: Path) -> Json:
    """What a model folder's config.json says. Raises UserError where it is missing, broken or a method's."""
    files.check_readable(folder)
    if not (folder / CONFIG).exists():
        raise UserError(
            f"{folder} has no {CONFIG}: not a finished model folder (an unfinished run goes on with `resume`)"
        )
    config = files.read_object(folder / CONFIG)
    if isinstance(config.get("task"), dict):
        raise UserError(f"{folder} is a fitted method for one task, not a language model")
    refuse_quantised(config, folder)
    return config


def refuse_quantised(config: Json, folder: Path) -> None:
    """Raise UserError where a config says that its weights are packed in fewer bits."""
    how = config.get("quantization_config")
    if how:
        kind = how.get("quant_method", "unknown") if isinstance(how, dict) else how
        raise UserError(
            f"{folder} is quantised ({kind}), which cannot be read here; "
            "take the model that it was made from, in float32, float16 or bfloat16"
        )


def _load_gguf(
    path: Path, device: torch.device | str, dtype: torch.dtype | None, *, as_stored: bool = False
) -> ModelFolder:
    from malmoi.hub.gguf_import import open_gguf, tokenizer_of

    try:
        found, stored = open_gguf(path)
        tokenizer = tokenizer_of(stored.file.facts, path)
    except DAMAGE as error:
        raise UserError(_why(path, error)) from None
    return ModelFolder(_import(found, stored, path, device, dtype, as_stored=as_stored), tokenizer)


def _is_adapted(folder: Path) -> bool:
    return is_adapter(folder) and not (folder / CONFIG).exists()


def _load_adapted(folder: Path, device: torch.device | str, dtype: torch.dtype | None) -> ModelFolder:
    base = load_model(base_of(folder), device=device, dtype=dtype)
    if not isinstance(base.model, LanguageModel):
        raise UserError(f"{folder} is an adapter for an n-gram model, which has no layers to adapt")
    load_adapter(folder, base.model)
    merge_lora(base.model)
    own = Tokenizer.find(folder)
    return ModelFolder(base.model, own or base.tokenizer)


def _export(model: LanguageModel | KneserNey) -> tuple[Json, dict[str, Tensor]]:
    if isinstance(model, KneserNey):
        tensors = {name: torch.from_numpy(found) for name, found in model.tensors().items()}
        return {"model_type": NGRAM} | model.config, tensors
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


def _import(
    found: Json,
    stored: Checkpoint,
    folder: Path,
    device: torch.device | str,
    dtype: torch.dtype | None,
    *,
    as_stored: bool = False,
) -> LanguageModel | KneserNey:
    """as_stored: pack the model to answer, its weights as they are but fp16, which becomes fp32."""
    model_type = str(found.get("model_type"))
    try:
        if model_type == NGRAM:
            return KneserNey.from_tensors(found, stored)
        if stored.quantised:
            raise UserError(f"{stored.quantised}, no weights of float32, float16 or bfloat16")
        config, pairs, outside = _read_as(model_type, found)
        _check_sizes(config, stored)
        check_fit(partial(build_model, config), stored, outside)
        dtype = dtype or stored.dtype
        apart = stored.take_groups(pairs) if as_stored else {}
        if as_stored and (apart or dtype == torch.float16):
            dtype = torch.float32
        model = build_unfilled(partial(build_model, config), device, dtype)
        fill(model, pairs(stored), stored, outside, apart)
        if as_stored:
            pack(model, STORED if apart else None, apart)
        return model.to(device).eval()
    except DAMAGE as error:
        raise UserError(_why(folder, error)) from None


def _read_as(model_type: str, found: Json) -> tuple[TransformerConfig | RecurrentConfig, Pairs, Outside]:
    """The config; what gives our names to stored tensors; and what our tensors are called in the file."""
    if model_type.startswith(OWN_PREFIX):
        return _own_config(found), lambda stored: stored.items(), dict
    architecture = _architecture(model_type, found)
    check_values(found)
    config = architecture.import_config(found)
    return (
        config,
        lambda stored: architecture.import_weights(stored, config),
        lambda ours: architecture.export_weights(dict(ours), config),
    )


def _check_sizes(config: TransformerConfig | RecurrentConfig, stored: Checkpoint) -> None:
    """Refuse sizes that no tensor has, before a model is made of them."""
    longest = max((max(shape, default=1) for shape in stored.shapes.values()), default=0)
    for name in ("vocab_size", "width", "heads", "size_of_head", "size_of_ff"):
        if getattr(config, name, 0) > longest:
            raise UserError(f"{CONFIG} asks for {name} = {getattr(config, name)}, more than any tensor has")
    if config.layers > len(stored):
        raise UserError(f"{CONFIG} has {config.layers} layers, {WEIGHTS} only {len(stored)} tensors")


def _architecture(model_type: str, found: Json) -> Architecture:
    if model_type in ARCHITECTURES:
        return ARCHITECTURES[model_type]
    if model_type in ENCODERS:
        raise UserError(
            "it is an encoder, which writes no text; use it with `method` pretrained `set` encoder=DIR"
        )
    if isinstance(found.get("text_config"), dict):
        inner = found["text_config"].get("model_type", "see text_config")
        raise UserError(
            f"model_type {model_type!r} reads pictures, too, and only text models work here; save its "
            f"language model alone ({inner}) with transformers"
        )
    own_code = "; code that comes with a model is never run" if "auto_map" in found else ""
    raise UserError(f"unknown model_type {model_type!r}; {_known(model_type)}{own_code}")


def _known(model_type: str) -> str:
    close = nearest(model_type, ARCHITECTURES)
    return close if close.startswith("known") else f"{close} (known: {', '.join(sorted(ARCHITECTURES))})"


def _own_config(found: Json) -> TransformerConfig | RecurrentConfig:
    known = {
        name: value
        for name, value in found.items()
        if not name.endswith("_token_id") and name != "model_type"
    }
    return model_config_adapter.validate_python(known)


def _why(folder: Path, error: Exception) -> str:
    """Why a folder cannot be opened, in a line that names it."""
    if isinstance(error, ValidationError):
        reason = first_fault(error)
    elif isinstance(error, KeyError):
        reason = f"{CONFIG} or {WEIGHTS} has no {error}"
    elif isinstance(error, UserError):
        reason = str(error)
    else:
        reason = f"{CONFIG} and {WEIGHTS} do not fit ({type(error).__name__}: {error}); copy the folder again"
    return reason if str(folder) in reason else f"{folder} cannot be opened: {reason}"
