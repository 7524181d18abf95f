"""Tiny models for the tests of evaluation."""

from __future__ import annotations

import torch

from malmoi.models.build import build_model
from malmoi.models.language import LanguageModel
from malmoi.text.tokenizer import Tokenizer
from tests.models.variants import NEURAL


def tiny_model(name: str, tokenizer: Tokenizer, *, scale: float = 3.0, seed: int = 7) -> LanguageModel:
    """A model of the tokenizer's size with large random weights: its answers differ from each other.

    Those of the Transformers know 48 tokens of context. The seed is one whose greedy answers hold no special:
    ours end there, and those of `transformers` go on.
    """
    torch.manual_seed(seed)
    model = build_model(NEURAL[name].model_copy(update={"vocab_size": tokenizer.vocab_size})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale if parameter.ndim > 1 else 1)
    return model
