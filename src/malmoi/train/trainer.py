"""The training loop: batch -> loss -> gradients -> step, the same for every neural language model.

Shape letters: B rows, T positions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from malmoi.core import Loss, TokenBatch
from malmoi.data.batches import batch, evaluation_batches
from malmoi.data.shards import TokenFile
from malmoi.models.language import LanguageModel
from malmoi.train.checkpoint import load_checkpoint, save_checkpoint
from malmoi.train.distributed import ALONE, Group
from malmoi.train.losses import next_token_loss
from malmoi.train.optim import make_optimizers
from malmoi.train.run import TrainSpec
from malmoi.train.update import Update, update
from malmoi.util.seeds import mixed


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one optimizer step did. Losses are nats per token; validation is None between evaluations."""

    step: int  # steps done
    loss: float
    gradient_norm: float
    lr: float
    tokens_per_s: float
    valid_loss: float | None = None
    valid_bits_per_byte: float | None = None


class Trainer:
    """Trains one model on one token file. Batches are a function of (seed, step), so a resume is exact.

    `spec.micro_batch` and `spec.dtype` must have been settled (see `malmoi.train.trial`).
    """

    def __init__(
        self,
        model: LanguageModel,
        train: TokenFile,
        valid: TokenFile,
        spec: TrainSpec,
        context: int,
        folder: Path,
        group: Group = ALONE,
    ) -> None:
        assert spec.micro_batch is not None
        self.model, self.train, self.valid, self.spec, self.context = model, train, valid, spec, context
        self.micro_rows = spec.micro_batch
        self.group = group
        self.checkpoints = folder / "checkpoints"
        self.optimizers = make_optimizers(
            model, spec.optimizer, lr=spec.lr, weight_decay=spec.weight_decay, betas=spec.betas,
            dtype=torch.bfloat16 if spec.dtype == "bf16" else torch.float32,
        )  # fmt: skip
        self.step = 0

    def resume(self, warn: Callable[[str], None]) -> None:
        """Go on from the newest whole checkpoint, if there is one."""
        self.step = load_checkpoint(self.checkpoints, self.model, self.optimizers, warn) or 0

    def save(self) -> None:
        """Write a checkpoint of now (the first process of the group does)."""
        if self.group.first:
            save_checkpoint(self.checkpoints, self.step, self.model, self.optimizers)

    def run(self) -> Iterator[StepReport]:
        """Train to the last step, one report a step, with checkpoints and evaluations when they are due."""
        spec = self.spec
        while self.step < spec.steps:
            start_s = time.perf_counter()
            loss, norm, lr = self._optimize()
            self.step += 1
            tokens_per_s = spec.batch * self.context / (time.perf_counter() - start_s)
            last = self.step == spec.steps
            found = self.evaluate() if last or self.step % spec.eval_every == 0 else (None, None)
            if last or self.step % spec.checkpoint_every == 0:
                self.save()
            yield StepReport(self.step, loss, norm, lr, tokens_per_s, *found)

    @torch.no_grad()
    def evaluate(self, limit_tokens: int | None = None) -> tuple[float, float]:
        """Validation loss (nats per token) and bits per byte, which compares across tokenizers.

        limit_tokens: how many tokens of the validation text to predict, `spec.eval_tokens` by default.
        """
        self.model.eval()
        total, count = 0.0, 0
        limit = limit_tokens or self.spec.eval_tokens
        for part in evaluation_batches(self.valid, self.context, self.micro_rows, limit):
            loss = self._loss(part)
            total, count = total + loss.sum.item(), count + loss.count
        self.model.train()
        nats_per_token = total / count
        tokens_per_byte = self.valid.num_tokens / self.valid.num_bytes
        return nats_per_token, nats_per_token / math.log(2) * tokens_per_byte

    def _loss(self, part: TokenBatch) -> Loss:
        return compute_loss(self.model, part, self.spec.dtype)

    def _optimize(self) -> Update:
        """One optimizer step over the global batch."""
        spec = self.spec
        self.model.train()
        if self.model.config.dropout:  # a function of seed and step, like the batches, and of the process
            torch.manual_seed(mixed(spec.seed, self.step, self.group.rank))
        return update(
            self.model,
            self.optimizers,
            self._losses(),
            spec,
            step=self.step,
            steps=spec.steps,
            group=self.group,
            lr_name="train.lr",
        )

    def _losses(self) -> Iterator[Loss]:
        """Of this process's share of the global batch, one micro-batch at a time."""
        spec, (first, end) = self.spec, self.group.share(self.spec.batch)
        for start in range(first, end, self.micro_rows):
            part = batch(
                self.train, seed=spec.seed, step=self.step, rows=spec.batch, context=self.context,
                start=start, stop=min(start + self.micro_rows, end),
            )  # fmt: skip
            yield self._loss(part)


def compute_loss(model: LanguageModel, part: TokenBatch, dtype: str) -> Loss:
    """The loss of one micro-batch, computed in bf16 or fp32; weights and the sum stay fp32."""
    with torch.autocast(model.device.type, torch.bfloat16, enabled=dtype == "bf16"):
        return next_token_loss(model, part.to(model.device))
