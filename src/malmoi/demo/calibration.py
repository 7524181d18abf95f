"""How many steps the demo's time affords, from a few steps of each network."""

from __future__ import annotations

import numpy as np

from malmoi.data.shards import TokenFile
from malmoi.demo.material import CONTEXT, RECIPES, DemoText, run_config
from malmoi.learn.objectives.next_token import NextToken
from malmoi.learn.trial import step_seconds, try_step
from malmoi.models.build import build_model
from malmoi.text.tokenizer import Tokenizer
from malmoi.util.hardware import pick_device


def affordable_steps(material: DemoText, budget_s: float) -> int:
    """How many steps of the LSTM and the GPT together fit in the budget; a multiple of ten."""
    tokenizer = Tokenizer.load(material.tokenizer)
    ids = np.array([id for text in material.sample[:200] for id in tokenizer.encode(text)], dtype=np.uint16)
    ids = np.resize(ids, max(len(ids), 2 * CONTEXT))
    tokens = TokenFile(ids, tokenizer.specials.eos, tokenizer.vocab_size, 1, 1)
    seconds_per_step = sum(_seconds_per_step(name, material, tokens) for name in RECIPES)
    return max(20, int(budget_s / seconds_per_step) // 10 * 10)


def _seconds_per_step(name: str, material: DemoText, tokens: TokenFile) -> float:
    """The mean of three steps of a model that is then thrown away; the first one is not counted."""
    config = run_config(name, 100, material, most_s=1.0)
    model = build_model(config.model_config_for(tokens.vocab_size, CONTEXT)).to(pick_device())
    objective = NextToken(tokens, tokens, config.train, CONTEXT)
    steps_s = step_seconds(model, objective, try_step(model, objective, config.train).spec, 4)
    return sum(steps_s) / len(steps_s)
