"""The training loop: rows -> loss -> gradients -> step, the same for every neural language model.

What is trained on is an `Objective`: windows of a text (`NextToken`, pre-training), packed conversations
(`malmoi.learn.tuning`), pairs of answers (`malmoi.learn.preference`).

Shape letters: B rows, T positions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch

from malmoi.core.tensors import Loss, TokenBatch, mean
from malmoi.data.batches import batch, evaluation_batches
from malmoi.data.shards import TokenFile
from malmoi.learn.checkpoint import load_checkpoint, save_checkpoint
from malmoi.learn.distributed import ALONE, Group
from malmoi.learn.losses import next_token_loss
from malmoi.learn.optim import make_optimizers
from malmoi.learn.run_config import LoopSpec, TrainSpec
from malmoi.learn.update import Update, update
from malmoi.models.language import LanguageModel
from malmoi.util.seeds import mixed

Part = TypeVar("Part")  # some rows of a batch


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one optimizer step did. Losses are nats per token; validation is None between evaluations.

    measures: what else the objective tells of the step ("margin") and of the validation ("valid_margin").
    """

    step: int  # steps done
    loss: float
    gradient_norm: float
    lr: float
    tokens_per_s: float
    valid_loss: float | None = None
    valid_bits_per_byte: float | None = None
    measures: dict[str, float] = field(default_factory=dict)


class Objective(Protocol[Part]):
    """What a model learns: the rows of every step, a function of (seed, step), and how it is judged."""

    @property
    def context(self) -> int:
        """Tokens of a row, padding counted."""
        ...

    def part(self, step: int, start: int, stop: int) -> Part:
        """Rows `start` to `stop` of the global batch at `step`."""
        ...

    def trial(self, rows: int) -> Part:
        """So many rows that take as much time and memory as any, for `malmoi.learn.trial`."""
        ...

    def loss(self, model: LanguageModel, part: Part) -> Loss:
        """The summed loss of some rows, with gradients; `part` goes to the model's device here."""
        ...

    def evaluate(self, loss: Callable[[Part], Loss], rows: int, limit: int | None = None) -> dict[str, float]:
        """Measures of the validation rows, `rows` of them at a time: "loss" (the mean), and others.

        limit: how many tokens (or pairs) to look at, by default what the objective was made with.
        """
        ...


class NextToken:
    """Pre-training: windows of a text, where every position predicts the next token."""

    def __init__(self, train: TokenFile, valid: TokenFile, spec: TrainSpec, context: int) -> None:
        self.train, self.valid, self.spec, self.context = train, valid, spec, context

    def part(self, step: int, start: int, stop: int) -> TokenBatch:
        rows, seed = self.spec.batch, self.spec.seed
        return batch(
            self.train, seed=seed, step=step, rows=rows, context=self.context, start=start, stop=stop
        )

    def trial(self, rows: int) -> TokenBatch:
        """The first row over and over, as two documents: those cost more."""
        one, context = self.part(0, 0, 1), self.context
        assert one.targets_BT is not None
        documents_BT = (torch.arange(context) >= context // 2).long().expand(rows, -1)
        return TokenBatch(one.ids_BT.expand(rows, -1), one.targets_BT.expand(rows, -1), documents_BT)

    def loss(self, model: LanguageModel, part: TokenBatch) -> Loss:
        return next_token_loss(model, part.to(model.device))

    def evaluate(
        self, loss: Callable[[TokenBatch], Loss], rows: int, limit: int | None = None
    ) -> dict[str, float]:
        """loss (nats per token) and bits_per_byte, which compares across tokenizers."""
        limit = limit or self.spec.eval_tokens
        nats = mean(map(loss, evaluation_batches(self.valid, self.context, rows, limit)))
        tokens_per_byte = self.valid.num_tokens / self.valid.num_bytes
        return {"loss": nats, "bits_per_byte": nats / math.log(2) * tokens_per_byte}


class Trainer(Generic[Part]):
    """Trains one model on one objective. Batches are a function of (seed, step), so a resume is exact.

    `spec.micro_batch` and `spec.dtype` must have been settled (see `malmoi.learn.trial`).
    """

    def __init__(
        self,
        model: LanguageModel,
        objective: Objective[Part],
        spec: LoopSpec,
        folder: Path,
        group: Group = ALONE,
    ) -> None:
        assert spec.micro_batch is not None
        self.model, self.objective, self.spec = model, objective, spec
        self.micro_rows = spec.micro_batch
        self.group = group
        self.checkpoints = folder / "checkpoints"
        self.optimizers = make_optimizers(
            model, spec.optimizer, lr=spec.lr, weight_decay=spec.weight_decay, betas=spec.betas,
            dtype=torch.bfloat16 if spec.dtype == "bf16" else torch.float32,
        )  # fmt: skip
        self.step = 0

    @property
    def context(self) -> int:
        """Tokens of a row."""
        return self.objective.context

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
            done = self._optimize()
            self.step += 1
            tokens_per_s = spec.batch * self.context / (time.perf_counter() - start_s)
            last = self.step == spec.steps
            found = self.evaluate() if last or self.step % spec.eval_every == 0 else {}
            if last or self.step % spec.checkpoint_every == 0:
                self.save()
            yield StepReport(
                self.step, done.loss, done.gradient_norm, done.lr, tokens_per_s,
                found.pop("loss", None), found.pop("bits_per_byte", None),
                done.measures | {f"valid_{name}": value for name, value in found.items()},
            )  # fmt: skip

    @torch.no_grad()
    def evaluate(self, limit: int | None = None) -> dict[str, float]:
        """The objective's measures of its validation rows."""
        self.model.eval()
        found = self.objective.evaluate(self._loss, self.micro_rows, limit)
        self.model.train()
        return found

    def _loss(self, part: Part) -> Loss:
        return compute_loss(self.model, self.objective, part, self.spec.dtype)

    def _optimize(self) -> Update:
        """One optimizer step over the global batch."""
        spec = self.spec
        self.model.train()
        # what dropout drops is a function of seed and step, like the batches, and of the process
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
        first, end = self.group.share(self.spec.batch)
        for start in range(first, end, self.micro_rows):
            yield self._loss(self.objective.part(self.step, start, min(start + self.micro_rows, end)))


def compute_loss(model: LanguageModel, objective: Objective[Part], part: Part, dtype: str) -> Loss:
    """The loss of one micro-batch, computed in bf16 or fp32; weights and the sum stay fp32."""
    with torch.autocast(model.device.type, torch.bfloat16, enabled=dtype == "bf16"):
        return objective.loss(model, part)
