"""A moment of training for the small models of the scaling pictures."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch

from malmoi.core.nouns import Say
from malmoi.core.tensors import TokenBatch
from malmoi.learn.losses import next_token_loss
from malmoi.models.language import LanguageModel
from malmoi.util.units import human_seconds

WARM_UP_STEPS = 20


def learn(
    model: LanguageModel, batch: Callable[[], TokenBatch], steps: int, *, lr: float, say: Say
) -> float:  # fmt: skip
    """Adam on fresh batches; the last loss, nats a token. The learning rate rises, then falls in a line."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01, betas=(0.9, 0.98))
    start_s, mean = time.perf_counter(), math.nan
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min((step + 1) / WARM_UP_STEPS, 1 - 0.9 * step / steps)
        found = next_token_loss(model, batch())
        optimizer.zero_grad()
        (found.sum / found.count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        mean = float(found.sum.detach()) / found.count
    model.eval()
    say(f"{steps} steps in {human_seconds(time.perf_counter() - start_s)}, the last loss {mean:.2f} nats")
    return mean
