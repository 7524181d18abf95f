"""The engine: turns prompts into tokens with any `Scorer` (n-gram, recurrent or Transformer)."""

from malmoi.engine.engine import Engine
from malmoi.engine.request import Completion, Sampling, TokenEvent

__all__ = ["Completion", "Engine", "Sampling", "TokenEvent"]
