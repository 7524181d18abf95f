"""Llama, Mistral and SmolLM3, and what they share with Qwen and Gemma in the Hugging Face libraries.

All of them are RMSNorm, rotary positions and a gated feed-forward network. A family is a table of what its
models have in common, of what they choose, and of what its config.json means where it is silent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from malmoi.core.errors import UserError
from malmoi.core.nouns import Json
from malmoi.hub.outside import choices, read_rope, require, write_rope
from malmoi.models.config import Part, TransformerConfig

_GATES = {"silu": "swiglu", "gelu_pytorch_tanh": "geglu", "gelu_new": "geglu"}
_PARTS: dict[str, tuple[Part, ...]] = {"attention_bias": ("qkv", "out"), "mlp_bias": ("ff",)}
SLIDING, FULL = "sliding_attention", "full_attention"


@dataclass(frozen=True)
class LlamaFamily:
    """One `model_type`.

    fixed: choices that all its models share. free: choices that its config.json can say. bias_keys: what
    biases it can say; always_biased: those that it has anyway. slides: whether a layer has the window where
    `layer_types` is silent (None: no windows). names_layers: whether `layer_types` is obeyed. needs_flag:
    `sliding_window` counts with `use_sliding_window` only. modules: of a block, by ours, where they are not
    Llama's. defaults: of its config.json.
    """

    model_type: str
    class_name: str
    fixed: Json = field(default_factory=dict)
    free: frozenset[str] = frozenset()
    bias_keys: tuple[str, ...] = ()
    always_biased: tuple[Part, ...] = ()
    activation_key: str = "hidden_act"
    slides: Callable[[Json, int], bool] | None = None
    names_layers: bool = True
    needs_flag: bool = False
    whole_heads: bool = False  # transformers refuses a width that is not a multiple of heads
    modules: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    defaults: Json = field(default_factory=dict)
    fan_in_fan_out: ClassVar = False

    def obstacles(self, config: TransformerConfig) -> list[str]:
        """The choices of `config` that this architecture cannot express."""
        known = _WINDOW if self.slides is not None and self.names_layers else frozenset[str]()
        found = choices(config, self.fixed, _FREE | self.free | known)
        if config.feed_forward not in _GATES.values():
            found.append(f"feed_forward = {config.feed_forward}")
        if set(_biased(config)) not in self._possible_biases():
            found.append(f"bias = {config.bias}")
        if self.whole_heads and config.width % config.heads:
            found.append(f"width {config.width} with {config.heads} heads")
        return found

    def export_config(self, config: TransformerConfig) -> Json:
        """`config.json` of a model without a tokenizer."""
        return {
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
            self.activation_key: "silu" if config.feed_forward == "swiglu" else "gelu_pytorch_tanh",
            "rms_norm_eps": config.norm_eps,
            "tie_word_embeddings": config.tied,
            "attention_dropout": 0.0,
            **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),  # a tokenizer has some
            **{key: set(_PARTS[key]) <= set(_biased(config)) for key in self.bias_keys},
            **write_rope(config),
            **self._export_windows(config),
        }

    def import_config(self, found: Json) -> TransformerConfig:
        """The inverse of `export_config`. Raises UserError or ValidationError for what we do not have."""
        found = self.defaults | found
        heads, width, head_width = found["num_attention_heads"], found["hidden_size"], found.get("head_dim")
        require(found, self.activation_key, *_GATES)
        return TransformerConfig(
            vocab_size=found["vocab_size"],
            context=found["max_position_embeddings"],
            layers=found["num_hidden_layers"],
            width=width,
            heads=heads,
            kv_heads=found.get("num_key_value_heads"),
            head_width=None if head_width and head_width * heads == width else head_width,
            ff_width=found["intermediate_size"],
            bias=self._import_bias(found),
            tied=bool(found.get("tie_word_embeddings")),
            norm_eps=found["rms_norm_eps"],
            **self.fixed,
            **self.import_choices(found),
        )

    def import_choices(self, found: Json) -> Json:
        """The choices of `config.json` that families differ in."""
        theta, rope = read_rope(found)
        gate = _GATES[found.get(self.activation_key, "silu")]
        return {"feed_forward": gate, "rope_theta": theta, "rope": rope} | self._import_windows(found)

    def export_weights(self, ours: dict[str, Tensor], config: TransformerConfig) -> dict[str, Tensor]:
        """Our tensors under the outside names; fused products are taken apart."""
        theirs: dict[str, Tensor] = {}
        for name, tensor in ours.items():
            theirs |= self._export_one(name, tensor, config)
        if config.tied:
            theirs.pop("lm_head.weight", None)
        return theirs

    def import_weights(
        self, theirs: Mapping[str, Tensor], config: TransformerConfig
    ) -> Iterator[tuple[str, Tensor]]:
        """The inverse of `export_weights`: (name, tensor) one by one, each read only then."""
        for outside, name in _OUTER.items():
            if outside in theirs:
                yield name, theirs[outside]
        for layer in range(config.layers):
            for name, parts in self._names(config).items():
                for kind in ("weight", "bias"):
                    found = [f"model.layers.{layer}.{part}.{kind}" for part in parts]
                    if all(part in theirs for part in found):
                        yield f"blocks.{layer}.{name}.{kind}", _whole(theirs, found)

    def _names(self, config: TransformerConfig) -> dict[str, tuple[str, ...]]:
        """The outside modules that each of ours in a block is."""
        return _BLOCK | (_SANDWICH if config.post_norm else {}) | dict(self.modules)

    def _export_one(self, name: str, tensor: Tensor, config: TransformerConfig) -> dict[str, Tensor]:
        for outside, ours in _OUTER.items():
            if name == ours:
                return {outside: tensor}
        _, layer, rest = name.split(".", 2)
        block, kind = rest.rsplit(".", 1)
        parts = self._names(config)[block]
        kv = config.num_kv_heads * config.size_of_head
        rows = {2: [config.size_of_ff] * 2, 3: [config.heads * config.size_of_head, kv, kv]}
        pieces = tensor.split(rows[len(parts)]) if len(parts) > 1 else (tensor,)
        return {
            f"model.layers.{layer}.{part}.{kind}": piece.contiguous()
            for part, piece in zip(parts, pieces, strict=True)
        }

    def _possible_biases(self) -> list[set[Part]]:
        found = [set(self.always_biased)]
        for key in self.bias_keys:
            found += [parts | set(_PARTS[key]) for parts in found]
        return found

    def _import_bias(self, found: Json) -> bool | tuple[Part, ...]:
        parts = self.always_biased
        for key, of_key in _PARTS.items():
            if key not in self.bias_keys:
                require(found, key, None, False)
            elif found.get(key):
                parts += of_key
        return True if len(parts) == len(_EVERYWHERE) else parts or False

    def _import_windows(self, found: Json) -> Json:
        """window and window_layers."""
        if self.slides is None:
            require(found, "use_sliding_window", None, False)
            return {}
        window, layers = found.get("sliding_window"), found["num_hidden_layers"]
        if self.needs_flag and not found.get("use_sliding_window"):
            window = None
        usual = [
            SLIDING if window is not None and self.slides(found, layer) else FULL for layer in range(layers)
        ]
        kinds = found.get("layer_types") or usual
        if not self.names_layers:
            require(found, "layer_types", None, [SLIDING] * layers)
        if not isinstance(kinds, list) or len(kinds) != layers or not set(kinds) <= {SLIDING, FULL}:
            raise UserError(f"config.json needs {layers} layer_types, each {FULL} or {SLIDING}")
        if SLIDING not in kinds:
            return {}
        if window is None:
            raise UserError(f"config.json has {SLIDING} in layer_types, but no sliding_window is in use")
        return {"window": window, "window_layers": shortest([kind == SLIDING for kind in kinds])}

    def _export_windows(self, config: TransformerConfig) -> Json:
        if self.slides is None:
            return {}
        found: Json = {"sliding_window": config.window}
        if self.names_layers:
            found["layer_types"] = [SLIDING if kind.has_window else FULL for kind in config.layer_kinds]
        return found | ({"use_sliding_window": config.window is not None} if self.needs_flag else {})


class SmolLM3(LlamaFamily):
    """Llama with layers that do not turn by position (Yang et al. 2025)."""

    def import_choices(self, found: Json) -> Json:
        found = found | {"no_rope_layers": no_rope_layers(found)}
        turned = [bool(turns) for turns in found["no_rope_layers"]]
        if len(turned) != found["num_hidden_layers"]:
            raise UserError(f"config.json needs {found['num_hidden_layers']} no_rope_layers")
        return super().import_choices(found) | {"rope_layers": shortest(turned)}

    def export_config(self, config: TransformerConfig) -> Json:
        turned = [int(kind.has_rope) for kind in config.layer_kinds]
        return super().export_config(config) | {"no_rope_layers": turned}


def no_rope_layers(found: Json) -> list[Any]:
    """SmolLM3's list, in which 1 means that a layer has rotary positions, as its name does not tell."""
    layers, interval = found["num_hidden_layers"], found.get("no_rope_layer_interval") or 4
    return found.get("no_rope_layers") or [(layer + 1) % interval != 0 for layer in range(layers)]


