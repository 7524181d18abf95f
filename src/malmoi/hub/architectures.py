"""Which outside architecture, if any, a decoder is."""

from __future__ import annotations

from malmoi.hub.gpt2 import GPT2
from malmoi.hub.llama import LLAMA, MISTRAL, QWEN3, LlamaFamily
from malmoi.models.config import TransformerConfig

Architecture = GPT2 | LlamaFamily

ARCHITECTURES: dict[str, Architecture] = {a.model_type: a for a in (LLAMA, QWEN3, MISTRAL, GPT2())}


def architecture_of(config: TransformerConfig) -> Architecture | None:
    """The architecture that expresses every choice of `config`, or None."""
    return next((a for a in ARCHITECTURES.values() if a.obstacle(config) is None), None)


def obstacle(config: TransformerConfig) -> str:
    """One line for the user: which choice keeps the nearest architecture from expressing `config`."""
    nearest = GPT2() if config.norm == "layer" or config.position == "learned" else LLAMA
    return f"{nearest.obstacle(config)} keeps it from being a {nearest.model_type} folder"
