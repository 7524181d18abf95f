"""Preference tuning: a chat model learns which of two answers is better, by DPO (Rafailov et al. 2023).

An answer's reward is beta (log p - log r), where r is the reference: the model as it was before training. The
loss of a pair is -log sigmoid(margin), the margin being the chosen answer's reward less the rejected one's.
What the reference says of every answer is computed once, up front, so that no second model is held.

Shape letters: P all pairs, B some of them, R their rows, T positions, N trained positions, D width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from malmoi.core.errors import UserError
from malmoi.core.nouns import Finding
from malmoi.core.tensors import IGNORE, Loss, TokenBatch
from malmoi.data.batches import Packed
from malmoi.data.conversations import read_preferences
from malmoi.data.labelled import SKIPPED
from malmoi.learn import cards
from malmoi.learn.loop import Loop, Objective
from malmoi.learn.mixture import held_out
from malmoi.learn.run_config import AlignConfig, PreferenceSpec
from malmoi.learn.tuned import Tuned, load_chat
from malmoi.models.language import LanguageModel
from malmoi.models.output import head_log_probabilities
from malmoi.text.chat import ChatFormat, ChatRow

Rows = tuple[ChatRow, ChatRow]


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
        """The numbers of all pairs (of `limit` of them), `rows` at a time and alike in length."""
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
    logp_N = head_log_probabilities(model.head, x_ND, targets_N, model.softcap)
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


class Preferences(Objective[LanguageModel, PairBatch]):
    """Preference tuning as an objective: a row is a pair."""

    def __init__(self, train: Pairs, valid: Pairs, spec: PreferenceSpec) -> None:
        self.train, self.valid, self.spec = train, valid, spec
        self.context = train.mean_tokens  # padding not counted
        self._order = lru_cache(maxsize=2)(self._shuffled)

    @property
    def rows_per_epoch(self) -> int:
        return len(self.train)

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


@dataclass(kw_only=True)
class Alignment(Tuned[PairBatch]):
    """A run of `malmoi align`."""

    Config = AlignConfig

    @classmethod
    def load(cls, folder: Path) -> tuple[LanguageModel, ChatFormat]:
        return load_chat(folder)

    @classmethod
    def read(
        cls, config: AlignConfig, form: ChatFormat, context: int
    ) -> tuple[list[Rows], list[Rows], list[Finding]]:
        findings: list[Finding] = []
        return *_read(config, form, context, findings), findings

    @classmethod
    def made(cls, found: Any, context: int, **known: Any) -> Self:
        train, valid, findings = found
        objective = Preferences(Pairs(train, context), Pairs(valid, context), known["config"].train)
        return cls(objective=objective, findings=findings, **known)

    @property
    def pairs(self) -> tuple[Pairs, Pairs]:
        """To learn from, and to judge by."""
        assert isinstance(self.objective, Preferences)
        return self.objective.train, self.objective.valid

    def learned(self, spec: PreferenceSpec) -> tuple[str, str]:
        train, valid = self.pairs
        data = f"{cards.counted(len(train), 'pair')} of answers, of {train.mean_tokens:,} tokens on average"
        return f"{data}; {len(valid):,} more for validation", f"pairs, beta {spec.beta:g}"

    @property
    def prompt_ids(self) -> list[int]:
        """A held-out question that samples answer while tuning goes on."""
        row = self.pairs[1].rows[0]
        return row.ids[: row.trained.index(True)]

    @property
    def sample(self) -> list[str]:
        return [self.tokenizer.decode(row.ids) for row in self.pairs[0].rows[:20]]

    def refer(self, loop: Loop[LanguageModel, PairBatch]) -> None:
        assert isinstance(self.objective, Preferences)
        self.objective.refer(self.model, loop.micro_rows, loop.spec.dtype)

    def finish(self, folder: Path, loop: Loop[LanguageModel, PairBatch]) -> tuple[str, ...]:
        """The held-out pairs before tuning and now."""
        super().finish(folder, loop)
        valid, found = self.pairs[1], loop.evaluate()
        return (
            f"before: the chosen answer was the likelier one in {valid.chosen_is_likelier:.1%} of "
            f"{len(valid):,} held-out pairs; reward margin 0",
            f"after: in {found['likelier']:.1%}; reward margin {found['margin']:.3f}, "
            f"reward accuracy {found['accuracy']:.1%}",
        )

    def card(
        self, loop: Loop[LanguageModel, PairBatch], folder: Path, closing: tuple[str, ...]
    ) -> cards.Card:
        train, valid = self.pairs
        return cards.tuned_card(
            self.config, loop, folder, "tuned to preferences", on=cards.counted(len(train), "pair"),
            unit="pair", how=f"with DPO, beta {self.config.train.beta:g}, ", tags=("dpo",), notes=closing,
            measured_on=cards.counted(len(valid), "held-out pair"),
            limits=("It prefers what the people (or programs) who chose preferred, right or wrong.",),
        )  # fmt: skip


def _read(
    config: AlignConfig, form: ChatFormat, context: int, findings: list[Finding]
) -> tuple[list[Rows], list[Rows]]:
    """Pairs to learn from and to judge by: of `valid`, or held out."""
    parts = [
        read_pairs(Path(name), form, context, findings, allow_skips=config.allow_skips)
        for name in (*config.data, *config.valid)
    ]
    train, valid = parts if len(parts) > 1 else (parts[0], held_out(parts[0], config.train.seed))
    kept = set(map(id, valid))
    train = [pair for pair in train if id(pair) not in kept]
    if not valid:
        raise UserError(f"{config.data[0]} holds one pair only; give more, or others with `valid`")
    return train, valid


def read_pairs(
    path: Path, form: ChatFormat, context: int, report: list[Finding], *, allow_skips: bool = False
) -> list[Rows]:
    """The pairs of a file or folder as ids, of which only the last answer is trained.

    What is left out is reported. Raises UserError where there is none, or more than 1% cannot be used.
    """
    findings: list[Finding] = []
    pairs: list[Rows] = []
    for row in read_preferences(path, findings.append):
        chosen, rejected = (_last_trained(form.training_row(it)) for it in (row.chosen, row.rejected))
        longest = max(len(chosen.ids), len(rejected.ids))
        if chosen.ids == rejected.ids:
            findings.append(Finding("error", row.source, "chosen and rejected are the same tokens"))
        elif longest > context + 1:
            reason = f"an answer with its prompt takes {longest} tokens, and the context is {context}"
            findings.append(Finding("error", row.source, reason))
        else:
            pairs.append((chosen, rejected))
    errors = [finding for finding in findings if finding.level == "error"]
    num_rows = len(pairs) + len(errors)
    if not pairs or (len(errors) > SKIPPED * num_rows and not allow_skips):
        first = f"; the first, {errors[0].where}: {errors[0].message}" if errors else ""
        fix = "`allow_skips` goes on without them" if pairs else "give rows of prompt, chosen and rejected"
        raise UserError(f"{path}: {len(errors)} of {num_rows} rows cannot be used{first}; {fix}")
    report += findings
    return pairs


def _last_trained(row: ChatRow) -> ChatRow:
    """The row with only its last answer trained: both answers of a pair follow the same turns."""
    end = len(row.trained) - row.trained[::-1].index(True)
    start = end - [*row.trained[:end][::-1], False].index(False)
    return replace(row, trained=[learned and at >= start for at, learned in enumerate(row.trained)])
