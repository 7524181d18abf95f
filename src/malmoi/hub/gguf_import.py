"""A GGUF file opened as a model: its facts become a config.json, its tensors those of a Hugging Face folder.

So a file goes the way of every other model (`malmoi.hub.folder`), and an architecture that can be read there
needs only a line in `malmoi.hub.gguf:FAMILIES` to be read from GGUF, too. What llama.cpp knows by itself, and
no file says, is here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from malmoi.core.errors import UserError, nearest
from malmoi.core.nouns import Json
from malmoi.hub.architectures import ARCHITECTURES
from malmoi.hub.gguf import FAMILIES, family_of, rope_factors, unturned
from malmoi.hub.gguf_blocks import FLOATS, in_groups
from malmoi.hub.gguf_file import GGUFFile, Stored, is_first_part, is_gguf
from malmoi.hub.gguf_vocab import stated_ends, tokenizer_of
from malmoi.hub.outside import check_values
from malmoi.hub.weights import Checkpoint, Pairs, Sources, outline
from malmoi.models.build import build_model
from malmoi.models.config import TransformerConfig

__all__ = [
    "GGUFCheckpoint", "GGUFFile", "is_first_part", "is_gguf", "open_gguf", "read_config", "stated_ends",
    "tokenizer_of", "values_of",
]  # fmt: skip
_TYPES = {  # llama.cpp's name of an architecture -> the Hugging Face `model_type`
    gguf.MODEL_ARCH_NAMES[family.arch]: name for name, family in FAMILIES.items() if name != "mistral"
}
_CHUNK = 1 << 20  # numbers that are unpacked at once
_READ_AS_THEY_ARE = {"positions.weight"}  # not through a module
_LONG_ROPE = ("rope_factors_short.weight", "rope_factors_long.weight")
_ROPE = {"rope_freqs.weight", *_LONG_ROPE}  # tensors that are no weights
_LLAMA3 = [(8.0, 8192), (32.0, 8192), (16.0, 8192)]  # factor and original context of Llama 3.1 to 3.3


def open_gguf(path: Path) -> tuple[Json, GGUFCheckpoint]:
    """A file's config.json and its tensors. Raises UserError for what cannot be read."""
    file = GGUFFile(path)
    config = read_config(file)
    return config, GGUFCheckpoint(file, config)


def read_config(file: GGUFFile) -> Json:
    """What `config.json` would say of the model. Raises UserError for an architecture that is not known."""
    model_type = _TYPES.get(file.architecture)
    if model_type is None:
        raise UserError(
            f"{file.path} is a model of the architecture {file.architecture!r}, which is not known here; "
            f"{nearest(file.architecture, _TYPES)}"
        )
    if (count := file.fact("expert_count", 0)) > 0:
        raise UserError(f"{file.path} is a mixture of {count} experts, which is not known here")
    try:
        config = {"model_type": model_type} | (_gpt2(file) if model_type == "gpt2" else _common(file))
    except KeyError as error:
        raise UserError(f"{file.path} does not say its {error.args[0]}; get the file again") from None
    if model_type.startswith("gemma"):
        config |= _gemma(file, config)
    check_values(config)
    return config


