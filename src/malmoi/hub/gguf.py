"""A decoder as a GGUF file, which llama.cpp and Ollama run.

The architecture, its numbers and its tensors come from the Hugging Face form of the model, so that every
family that can be exported there is one line here. Shape letters: O outputs, I inputs, H heads, C head width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from torch import Tensor

from malmoi.core.errors import UserError
from malmoi.core.nouns import Json
from malmoi.hub.gguf_vocab import Vocabulary

KINDS = {"f32": Kind.F32, "f16": Kind.F16, "bf16": Kind.BF16, "q8_0": Kind.Q8_0, "q4_0": Kind.Q4_0}
_FILE_TYPES = {
    "f32": gguf.LlamaFileType.ALL_F32, "f16": gguf.LlamaFileType.MOSTLY_F16,
    "bf16": gguf.LlamaFileType.MOSTLY_BF16, "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
}  # fmt: skip


class Outside(NamedTuple):
    """A model in its Hugging Face form: `config.json`, and its tensors under the names there."""

    config: Json
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class GGUFFamily:
    """What llama.cpp has for one `model_type`."""

    arch: gguf.MODEL_ARCH
    activation: str = "silu"
    biased: bool = False  # attention and feed-forward may have biases
    tied: bool = False  # output and embedding must be one matrix
    whole_heads: bool = False  # heads as wide as the model together
    paired: bool = False  # its rotary turns neighbours, not halves, so rows of q and k change places
    norm_plus_one: bool = False  # Hugging Face's norms multiply by 1 + weight
    windowed: bool = False  # it keeps to a sliding window


_GELU = "gelu_pytorch_tanh"
_ARCH = gguf.MODEL_ARCH
FAMILIES = {
    "llama": GGUFFamily(_ARCH.LLAMA, biased=True, paired=True),
    "mistral": GGUFFamily(_ARCH.LLAMA, biased=True, paired=True),
    "phi3": GGUFFamily(_ARCH.PHI3, whole_heads=True),
    "smollm3": GGUFFamily(_ARCH.SMOLLM3, paired=True),
    "qwen2": GGUFFamily(_ARCH.QWEN2, whole_heads=True),
    "qwen3": GGUFFamily(_ARCH.QWEN3),
    "gemma": GGUFFamily(_ARCH.GEMMA, _GELU, tied=True, norm_plus_one=True),
    "gemma2": GGUFFamily(_ARCH.GEMMA2, _GELU, tied=True, norm_plus_one=True, windowed=True),
    "gemma3_text": GGUFFamily(_ARCH.GEMMA3, _GELU, norm_plus_one=True, windowed=True),
    "gpt2": GGUFFamily(_ARCH.GPT2, "gelu_new", biased=True),
}


def family_of(config: Json) -> GGUFFamily:
    """Raises UserError for an architecture that cannot be written."""
    found = FAMILIES.get(str(config.get("model_type")))
    if found is None:
        raise UserError(f"{config.get('model_type')} cannot be a GGUF file; known: {', '.join(FAMILIES)}")
    return found


def refusals(config: Json) -> list[str]:
    """What of a model llama.cpp would compute in another way."""
    family, found = family_of(config), []
    names = ("hidden_activation", "activation_function", "hidden_act")
    activation = next((config[name] for name in names if config.get(name)), family.activation)
    if activation != family.activation:
        found.append(f"activation {activation}")
    if not family.biased and (config.get("attention_bias") or config.get("mlp_bias")):
        found.append("biases")
    if family.tied and not config.get("tie_word_embeddings", True):
        found.append("an output matrix of its own")
    size = config.get("head_dim")
    if family.whole_heads and size and size * config["num_attention_heads"] != config["hidden_size"]:
        found.append(f"head_dim {size}")
    turned = config.get("no_rope_layers")
    if turned and turned != [int((layer + 1) % 4 != 0) for layer in range(len(turned))]:
        found.append("layers without positions but every fourth")
    return [*found, *_rope_refusals(config), *_gemma_refusals(config, family)]


def _rope_refusals(config: Json) -> list[str]:
    rope, kind = _rope(config), _rope_kind(config)
    found = [] if kind in ("default", "linear", "llama3", "yarn") else [f"rope_type {kind}"]
    if kind == "yarn":
        found += [it for it in ("attention_factor", "mscale", "mscale_all_dim") if rope.get(it) is not None]
        found += [] if rope.get("truncate", True) else ["yarn that does not truncate"]
    return found


def _gemma_refusals(config: Json, family: GGUFFamily) -> list[str]:
    if not family.windowed:
        return []
    size = config["head_dim"]
    if config["num_hidden_layers"] in (46, 62):  # llama.cpp tells the 27B models by this
        size = config["hidden_size"] // config["num_attention_heads"]
    scale = config.get("query_pre_attn_scalar") or size
    found = [] if scale == size else [f"query_pre_attn_scalar {scale}"]
    capped = config.get("attn_logit_softcapping") and config.get("final_logit_softcapping")
    return [*found, *(["no soft caps"] if config["model_type"] == "gemma2" and not capped else [])]


def context_of(config: Json) -> int:
    """The most positions that llama.cpp computes as the model does: where it has no window, no more."""
    context = int(config.get("max_position_embeddings") or config.get("n_positions") or 0)
    window = None if family_of(config).windowed else _window(config)
    return min(context, window or context)


def write_gguf(path: Path, model: Outside, vocab: Vocabulary, dtype: str, *, name: str) -> list[str]:
    """Write one file; returns notes. dtype: of matrices; vectors are always f32.

    Raises UserError for what llama.cpp would compute in another way, OSError where the disk does not take it.
    """
    family = family_of(model.config)
    if why := refusals(model.config):
        kind = model.config["model_type"]
        raise UserError(f"llama.cpp has no {kind} with {' and '.join(why)}; use `to` hf")
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[family.arch])
    try:
        writer.add_name(name)
        writer.add_file_type(_FILE_TYPES[dtype])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        _add_numbers(writer, model.config, family)
        _add_vocabulary(writer, vocab)
        odd = 0
        for gguf_name, tensor in tensors(model):
            kind = _kind(tensor, KINDS[dtype])
            odd += tensor.ndim > 1 and kind != KINDS[dtype]
            writer.add_tensor(gguf_name, _packed(tensor, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    return _notes(model.config, vocab, dtype, odd)


def _notes(config: Json, vocab: Vocabulary, dtype: str, odd: int) -> list[str]:
    found = [vocab.note] if vocab.note else []
    if odd:
        found.append(f"{odd} matrices are f16, as their rows are no multiple of 32 as {dtype} wants")
    longest = config.get("max_position_embeddings") or 0
    if (context := context_of(config)) < longest:
        found.append(
            f"llama.cpp has no sliding window for this architecture: its context is {context}, not {longest}"
        )
    return found


# ---- tensors


def tensors(model: Outside) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the file: its name there, and its values as llama.cpp wants them, in f32."""
    family, config = family_of(model.config), model.config
    names = gguf.get_tensor_name_map(family.arch, _number(config, "num_hidden_layers", "n_layer"))
    for name, tensor in model.tensors.items():
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert known is not None, name
        yield known, _turned(name, tensor.detach().float().cpu(), config, family)
    if factors := rope_factors(config):
        yield "rope_freqs.weight", torch.tensor(factors)


