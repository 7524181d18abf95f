"""From a config to a model with fresh weights."""

from __future__ import annotations

from malmoi.core.nouns import Json
from malmoi.models.config import RecurrentConfig, TransformerConfig, model_config_adapter
from malmoi.models.language import LanguageModel
from malmoi.models.recurrent import Recurrent
from malmoi.models.transformer import Transformer


def build_model(config: TransformerConfig | RecurrentConfig) -> LanguageModel:
    """A new model; its weights come from torch's global generator (seed it first)."""
    return Transformer(config) if isinstance(config, TransformerConfig) else Recurrent(config)


def model_of(config: Json) -> LanguageModel:
    """A new model of a config as JSON."""
    return build_model(model_config_adapter.validate_python(config))