def _common(file: GGUFFile) -> Json:
    width, heads = _number(file, "embedding_length"), _number(file, "attention.head_count")
    size = file.fact("attention.key_length", width // heads)
    for name in ("attention.value_length", "rope.dimension_count"):
        if file.fact(name, size) != size:
            raise UserError(f"{file.path}: {name} is {file.fact(name)}, not the {size} of a head's keys")
    return {
        "vocab_size": _vocab_size(file),
        "max_position_embeddings": _number(file, "context_length"),
        "hidden_size": width,
        "intermediate_size": _number(file, "feed_forward_length"),
        "num_hidden_layers": _number(file, "block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": _number(file, "attention.head_count_kv", heads),
        "head_dim": size,
        "rms_norm_eps": file.fact("attention.layer_norm_rms_epsilon", 1e-6),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "attention_bias": "blk.0.attn_q.bias" in file.tensors and file.architecture != "qwen2",
        "mlp_bias": "blk.0.ffn_down.bias" in file.tensors,
        "rope_theta": file.fact("rope.freq_base", 10_000.0),
        **_windows(file),
    } | _rope_scaling(file, size)


def _gpt2(file: GGUFFile) -> Json:
    return {
        "vocab_size": _vocab_size(file),
        "n_positions": _number(file, "context_length"),
        "n_embd": _number(file, "embedding_length"),
        "n_inner": _number(file, "feed_forward_length"),
        "n_layer": _number(file, "block_count"),
        "n_head": _number(file, "attention.head_count"),
        "layer_norm_epsilon": file.fact("attention.layer_norm_epsilon", 1e-5),
        "tie_word_embeddings": "output.weight" not in file.tensors,
    }


def _gemma(file: GGUFFile, config: Json) -> Json:
    """What llama.cpp knows of each Gemma where the file is silent."""
    found: Json = {"hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh"}
    layers, version = config["num_hidden_layers"], config["model_type"]
    if version == "gemma":
        return found
    largest = layers == {"gemma2": 46}.get(version, 62)  # the 27B models scale by another number
    heads = config["num_attention_heads"]
    found["query_pre_attn_scalar"] = config["hidden_size"] // heads if largest else config["head_dim"]
    if version == "gemma2":
        found["attn_logit_softcapping"] = file.fact("attn_logit_softcapping", 50.0)
        found["final_logit_softcapping"] = file.fact("final_logit_softcapping", 30.0)
        found["sliding_window"] = file.fact("attention.sliding_window", 4096)
    else:
        found["rope_local_base_freq"] = file.fact("rope.freq_base_swa", 10_000.0)
        found["final_logit_softcapping"] = file.fact("final_logit_softcapping")
    return found


def _windows(file: GGUFFile) -> Json:
    """The sliding window, and which layers have it where the file lists them."""
    window = file.fact("attention.sliding_window")
    if not window:
        return {}
    pattern = file.fact("attention.sliding_window_pattern")
    found: Json = {"sliding_window": window, "use_sliding_window": True}
    if isinstance(pattern, np.ndarray | list):
        found["layer_types"] = ["sliding_attention" if one else "full_attention" for one in pattern]
    return found


def _rope_scaling(file: GGUFFile, size: int) -> Json:
    kind = file.fact("rope.scaling.type", "none")
    factor = file.fact("rope.scaling.factor", file.fact("rope.scale_linear", 1.0))
    if "rope_freqs.weight" in file.tensors:
        return {"rope_scaling": _llama3(file, size)}
    if kind == "yarn":
        return {"rope_scaling": {
            "rope_type": "yarn", "factor": factor,
            "original_max_position_embeddings": file.fact("rope.scaling.original_context_length"),
            "beta_fast": file.fact("rope.scaling.yarn_beta_fast", 32.0),
            "beta_slow": file.fact("rope.scaling.yarn_beta_slow", 1.0),
        }}  # fmt: skip
    if set(_LONG_ROPE) <= set(file.tensors):
        return {"rope_scaling": _long_rope(file)}
    if kind == "linear" or (kind == "none" and factor != 1.0):
        return {} if factor == 1.0 else {"rope_scaling": {"rope_type": "linear", "factor": factor}}
    if kind != "none":
        known = "linear, yarn, Llama 3's and Phi-3's with its factors"
        raise UserError(f"{file.path} turns positions by {kind!r}; known are {known}")
    return {}


def _long_rope(file: GGUFFile) -> Json:
    """Phi-3's scaling, whose divisors of each frequency the file holds: for short rows and for long ones."""
    short, long = (values_of(file.tensors[name]).tolist() for name in _LONG_ROPE)
    original = _number(file, "rope.scaling.original_context_length")
    return {
        "rope_type": "longrope", "short_factor": short, "long_factor": long,
        "factor": _number(file, "context_length") / original, "original_max_position_embeddings": original,
        "attention_factor": file.fact("rope.scaling.attn_factor", 1.0),
    }  # fmt: skip


def _llama3(file: GGUFFile, size: int) -> Json:
    """The scaling whose divisors of each frequency the file holds."""
    found = values_of(file.tensors["rope_freqs.weight"]).numpy()
    theta = file.fact("rope.freq_base", 10_000.0)
    for factor, original in _LLAMA3:
        rope = {
            "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": original,
        }  # fmt: skip
        wanted = rope_factors({"rope_scaling": rope, "head_dim": size, "rope_theta": theta})
        if len(wanted) == len(found) and np.allclose(wanted, found, rtol=1e-4):
            return rope
    raise UserError(f"{file.path} scales its positions by factors of its own; only Llama 3's are known")


def _number(file: GGUFFile, name: str, default: int | None = None) -> int:
    """A size. Some files give one for each layer, which must be the same."""
    found = file.fact(name, default)
    if found is None:
        raise KeyError(f"{file.architecture}.{name}")
    each = set(np.atleast_1d(found).tolist())
    if len(each) != 1:
        raise UserError(f"{file.path}: {name} differs from layer to layer, which is not known here")
    return int(each.pop())


def _vocab_size(file: GGUFFile) -> int:
    return _stored(file, "token_embd.weight").shape[0]


def _stored(file: GGUFFile, name: str) -> Stored:
    if name not in file.tensors:
        raise UserError(f"{file.path} has no tensor {name}, so it is no language model; get the file again")
    return file.tensors[name]


# ---- tensors


class GGUFCheckpoint(Checkpoint):
    """The tensors of a file under their Hugging Face names; each is unpacked when it is asked for."""

    def __init__(self, file: GGUFFile, config: Json) -> None:
        """config: of `read_config`."""
        self.file, self._config = file, config
        self._family = family_of(config)
        architecture = ARCHITECTURES[config["model_type"]]
        ours = architecture.import_config(config)
        assert isinstance(ours, TransformerConfig)
        theirs = architecture.export_weights(outline(partial(build_model, ours)), ours)
        names = gguf.get_tensor_name_map(self._family.arch, ours.layers)
        known = {name: names.get_name(name, try_suffixes=(".weight", ".bias")) for name in theirs}
        self._stored = {name: file.tensors[it] for name, it in known.items() if it in file.tensors}
        left = set(file.tensors) - {it.name for it in self._stored.values()} - _ROPE
        if left:
            raise UserError(f"{file.path} holds {min(left)}, which no {config['model_type']} has")
        self.shapes = {
            name: tuple(unturned(name, torch.empty(it.shape, device="meta"), config).shape)
            for name, it in self._stored.items()
        }
        self.unread = set(self._stored)

    def __getitem__(self, name: str) -> Tensor:
        stored = self._stored[name]
        return self._seen(name, unturned(name, values_of(stored), self._config), stored.path)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def __contains__(self, name: object) -> bool:
        return name in self._stored

    def take_groups(self, pairs: Pairs) -> Sources:
        """See `Checkpoint.take_groups`."""
        asked, found = _Asked(self.shapes), dict[str, Any]()
        for ours, _ in pairs(asked):
            names = asked.names()
            parts = [self._stored[name] for name in names]
            few = any(part.kind not in FLOATS for part in parts)
            if few and all(len(part.shape) == 2 for part in parts) and ours not in _READ_AS_THEY_ARE:
                orders = [
                    unturned(name, torch.arange(part.shape[0]), self._config)
                    for name, part in zip(names, parts, strict=True)
                ]
                found[ours] = in_groups(parts, orders, unpacked)
                for name in names:
                    del self._stored[name]
                    self.unread.discard(name)
        return found

    @property
    def quantised(self) -> str:
        return ""

    @property
    def dtype(self) -> torch.dtype:
        """That of the file; fp16 for fewer bits, whose scales are stored so."""
        sizes: dict[gguf.GGMLQuantizationType, int] = {}
        for it in self._stored.values():
            sizes[it.kind] = sizes.get(it.kind, 0) + math.prod(it.shape)
        most = max(sizes, key=lambda kind: sizes[kind])
        kinds = gguf.GGMLQuantizationType
        return {kinds.F32: torch.float32, kinds.BF16: torch.bfloat16}.get(most, torch.float16)


class _Asked(Mapping[str, Tensor]):
    """Tensors without rows; which of them were asked for. (To join meta tensors loads PyTorch's compiler.)"""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._shapes, self._asked = shapes, list[str]()

    def names(self) -> list[str]:
        """Those asked for since the last time."""
        found, self._asked = self._asked, []
        return found

    def __getitem__(self, name: str) -> Tensor:
        self._asked.append(name)
        return torch.empty(0, *self._shapes[name][1:])

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def __contains__(self, name: object) -> bool:
        return name in self._shapes


def values_of(stored: Stored) -> Tensor:
    """A tensor's numbers in fp32. Raises UserError for a kind that the `gguf` package does not unpack."""
    values = torch.empty(stored.shape, dtype=torch.float32)
    rows_NW = values.view(-1, stored.shape[-1]).numpy()
    data_NB = stored.data.reshape(len(rows_NW), -1)
    step = max(1, _CHUNK // stored.shape[-1])
    try:
        for start in range(0, len(rows_NW), step):
            rows_NW[start : start + step] = unpacked(data_NB[start : start + step], stored.kind)
    except NotImplementedError:
        raise UserError(
            f"{stored.path}: {stored.name} is of the kind {stored.kind.name}, which cannot be read here; "
            "take a file of another kind, such as Q4_K_M or Q8_0"
        ) from None
    return values


def unpacked(data_NB: NDArray[np.uint8], kind: gguf.GGMLQuantizationType) -> NDArray[np.float32]:
    """Rows of a tensor, as they lie in the file, in fp32."""
    if kind == gguf.GGMLQuantizationType.F32:
        return data_NB.view("<f4")
    return gguf.quants.dequantize(data_NB, kind)