def shortest(flags: Sequence[bool]) -> tuple[bool, ...] | None:
    """The shortest pattern that repeats to `flags`; None where all are true."""
    if all(flags):
        return None
    lengths = range(1, len(flags) + 1)
    length = next(n for n in lengths if all(flag == flags[i % n] for i, flag in enumerate(flags)))
    return tuple(flags[:length])


_EVERYWHERE: tuple[Part, ...] = ("qkv", "out", "ff")
_FREE = frozenset({"rope", "rope_theta", "feed_forward", "bias"})
_WINDOW = frozenset({"window", "window_layers"})
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
_SANDWICH = {
    "attention_post_norm": ("post_attention_layernorm",),
    "feed_forward_norm": ("pre_feedforward_layernorm",),
    "feed_forward_post_norm": ("post_feedforward_layernorm",),
}


def _biased(config: TransformerConfig) -> list[Part]:
    return [part for part in _EVERYWHERE if config.has_bias(part)]


def _whole(theirs: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """A fused matrix; its parts are let go."""
    return theirs[names[0]] if len(names) == 1 else torch.cat([theirs[name] for name in names])


LLAMA = LlamaFamily(
    "llama", "LlamaForCausalLM", bias_keys=("attention_bias", "mlp_bias"), whole_heads=True
)  # fmt: skip
MISTRAL = LlamaFamily(
    "mistral",
    "MistralForCausalLM",
    free=frozenset({"window"}),
    slides=lambda _found, _layer: True,
    names_layers=False,
    defaults={"sliding_window": 4096, "num_key_value_heads": 8},
)
PHI3 = LlamaFamily(
    "phi3",
    "Phi3ForCausalLM",
    free=frozenset({"window"}),
    slides=lambda _found, _layer: True,
    names_layers=False,
    whole_heads=True,
    modules={"attention.qkv": ("self_attn.qkv_proj",), "feed_forward.gate_up": ("mlp.gate_up_proj",)},
)
SMOLLM3 = SmolLM3(
    "smollm3",
    "SmolLM3ForCausalLM",
    free=frozenset({"rope_layers"}),
    bias_keys=("attention_bias", "mlp_bias"),
    slides=lambda found, layer: not no_rope_layers(found)[layer],
    needs_flag=True,
    defaults={"tie_word_embeddings": True, "rope_theta": 2e6, "num_key_value_heads": 4},
)


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
