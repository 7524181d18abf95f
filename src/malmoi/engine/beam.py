"""Beam search over the rows of a state at once; with one beam, greedy decoding.

Shape letters: R rows still searched, K beams of a row, N = R K, T tokens so far, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from malmoi.engine.sampling import check_finite


class BeamRows(Protocol):
    """The part of a `State` that beams need."""

    def select(self, rows: Sequence[int]) -> Self:
        """See `malmoi.models.state:State`."""
        ...


class Stepper(Protocol):
    """The part of a `Scorer` that beams need: an encoder-decoder has it, too."""

    def step(self, ids_BT: Tensor, counts_B: Tensor, state: Any, *, last_only: bool = False) -> Tensor:
        """See `malmoi.models.state:Scorer`."""
        ...


@dataclass(slots=True)
class _Row:
    """What one row has finished: how many hypotheses, and the best of them."""

    number: int
    max_tokens: int
    count: int = 0
    score: float = float("-inf")
    ids: list[int] = field(default_factory=list)

    def finish(self, score: float, ids: list[int]) -> None:
        self.count += 1
        if score > self.score:
            self.score, self.ids = score, ids


@torch.inference_mode()
def beam_search(
    scorer: Stepper, state: BeamRows, first_id: int, end_id: int, beams: int, max_tokens: Sequence[int],
    length_penalty: float = 0.6, forbid: Sequence[int] = (), no_repeat: int = 0,
) -> list[list[int]]:  # fmt: skip
    """The best continuation of each row of `state`, which has read everything but `first_id`.

    A continuation has at most max_tokens[row] tokens, `end_id` (not returned) among them. Hypotheses are
    compared by log-probability / ((5 + length) / 6) ** length_penalty (Wu et al. 2016); a row is done when
    no open one can win or, after `beams` have finished, when none is winning. forbid: ids that are never
    said. no_repeat: no run of this many tokens occurs twice (0: they may).
    """
    search = _Search(end_id, beams, length_penalty)
    rows = [_Row(number, most) for number, most in enumerate(max_tokens)]
    open_rows = [row for row in rows if row.max_tokens > 0]
    state = state.select([row.number for row in open_rows])
    ids_RKT = torch.full((len(open_rows), 1, 1), first_id)
    logp_RK = torch.zeros(len(open_rows), 1)
    while open_rows:
        last_N1, ones_N = ids_RKT[..., -1].reshape(-1, 1), torch.ones(logp_RK.numel(), dtype=torch.int64)
        logits_NV = scorer.step(last_N1, ones_N, state, last_only=True)[:, 0].cpu()
        next_NV = logits_NV.float().log_softmax(-1)
        check_finite(next_NV[:, 0])
        next_NV[:, list(forbid)] = float("-inf")
        if no_repeat:
            _forbid_repeats(next_NV, ids_RKT.flatten(0, 1)[:, 1:], no_repeat)
        parents_RK, ids_RKT, logp_RK = search.advance(open_rows, ids_RKT, logp_RK, next_NV)
        kept = [r for r, row in enumerate(open_rows) if not search.is_done(row, logp_RK[r], ids_RKT[r])]
        open_rows, ids_RKT, logp_RK = [open_rows[r] for r in kept], ids_RKT[kept], logp_RK[kept]
        if open_rows:
            state = state.select(parents_RK[kept].flatten().tolist())
    return [row.ids for row in rows]


@dataclass(frozen=True, slots=True)
class _Search:
    """One search's constants and the arithmetic of a step."""

    end_id: int
    beams: int
    length_penalty: float

    def normalised(self, logp: float, length: int) -> float:
        """What hypotheses of different lengths are compared by."""
        return logp / ((5 + length) / 6) ** self.length_penalty

    def advance(
        self, rows: Sequence[_Row], ids_RKT: Tensor, logp_RK: Tensor, next_NV: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The open beams after one more token: parents_RK (numbers in 0..N-1), ids_RKT, logp_RK.

        Of the best 2 K continuations, those that end and are among the best K are finished; the best K of the
        others stay open.
        """
        (num_rows, beams), vocab_size = logp_RK.shape, next_NV.shape[1]
        every_RM = (logp_RK[..., None] + next_NV.view(num_rows, beams, -1)).flatten(1)
        logp_RM, index_RM = every_RM.topk(min(2 * self.beams, every_RM.shape[1]))
        ended_RM = index_RM % vocab_size == self.end_id
        length = ids_RKT.shape[2]  # of what was written, the new token included: the first id was given
        for r, m in (ended_RM & logp_RM.isfinite())[:, : self.beams].nonzero().tolist():
            ids = ids_RKT[r, index_RM[r, m] // vocab_size, 1:].tolist()
            rows[r].finish(self.normalised(float(logp_RM[r, m]), length), ids)
        open_RM = logp_RM.masked_fill(ended_RM, float("-inf"))
        logp_RK, chosen_RK = open_RM.topk(min(self.beams, open_RM.shape[1]))
        index_RK = index_RM.gather(1, chosen_RK)
        rows_R1 = torch.arange(num_rows)[:, None]
        before_RKT, new_RK = ids_RKT[rows_R1, index_RK // vocab_size], index_RK % vocab_size
        parents_RK = rows_R1 * beams + index_RK // vocab_size
        return parents_RK, torch.cat((before_RKT, new_RK[..., None]), dim=-1), logp_RK

    def is_done(self, row: _Row, logp_K: Tensor, ids_KT: Tensor) -> bool:
        """Whether the row's answer is settled. At its last token, what is open counts as finished."""
        best, length = float(logp_K[0]), ids_KT.shape[1] - 1
        if best == float("-inf"):
            return True
        if length < row.max_tokens:  # log-probabilities only fall, and no divisor is larger than the last
            to_beat = length if row.count >= self.beams else row.max_tokens
            return row.score >= self.normalised(best, to_beat)
        row.finish(self.normalised(best, length), ids_KT[0, 1:].tolist())
        return True


def _forbid_repeats(next_NV: Tensor, ids_NT: Tensor, size: int) -> None:
    """Make every token impossible that would complete a run of `size` tokens for the second time."""
    if ids_NT.shape[1] < size:
        return
    runs_NTW = ids_NT.unfold(1, size, 1)
    last_NW = ids_NT[:, ids_NT.shape[1] - size + 1 :]
    rows_M, places_M = (runs_NTW[..., :-1] == last_NW[:, None]).all(-1).nonzero(as_tuple=True)
    next_NV[rows_M, runs_NTW[rows_M, places_M, -1]] = float("-inf")