def _turned(name: str, tensor: Tensor, config: Json, family: GGUFFamily) -> Tensor:
    if config["model_type"] == "gpt2" and ".c_" in name and tensor.ndim == 2:
        return tensor.T.contiguous()
    if family.paired and ".q_proj." in name:
        return _paired(tensor, config["num_attention_heads"])
    if family.paired and ".k_proj." in name:
        return _paired(tensor, config.get("num_key_value_heads") or config["num_attention_heads"])
    return tensor + 1 if family.norm_plus_one and name.endswith("norm.weight") else tensor


def unturned(name: str, tensor: Tensor, config: Json) -> Tensor:
    """The inverse of what `tensors` does to the values of a Hugging Face tensor of that name."""
    family = family_of(config)
    if config["model_type"] == "gpt2" and ".c_" in name and tensor.ndim == 2:
        return tensor.T
    heads = int(config.get("num_attention_heads") or 0)
    if family.paired and (".q_proj." in name or ".k_proj." in name):
        return _unpaired(tensor, heads if ".q_proj." in name else config.get("num_key_value_heads") or heads)
    is_norm = family.norm_plus_one and name.endswith("norm.weight")
    # without values only the shape is wanted, and PyTorch imports its compiler for such sums: that takes 2 s
    return tensor - 1 if is_norm and not tensor.is_meta else tensor


