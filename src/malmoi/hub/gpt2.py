"""GPT-2 (Radford et al. 2019): LayerNorm, learned positions, GELU, biases; weights stored input-first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from malmoi.core.nouns import Json
from malmoi.hub.outside import choices, require
from malmoi.models.config import TransformerConfig

_OUTER = {
    "transformer.wte.weight": "embed.weight",
    "transformer.wpe.weight": "positions.weight",
    "transformer.ln_f.weight": "norm.weight",
    "transformer.ln_f.bias": "norm.bias",
    "lm_head.weight": "head.weight",
}
_BLOCK = {
    "ln_1": "attention_norm",
    "ln_2": "feed_forward_norm",
    "attn.c_attn": "attention.qkv",
    "attn.c_proj": "attention.out",
    "mlp.c_fc": "feed_forward.up",
    "mlp.c_proj": "feed_forward.down",
}


class GPT2:
    """The architecture `gpt2` of the Hugging Face libraries."""

    model_type = "gpt2"
    fan_in_fan_out = True  # its matrices are stored (in, out)

    def obstacles(self, config: TransformerConfig) -> list[str]:
        """The choices of `config` that this architecture cannot express."""
        fixed = {
            "norm": "layer", "position": "learned", "feed_forward": "gelu", "bias": True,
        }  # fmt: skip
        found = choices(config, fixed, {"rope_theta"})  # a base that nothing is turned by
        if config.num_kv_heads != config.heads:
            found.append(f"kv_heads = {config.kv_heads}")
        if config.size_of_head * config.heads != config.width:
            found.append(f"head_width = {config.head_width}")
        return found

    def export_config(self, config: TransformerConfig) -> Json:
        """`config.json` without the token ids."""
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": self.model_type,
            "vocab_size": config.vocab_size,
            "n_positions": config.context,
            "n_embd": config.width,
            "n_layer": config.layers,
            "n_head": config.heads,
            "n_inner": config.size_of_ff,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": config.norm_eps,
            "tie_word_embeddings": config.tied,
        }

    def import_config(self, found: Json) -> TransformerConfig:
        """The inverse of `export_config`. Raises UserError for what we do not have."""
        require(found, "activation_function", "gelu_new", "gelu_pytorch_tanh")
        require(found, "scale_attn_weights", True)
        require(found, "scale_attn_by_inverse_layer_idx", False)
        return TransformerConfig(
            vocab_size=found["vocab_size"],
            context=found["n_positions"],
            layers=found["n_layer"],
            width=found["n_embd"],
            heads=found["n_head"],
            ff_width=found.get("n_inner") or 4 * found["n_embd"],
            norm="layer",
            position="learned",
            feed_forward="gelu",
            bias=True,
            tied=found.get("tie_word_embeddings", True),
            norm_eps=found.get("layer_norm_epsilon", 1e-5),
        )

    def export_weights(self, ours: dict[str, Tensor], config: TransformerConfig) -> dict[str, Tensor]:
        """Our tensors under the outside names, matrices transposed where GPT-2 stores (in, out)."""
        names = self._names(config)
        theirs = {outside: _turned(outside, ours[name]) for outside, name in names.items() if name in ours}
        if config.tied:
            theirs.pop("lm_head.weight", None)
        return theirs

    def import_weights(
        self, theirs: Mapping[str, Tensor], config: TransformerConfig
    ) -> Iterator[tuple[str, Tensor]]:
        """The inverse of `export_weights`: (name, tensor) one by one, each read only then.

        The `transformer.` prefix may be missing, as in OpenAI's file.
        """
        bare = "wte.weight" in theirs
        for outside, name in self._names(config).items():
            stored = outside.removeprefix("transformer.") if bare else outside
            if stored in theirs:
                yield name, _turned(outside, theirs[stored])

    @staticmethod
    def _names(config: TransformerConfig) -> dict[str, str]:
        blocks = {
            f"transformer.h.{layer}.{outside}.{kind}": f"blocks.{layer}.{name}.{kind}"
            for layer in range(config.layers)
            for outside, name in _BLOCK.items()
            for kind in ("weight", "bias")
        }
        return _OUTER | blocks


def _turned(outside: str, tensor: Tensor) -> Tensor:
    """GPT-2's `c_*` matrices are (in, out), ours (out, in)."""
    return tensor.T.contiguous() if ".c_" in outside and tensor.ndim == 2 else tensor
