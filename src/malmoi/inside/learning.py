"""A moment of training for the small models of the scaling pictures."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from malmoi.core.nouns import Say
from malmoi.core.tensors import Loss, TokenBatch
from malmoi.learn.loop import Loop, Objective
from malmoi.learn.losses import next_token_loss
from malmoi.learn.run_config import LoopSpec
from malmoi.models.language import LanguageModel
from malmoi.util.units import human_seconds


class Drawn(Objective[LanguageModel, TokenBatch]):
    """Batches that are drawn one after another, and never judged."""

    context = 1

    def __init__(self, draw: Callable[[], TokenBatch]) -> None:
        self._draw = draw

    @property
    def rows_per_epoch(self) -> int:
        return 1

    def part(self, step: int, start: int, stop: int) -> TokenBatch:
        del step, start, stop
        return self._draw()

    def trial(self, rows: int) -> TokenBatch:
        raise NotImplementedError

    def loss(self, model: LanguageModel, part: TokenBatch) -> Loss:
        return next_token_loss(model, part.to(model.device))

    def evaluate(self, loss: object, rows: int, limit: int | None = None) -> dict[str, float]:
        del loss, rows, limit
        return {}


def learn(
    model: LanguageModel, batch: Callable[[], TokenBatch], steps: int, *, lr: float, say: Say
) -> float:  # fmt: skip
    """Adam on fresh batches; the last loss, nats a token. The learning rate rises, then falls in a line."""
    spec = LoopSpec(
        steps=steps, batch=1, micro_batch=1, lr=lr, betas=(0.9, 0.98), weight_decay=0.01, schedule="wsd",
        warmup_steps=20, floor=0.1, decay_fraction=1.0, dtype="fp32",
    )  # fmt: skip
    start_s, last = time.perf_counter(), math.nan
    for report in Loop(model, Drawn(batch), spec).run():
        last = report.loss
    model.eval()
    say(f"{steps} steps in {human_seconds(time.perf_counter() - start_s)}, the last loss {last:.2f} nats")
    return last
