"""Gemma 1, 2 and 3 (text): norms by 1 + weight, scaled embeddings; then soft caps, more norms and windows."""

from __future__ import annotations

from malmoi.core.errors import UserError
from malmoi.core.nouns import Json
from malmoi.hub.llama import LlamaFamily
from malmoi.hub.outside import read_rope, require, rope_object
from malmoi.models.config import TransformerConfig

_GLOBAL, _LOCAL = "full_attention", "sliding_attention"
_THETA, _LOCAL_THETA = 1e6, 1e4


class Gemma(LlamaFamily):
    """Gemma 1 (2024)."""

    def import_choices(self, found: Json) -> Json:
        require(found, "use_bidirectional_attention", None, False)
        return super().import_choices(found)

    def import_config(self, found: Json) -> TransformerConfig:
        if self.activation_key == "hidden_act" and found.get("hidden_act") == "gelu":
            found = found | {"hidden_act": "gelu_pytorch_tanh"}  # the first releases meant this by it
        return super().import_config(found)


class Gemma2(Gemma):
    """Gemma 2 (2024): norms on both sides, capped scores and logits, every second layer with a window."""

    def import_choices(self, found: Json) -> Json:
        scalar = found["query_pre_attn_scalar"]
        return super().import_choices(found) | {
            "query_scalar": None if scalar == found["head_dim"] else scalar,
            "attention_softcap": found.get("attn_logit_softcapping"),
            "logit_softcap": found.get("final_logit_softcapping"),
        }

    def export_config(self, config: TransformerConfig) -> Json:
        return super().export_config(config) | {
            "query_pre_attn_scalar": config.query_scalar or config.size_of_head,
            "attn_logit_softcapping": config.attention_softcap,
            "final_logit_softcapping": config.logit_softcap,
        }


class Gemma3(Gemma2):
    """Gemma 3's text model (2025): QK-norm instead of capped scores, another rotary base inside windows."""

    def obstacles(self, config: TransformerConfig) -> list[str]:
        scaled = config.rope is not None and config.window is not None and config.window_rope_theta is None
        return super().obstacles(config) + (["rope scaling inside windows"] if scaled else [])

    def import_choices(self, found: Json) -> Json:
        require(found, "attn_logit_softcapping", None)  # transformers reads it and does not use it
        nested = rope_object(found, "rope_parameters")
        if not set(nested) <= {_GLOBAL, _LOCAL}:
            raise UserError(f"config.json needs rope_parameters for {_GLOBAL} and {_LOCAL}")
        local = rope_object(nested, _LOCAL)
        require(local, "rope_type", None, "default")
        for_all = rope_object(nested, _GLOBAL) | rope_object(found, "rope_scaling")
        everywhere = {"rope_scaling": None, "rope_parameters": for_all}
        theta, rope = read_rope(found | everywhere, _THETA)
        ours = super().import_choices(found | everywhere) | {"rope_theta": theta, "rope": rope}
        local_theta = local.get("rope_theta") or found.get("rope_local_base_freq") or _LOCAL_THETA
        if ours.get("window") and (local_theta != theta or rope is not None):
            ours["window_rope_theta"] = local_theta
        return ours

    def export_config(self, config: TransformerConfig) -> Json:
        local_theta = config.window_rope_theta or config.rope_theta
        return super().export_config(config) | {"rope_local_base_freq": local_theta}


_FIXED = {"norm_offset": True, "scaled_embedding": True}
_DEFAULTS = {"tie_word_embeddings": True, "head_dim": 256, "num_key_value_heads": 4, "sliding_window": 4096}
_GEMMA2 = {
    "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256,
    "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0,
}  # fmt: skip

GEMMA = Gemma(
    "gemma",
    "GemmaForCausalLM",
    fixed=_FIXED,
    bias_keys=("attention_bias",),
    defaults=_DEFAULTS | {"hidden_act": "gelu_pytorch_tanh", "num_key_value_heads": 16},
)
GEMMA2 = Gemma2(
    "gemma2",
    "Gemma2ForCausalLM",
    fixed=_FIXED | {"post_norm": True},
    free=frozenset({"query_scalar", "attention_softcap", "logit_softcap"}),
    bias_keys=("attention_bias",),
    activation_key="hidden_activation",
    slides=lambda _found, layer: layer % 2 == 0,
    whole_heads=True,
    defaults=_DEFAULTS | _GEMMA2,
)
GEMMA3 = Gemma3(
    "gemma3_text",
    "Gemma3ForCausalLM",
    fixed=_FIXED | {"post_norm": True, "qk_norm": True},
    free=frozenset({"query_scalar", "logit_softcap", "window_rope_theta"}),
    bias_keys=("attention_bias",),
    activation_key="hidden_activation",
    slides=lambda found, layer: bool((layer + 1) % (found.get("sliding_window_pattern") or 6)),
    whole_heads=True,
    defaults=_DEFAULTS | _GEMMA2 | {"final_logit_softcapping": None, "attn_logit_softcapping": None},
)