def _unpaired(tensor: Tensor, heads: int) -> Tensor:
    """The inverse of `_paired`."""
    pairs_HC2 = tensor.reshape(heads, len(tensor) // heads // 2, 2, *tensor.shape[1:])
    return pairs_HC2.transpose(1, 2).reshape(tensor.shape)


def _paired(tensor: Tensor, heads: int) -> Tensor:
    """Rows 0, C/2, 1, C/2 + 1, ... of every head: what a rotary of halves turns together, side by side."""
    halves_H2C = tensor.reshape(heads, 2, len(tensor) // heads // 2, *tensor.shape[1:])
    return halves_H2C.transpose(1, 2).reshape(tensor.shape)


def _kind(tensor: Tensor, wanted: Kind) -> Kind:
    if tensor.ndim < 2:
        return Kind.F32
    block, _ = gguf.GGML_QUANT_SIZES[wanted]
    return Kind.F16 if tensor.shape[-1] % block else wanted


def _packed(tensor: Tensor, kind: Kind) -> np.ndarray:
    """The numbers of one tensor as they stand in the file. Raises UserError for one past f16's largest."""
    if kind == Kind.F16 and tensor.abs().max() > torch.finfo(torch.float16).max:
        raise UserError("a weight is too large for f16; use `dtype` bf16 or f32")
    return gguf.quants.quantize(tensor.numpy(), kind)


def largest_difference(path: Path, model: Outside) -> tuple[int, float]:
    """Read a file back: how many tensors it has, and by how much a number differs from the model's at most.

    Raises UserError where a tensor is missing, too many, or of another shape.
    """
    found = {it.name: it for it in gguf.GGUFReader(path).tensors}
    count, largest = len(found), 0.0
    for name, tensor in tensors(model):
        it = found.pop(name, None)
        numbers = None if it is None else gguf.quants.dequantize(it.data, it.tensor_type)
        if numbers is None or numbers.shape != tuple(tensor.shape):
            raise UserError(f"{path} does not hold {name} as it was written; export again")
        largest = max(largest, float(np.abs(numbers - tensor.numpy()).max()))
    if found:
        raise UserError(f"{path} holds {min(found)}, which is not the model's; export again")
    return count, largest


# ---- numbers


def _add_numbers(writer: gguf.GGUFWriter, config: Json, family: GGUFFamily) -> None:
    heads = _number(config, "num_attention_heads", "n_head")
    width = _number(config, "hidden_size", "n_embd")
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(context_of(config))
    writer.add_embedding_length(width)
    writer.add_block_count(_number(config, "num_hidden_layers", "n_layer"))
    writer.add_feed_forward_length(_number(config, "intermediate_size", "n_inner"))
    writer.add_head_count(heads)
    if config["model_type"] == "gpt2":
        writer.add_layer_norm_eps(config["layer_norm_epsilon"])
        return
    size_of_head = int(config.get("head_dim") or width // heads)
    writer.add_head_count_kv(int(config.get("num_key_value_heads") or heads))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_key_length(size_of_head)
    writer.add_value_length(size_of_head)
    writer.add_rope_dimension_count(size_of_head)
    _add_rope(writer, config)
    if family.windowed:
        _add_gemma(writer, config)


def _add_rope(writer: gguf.GGUFWriter, config: Json) -> None:
    """How positions turn. What Llama 3 does is in a tensor instead: `rope_factors`."""
    rope = _rope(config)
    writer.add_rope_freq_base(float(rope.get("rope_theta", config.get("rope_theta", 10_000.0))))
    local = _rope(config, "sliding_attention").get("rope_theta", config.get("rope_local_base_freq"))
    if local is not None and "gemma3" in config["model_type"]:
        writer.add_rope_freq_base_swa(float(local))
    kind = _rope_kind(config)
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))
    elif kind == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(float(rope["factor"]))
        original = rope.get("original_max_position_embeddings") or config["max_position_embeddings"]
        writer.add_rope_scaling_orig_ctx_len(int(original))
        writer.add_rope_scaling_yarn_beta_fast(float(rope.get("beta_fast") or 32.0))
        writer.add_rope_scaling_yarn_beta_slow(float(rope.get("beta_slow") or 1.0))


def rope_factors(config: Json) -> list[float]:
    """Llama 3's divisors of each frequency (Llama 3.1's `apply_scaling`); empty for others."""
    rope = _rope(config)
    if _rope_kind(config) != "llama3":
        return []
    size = int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])
    theta = float(rope.get("rope_theta", config.get("rope_theta", 10_000.0)))
    low, high, factor = (float(rope[f"{it}factor"]) for it in ("low_freq_", "high_freq_", ""))
    found: list[float] = []
    for at in range(0, size, 2):
        turns = float(rope["original_max_position_embeddings"]) / (2 * math.pi * theta ** (at / size))
        share = min(1.0, max(0.0, (turns - low) / (high - low)))  # 1: a frequency that stays as it is
        found.append(1 / ((1 - share) / factor + share))
    return found


