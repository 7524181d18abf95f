"""Which outside architecture, if any, a decoder is."""

from __future__ import annotations

from malmoi.hub.bert import ENCODERS
from malmoi.hub.gemma import GEMMA, GEMMA2, GEMMA3
from malmoi.hub.gpt2 import GPT2
from malmoi.hub.llama import LLAMA, MISTRAL, PHI3, QWEN2, QWEN3, SMOLLM3, LlamaFamily
from malmoi.models.config import TransformerConfig

__all__ = ["ARCHITECTURES", "ENCODERS", "Architecture", "architecture_of", "obstacle"]
Architecture = GPT2 | LlamaFamily

ARCHITECTURES: dict[str, Architecture] = {
    a.model_type: a for a in (LLAMA, QWEN3, MISTRAL, PHI3, QWEN2, SMOLLM3, GEMMA, GEMMA2, GEMMA3, GPT2())
}


def architecture_of(config: TransformerConfig) -> Architecture | None:
    """The architecture that expresses every choice of `config`, or None."""
    return next((a for a in ARCHITECTURES.values() if not a.obstacles(config)), None)


def obstacle(config: object) -> str:
    """One line for the user: which choices keep the nearest architecture from expressing `config`, or ''.

    No other than a Transformer has another home than malmoi's folder, which is not worth a line.
    """
    if not isinstance(config, TransformerConfig):
        return ""
    found = {name: a.obstacles(config) for name, a in ARCHITECTURES.items()}
    nearest = min(found, key=lambda name: len(found[name]))
    reasons = " and ".join(found[nearest])
    return f"{reasons} cannot be in a {nearest} folder; only malmoi can load it" if reasons else ""
