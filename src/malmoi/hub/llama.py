"""Llama, Mistral and Qwen3: the RMSNorm + rotary + SwiGLU family of the Hugging Face libraries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from malmoi.hub.outside import Json, differing, require
from malmoi.models.config import TransformerConfig
from malmoi.util.errors import UserError


@dataclass(frozen=True)
class LlamaFamily:
    """One `model_type` of the family, by what it has: a sliding window, QK-norm, biases."""

    model_type: str
    class_name: str
    has_window: bool = False
    has_qk_norm: bool = False
    has_bias: bool = False
    fan_in_fan_out: ClassVar = False

    def obstacles(self, config: TransformerConfig) -> list[str]:
        """The choices of `config` that this architecture cannot express."""
        fixed = {
            "norm": "rms", "position": "rotary", "feed_forward": "swiglu", "qk_norm": self.has_qk_norm,
            "window": config.window if self.has_window else None,
            "bias": config.bias if self.has_bias else False,
        }  # fmt: skip
        return differing(config, fixed)

    def export_config(self, config: TransformerConfig) -> Json:
        """`config.json` without the token ids."""
        found: Json = {
            "architectures": [self.class_name],
            "model_type": self.model_type,
            "vocab_size": config.vocab_size,
            "max_position_embeddings": config.context,
            "hidden_size": config.width,
            "intermediate_size": config.size_of_ff,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "num_key_value_heads": config.num_kv_heads,
            "head_dim": config.size_of_head,
            "hidden_act": "silu",
            "rms_norm_eps": config.norm_eps,
            "rope_theta": config.rope_theta,
            "tie_word_embeddings": config.tied,
            "attention_dropout": 0.0,
        }
        if self.has_window:
            found["sliding_window"] = config.window
        if self.has_bias:
            found |= {"attention_bias": config.bias, "mlp_bias": config.bias}
        return found

    def import_config(self, found: Json) -> TransformerConfig:
        """The inverse of `export_config`. Raises UserError for what we do not have."""
        rope: Json = found.get("rope_parameters") or found.get("rope_scaling") or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default":
            raise UserError(f"config.json asks for rope_type {kind!r}; only 'default' is supported")
        require(found, "hidden_act", "silu")
        require(found, "use_sliding_window", self.has_window)
        bias = bool(found.get("attention_bias"))
        require(found, "attention_bias", bias and self.has_bias)
        if self.has_bias and bias != bool(found.get("mlp_bias")):
            raise UserError("config.json has attention_bias and mlp_bias apart; only both or none works")
        return TransformerConfig(
            vocab_size=found["vocab_size"],
            context=found["max_position_embeddings"],
            layers=found["num_hidden_layers"],
            width=found["hidden_size"],
            heads=found["num_attention_heads"],
            kv_heads=found.get("num_key_value_heads"),
            head_width=found.get("head_dim"),
            ff_width=found["intermediate_size"],
            bias=bias,
            qk_norm=self.has_qk_norm,
            tied=bool(found.get("tie_word_embeddings")),
            window=found.get("sliding_window") if self.has_window else None,
            rope_theta=rope.get("rope_theta", found.get("rope_theta", 10_000.0)),
            norm_eps=found["rms_norm_eps"],
        )

    def export_weights(self, ours: dict[str, Tensor], config: TransformerConfig) -> dict[str, Tensor]:
        """Our tensors under the outside names; fused products are taken apart."""
        theirs: dict[str, Tensor] = {}
        for name, tensor in ours.items():
            theirs |= _export_one(name, tensor, config)
        if config.tied:
            theirs.pop("lm_head.weight", None)
        return theirs

    def import_weights(self, theirs: dict[str, Tensor], config: TransformerConfig) -> dict[str, Tensor]:
        """The inverse of `export_weights`."""
        ours = {name: theirs[outside] for outside, name in _OUTER.items() if outside in theirs}
        if config.tied:
            ours["head.weight"] = theirs["model.embed_tokens.weight"]
        for layer in range(config.layers):
            for name, parts in _BLOCK.items():
                for kind in ("weight", "bias"):
                    found = [f"model.layers.{layer}.{part}.{kind}" for part in parts]
                    if all(part in theirs for part in found):
                        ours[f"blocks.{layer}.{name}.{kind}"] = torch.cat([theirs[part] for part in found])
        return ours


_OUTER = {
    "model.embed_tokens.weight": "embed.weight",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "head.weight",
}
_BLOCK = {
    "attention_norm": ("input_layernorm",),
    "feed_forward_norm": ("post_attention_layernorm",),
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.out": ("self_attn.o_proj",),
    "attention.q_norm": ("self_attn.q_norm",),
    "attention.k_norm": ("self_attn.k_norm",),
    "feed_forward.gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "feed_forward.down": ("mlp.down_proj",),
}


def _export_one(name: str, tensor: Tensor, config: TransformerConfig) -> dict[str, Tensor]:
    for outside, ours in _OUTER.items():
        if name == ours:
            return {outside: tensor}
    _, layer, rest = name.split(".", 2)
    block, kind = rest.rsplit(".", 1)
    parts = _BLOCK[block]
    kv = config.num_kv_heads * config.size_of_head
    rows = {2: [config.size_of_ff] * 2, 3: [config.heads * config.size_of_head, kv, kv]}
    pieces = tensor.split(rows[len(parts)]) if len(parts) > 1 else (tensor,)
    return {
        f"model.layers.{layer}.{part}.{kind}": piece.contiguous()
        for part, piece in zip(parts, pieces, strict=True)
    }


LLAMA = LlamaFamily("llama", "LlamaForCausalLM", has_bias=True)
MISTRAL = LlamaFamily("mistral", "MistralForCausalLM", has_window=True)
QWEN3 = LlamaFamily("qwen3", "Qwen3ForCausalLM", has_qk_norm=True)