def _add_gemma(writer: gguf.GGUFWriter, config: Json) -> None:
    """What Gemma 2 and 3 have: windows in some layers, and limits on scores and logits."""
    # without a number llama.cpp takes a window of its own: as long as the context is as good as none
    writer.add_sliding_window(_window(config) or context_of(config))
    if kinds := config.get("layer_types"):
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in kinds])
    if config.get("attn_logit_softcapping"):
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
    if config.get("final_logit_softcapping"):
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])


def _window(config: Json) -> int | None:
    return config.get("sliding_window") if config.get("use_sliding_window", True) else None


def _rope(config: Json, layers: str = "full_attention") -> Json:
    """The rotary's parameters, for one kind of layer where they are apart; {} where there are none."""
    found: Json = config.get("rope_parameters") or config.get("rope_scaling") or {}
    apart = {"full_attention", "sliding_attention"} & set(found)
    return found.get(layers) or {} if apart or layers != "full_attention" else found


def _rope_kind(config: Json) -> str:
    rope = _rope(config)
    return str(rope.get("rope_type", rope.get("type", "default")))


def _number(config: Json, *names: str) -> int:
    return int(next(config[name] for name in names if config.get(name) is not None))


# ---- the tokenizer


def _add_vocabulary(writer: gguf.GGUFWriter, vocab: Vocabulary) -> None:
    writer.add_tokenizer_model(vocab.model)
    writer.add_tokenizer_pre(vocab.pre)
    writer.add_token_list(vocab.tokens)
    writer.add_token_types(vocab.types)
    if vocab.scores is not None:
        writer.add_token_scores(vocab.scores)
    if vocab.merges is not None:
        writer.add_token_merges(vocab.merges)
    adds = {
        "bos": writer.add_bos_token_id, "eos": writer.add_eos_token_id, "pad": writer.add_pad_token_id,
        "unk": writer.add_unk_token_id, "eot": writer.add_eot_token_id,
    }  # fmt: skip
    for role, id in vocab.specials.items():
        adds[role](id)
    writer.add_add_bos_token(vocab.add_bos)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(vocab.add_space)
    if vocab.template is not None:
        writer.add_chat_template(vocab.template)
