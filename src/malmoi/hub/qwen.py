"""Qwen2, Qwen2.5 and Qwen3: Llama with biases on queries, keys and values, or with QK-norm."""

from __future__ import annotations

from malmoi.core.nouns import Json
from malmoi.hub.llama import LlamaFamily
from malmoi.models.config import TransformerConfig


class Qwen(LlamaFamily):
    """Windows, where they are used, are in the upper layers."""

    def export_config(self, config: TransformerConfig) -> Json:
        windows = [kind.has_window for kind in config.layer_kinds]
        first = windows.index(True) if True in windows else config.layers
        return super().export_config(config) | {"max_window_layers": first}


def _slides(found: Json, layer: int) -> bool:
    first = found.get("max_window_layers")
    return layer >= (28 if first is None else first)


QWEN2 = Qwen(
    "qwen2",
    "Qwen2ForCausalLM",
    always_biased=("qkv",),
    slides=_slides,
    needs_flag=True,
    defaults={"sliding_window": 4096},
)
QWEN3 = Qwen(
    "qwen3",
    "Qwen3ForCausalLM",
    fixed={"qk_norm": True},
    bias_keys=("attention_bias",),
    slides=_slides,
    needs_flag=True,
    defaults={"sliding_window": 4096, "head_dim": 128},
)
