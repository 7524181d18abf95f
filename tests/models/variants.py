"""One tiny model for every family and option, shared by the tests of models, hub and scorers."""

from __future__ import annotations

import numpy as np
import torch

from malmoi.models.build import build_model
from malmoi.models.config import LinearRope, LongRope, RecurrentConfig, TransformerConfig, YarnRope
from malmoi.models.language import LanguageModel
from malmoi.models.ngram import KneserNey

VOCAB = 61
SMALL = TransformerConfig(vocab_size=VOCAB, context=48, layers=2, width=32, heads=4)
GPT2_CHOICES = {
    "norm": "layer", "position": "learned", "feed_forward": "gelu", "bias": True, "tied": True,
}  # fmt: skip
GEMMA: dict[str, object] = {
    "norm_offset": True,
    "scaled_embedding": True,
    "feed_forward": "geglu",
    "head_width": 12,
    "tied": True,
}
TRANSFORMERS = {
    name: SMALL.model_copy(update=update)
    for name, update in {
        "llama": {},
        "llama-gqa": {"kv_heads": 2},
        "llama-mqa-tied": {"kv_heads": 1, "tied": True},
        "llama-bias": {"bias": True},
        "llama-wide-head": {"head_width": 12, "ff_width": 40, "rope_theta": 1e6, "norm_eps": 1e-6},
        "mistral": {"window": 5, "kv_heads": 2},
        "mistral-window-1": {"window": 1},
        "qwen3": {"qk_norm": True, "kv_heads": 2, "tied": True},
        "gpt2": GPT2_CHOICES,
        "gpt2-untied": GPT2_CHOICES | {"tied": False},
        "qwen3-window": {"qk_norm": True, "window": 4, "window_layers": (False, True)},
        "qwen2": {"bias": ("qkv",), "kv_heads": 2},
        "smollm3": {"rope_layers": (True, False), "bias": ("ff",), "tied": True},
        "llama-yarn": {"rope": YarnRope(factor=4.0, original_max_position_embeddings=12)},
        "llama-longrope": {
            "rope": LongRope(
                factor=2.0,
                original_max_position_embeddings=48,
                short_factor=(1, 1.1, 1.2, 1.3),
                long_factor=(2, 3, 4, 5),
            )
        },
        "llama-geglu": {"feed_forward": "geglu"},
        "gemma": GEMMA,
        "gemma2": GEMMA
        | {
            "post_norm": True,
            "window": 5,
            "window_layers": (True, False),
            "query_scalar": 20,
            "attention_softcap": 1.5,
            "logit_softcap": 4.0,
        },
        "gemma3": GEMMA
        | {
            "post_norm": True,
            "qk_norm": True,
            "window": 5,
            "window_layers": (True, False),
            "rope_theta": 1e6,
            "rope": LinearRope(factor=3.0),
            "window_rope_theta": 1e4,
        },
        "window-and-qk-norm": {"window": 4, "qk_norm": True, "post_norm": True},
        "learned-rms": {"position": "learned", "window": 7},
        "gelu-rotary": {"feed_forward": "gelu", "bias": True},
    }.items()
}
RECURRENTS = {
    name: RecurrentConfig(family=family, vocab_size=VOCAB, layers=layers, width=24, tied=tied)
    for name, family, layers, tied in (
        ("rnn", "rnn", 1, True), ("lstm", "lstm", 2, True), ("gru", "gru", 2, False),
    )
}  # fmt: skip
NEURAL = TRANSFORMERS | RECURRENTS


def make_model(name: str, *, scale: float = 4.0) -> LanguageModel:
    """A model with large random weights, so that every part of it shows in the logits."""
    torch.manual_seed(0)
    model = build_model(NEURAL[name]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale) if parameter.ndim > 1 else parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def make_ngram(vocab_size: int = VOCAB, order: int = 4) -> KneserNey:
    """Counted on a short text in which most things were seen more than once."""
    random = np.random.default_rng(0)
    return KneserNey.fit((vocab_size * random.random(3000) ** 3).astype(np.int64), vocab_size, order=order)


def random_ids(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))
