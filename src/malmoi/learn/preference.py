"""Preference tuning: a chat model learns which of two answers is better, by DPO (Rafailov et al. 2023).

An answer's reward is beta (log p - log r), where r is the reference: the model as it was before training. The
loss of a pair is -log sigmoid(margin), the margin being the chosen answer's reward less the rejected one's.
What the reference says of every answer is computed once, up front, so that no second model is held.

Shape letters: P all pairs, B some of them, R their rows, T positions, N trained positions, D width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Annotated, NamedTuple

import numpy as np
import torch
from pydantic import Field, PositiveFloat
from torch import Tensor
from torch.nn import functional

from malmoi.core.tensors import IGNORE, Loss, TokenBatch
from malmoi.data.packing import Packed
from malmoi.learn.finetune import TuneSpec
from malmoi.learn.optim import OptimizerKind
from malmoi.models.language import LanguageModel
from malmoi.models.output import target_log_probabilities
from malmoi.text.chat import ChatRow


class PreferenceSpec(TuneSpec):
    """How to learn preferences. beta: how dear it is to leave the reference; the larger, the nearer to it.

    label_smoothing: the share of pairs that are thought to be the wrong way round (Mitchell 2023).
    """

    optimizer: OptimizerKind = "adamw"
    lr: PositiveFloat = 5e-5  # of all weights; small, or answers of both kinds become unlikely
    epochs: PositiveFloat = 1
    beta: PositiveFloat = 0.1
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0


class PairBatch(NamedTuple):
    """Some pairs. tokens: the chosen answers' rows, then the rejected ones', only the answers trained.

    reference_R: the log-probability (nats) of each answer under the reference.
    """

    tokens: TokenBatch
    reference_R: Tensor


class Pairs:
    """Pairs of rows, padded side by side, and what the reference says of them."""

    def __init__(self, pairs: Sequence[tuple[ChatRow, ChatRow]], context: int) -> None:
        """pairs: (chosen, rejected), each of at most `context` + 1 ids."""
        self.rows = [row for pair in pairs for row in pair]  # chosen, rejected, chosen, ...
        self.reference_R = torch.zeros(len(self.rows))
        self._packed = Packed(self.rows, context, seed=0, together=False)
        lengths = [max(len(chosen.ids), len(rejected.ids)) for chosen, rejected in pairs]
        self.by_length = sorted(range(len(pairs)), key=lengths.__getitem__)
        self.mean_tokens = round(sum(len(row.ids) - 1 for row in self.rows) / len(pairs))

    def __len__(self) -> int:
        return len(self.by_length)

    def batch(self, numbers: Sequence[int]) -> PairBatch:
        """The pairs of these numbers."""
        rows = _rows_of(numbers)
        return PairBatch(self._packed.token_batch([[row] for row in rows]), self.reference_R[rows])

    def in_parts(self, pairs: int, limit: int | None = None) -> Iterator[list[int]]:
        """The numbers of all pairs (of `limit` of them), so many at a time and alike in length."""
        order = self.by_length if limit is None else self.by_length[: max(1, limit)]
        yield from (order[start : start + pairs] for start in range(0, len(order), pairs))

    @torch.no_grad()
    def refer(self, model: LanguageModel, pairs: int, dtype: str) -> None:
        """Let `model` be the reference; computed `pairs` at a time, in the precision of training."""
        model.eval()
        for numbers in self.in_parts(pairs):
            with torch.autocast(model.device.type, torch.bfloat16, enabled=dtype == "bf16"):
                logp_R = answer_log_probabilities(model, self.batch(numbers).tokens.to(model.device))
            self.reference_R[_rows_of(numbers)] = logp_R.cpu()

    @property
    def chosen_is_likelier(self) -> float:
        """The share of pairs whose chosen answer is the likelier one for the reference."""
        chosen_P, rejected_P = self.reference_R.view(-1, 2).T
        return float((chosen_P > rejected_P).float().mean())


def _rows_of(numbers: Sequence[int]) -> list[int]:
    """Where the chosen, then the rejected rows of pairs stand among all rows."""
    return [2 * number + side for side in (0, 1) for number in numbers]


def answer_log_probabilities(model: LanguageModel, tokens: TokenBatch) -> Tensor:
    """fp32 logp_R: the summed log-probability (nats) of each row's targets."""
    assert tokens.targets_BT is not None
    trained_RT = tokens.targets_BT != IGNORE
    x_ND = model.hidden(tokens)[trained_RT]
    targets_N = tokens.targets_BT[trained_RT]
    logp_N = target_log_probabilities(x_ND, model.head.weight, targets_N, model.softcap)
    return logp_N.new_zeros(len(trained_RT)).index_add(0, trained_RT.nonzero()[:, 0], logp_N)


def preference_loss(logp_R: Tensor, reference_R: Tensor, beta: float, label_smoothing: float = 0.0) -> Loss:
    """DPO's loss of pairs, the chosen answers' rows first.

    measures: sums of reward margins, of chosen answers' rewards, and of right rankings by reward (accuracy)
    and by likelihood (likelier).
    """
    chosen_B, rejected_B = (beta * (logp_R - reference_R)).chunk(2)
    margin_B = chosen_B - rejected_B
    right_B, wrong_B = -functional.logsigmoid(margin_B), -functional.logsigmoid(-margin_B)
    likelier_B = torch.gt(*logp_R.chunk(2))
    return Loss(
        right_B.lerp(wrong_B, label_smoothing).sum(),
        len(margin_B),
        {
            "margin": margin_B.sum().item(),
            "chosen_reward": chosen_B.sum().item(),
            "accuracy": (margin_B > 0).sum().item(),
            "likelier": likelier_B.sum().item(),
        },
    )


class Preferences:
    """Preference tuning as an objective: a row is a pair."""

    def __init__(self, train: Pairs, valid: Pairs, spec: PreferenceSpec) -> None:
        self.train, self.valid, self.spec = train, valid, spec
        self.context = train.mean_tokens  # padding not counted
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def refer(self, model: LanguageModel, pairs: int, dtype: str) -> None:
        """Let the model as it is now be the reference."""
        for part in (self.train, self.valid):
            part.refer(model, pairs, dtype)

    def part(self, step: int, start: int, stop: int) -> PairBatch:
        first = step * self.spec.batch
        return self.train.batch([self._pair(first + row) for row in range(start, stop)])

    def trial(self, rows: int) -> PairBatch:
        """The longest pair over and over."""
        return self.train.batch([self.train.by_length[-1]] * rows)

    def loss(self, model: LanguageModel, part: PairBatch) -> Loss:
        """See `preference_loss`."""
        logp_R = answer_log_probabilities(model, part.tokens.to(model.device))
        reference_R = part.reference_R.to(logp_R.device)
        return preference_loss(logp_R, reference_R, self.spec.beta, self.spec.label_smoothing)

    def evaluate(
        self, loss: Callable[[PairBatch], Loss], rows: int, limit: int | None = None
    ) -> dict[str, float]:
        """loss (nats per pair), and the mean of each measure of `preference_loss`."""
        sums: Counter[str] = Counter()
        for numbers in self.valid.in_parts(rows, limit):
            found = loss(self.valid.batch(numbers))
            sums.update({"loss": found.sum.item(), "count": found.count, **found.measures})
        count = sums.pop("count")
        return {name: total / count for name, total in sums.items()}

    def _pair(self, number: int) -> int:
        """The `number`-th pair since the beginning of training; every epoch has each once."""
        epoch, place = divmod(number, len(self.train))
        return int(self._order(epoch)[place])

    def _shuffled(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.spec.seed, epoch)).permutation(len(self.train))
