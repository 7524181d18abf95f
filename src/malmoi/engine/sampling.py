"""From logits to tokens: bias and penalties, then temperature, top-k, top-p, min-p as Hugging Face, a draw.

Everything is a function of the row alone, so neighbours in a batch never change a sample: filters compare
with a threshold of the row (equal logits are kept or dropped together), and the draw goes through the
vocabulary in its order.

Shape letters: B rows, R some of the rows, V vocabulary, A ids that are allowed, K best tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from malmoi.core.errors import UserError
from malmoi.engine.constraints import Matcher
from malmoi.engine.request import Sampling, TopLogprobs

CACHED_NUMBERS = 1 << 18  # that are worked on at once


def check_finite(logprobs: Tensor) -> None:
    """Raises UserError for a NaN, which a row is all of where one of its logits was NaN or infinity."""
    if bool(logprobs.isnan().any()):
        raise UserError(
            "the model computes numbers that are not finite (NaN or infinity), so nothing can be chosen by "
            "them: its weights are damaged, or overflow in this dtype; check them, or use dtype fp32"
        )


def sample(
    logits_BV: Tensor,
    params: Sequence[Sampling],
    histories: Sequence[Sequence[int]],
    prompt_lengths: Sequence[int],
    uniforms: Sequence[float],
) -> list[int]:
    """One token for each row.

    histories: prompt and generated ids, for the penalties. uniforms: a number in [0, 1) per row.
    """
    logits_BV, ids = biased(logits_BV, params, histories, prompt_lengths), []
    rows = [b for b, p in enumerate(params) if p.temperature > 0]
    if len(rows) < len(params):
        ids = best(logits_BV)
    if len(rows) in (0, len(params)):
        return ids or draw(filtered(logits_BV, params), uniforms).tolist()
    filtered_RV = filtered(logits_BV[rows], [params[b] for b in rows])
    for b, id in zip(rows, draw(filtered_RV, [uniforms[b] for b in rows]).tolist(), strict=True):
        ids[b] = id
    return ids


def best(logits_BV: Tensor) -> list[int]:
    """The id of each row's largest logit. On a processor NumPy finds it ten times as fast as PyTorch."""
    if logits_BV.device.type == "cpu":
        return logits_BV.numpy().argmax(-1).tolist()
    return logits_BV.argmax(-1).tolist()


def best_allowed(logits_V: Tensor, matcher: Matcher) -> int | None:
    """The id with the largest logit of those that the matcher allows; None where nothing can be said.

    Only their logits are looked at, and nothing of the vocabulary's size is written.
    """
    ids_A = torch.from_numpy(np.flatnonzero(matcher.mask()[: len(logits_V)].numpy())).to(logits_V.device)
    logits_A = logits_V[ids_A]
    (at,) = best(logits_A[None]) if len(ids_A) else (0,)
    return int(ids_A[at]) if len(ids_A) and logits_A[at] > float("-inf") else None


def logprobs_of(
    logits_BV: Tensor, ids: Sequence[int], params: Sequence[Sampling]
) -> tuple[list[float], list[TopLogprobs]]:
    """The log-probability of each row's id, and its best ones as `top_logprobs`.

    A few rows at a time, which stay in the processor's cache: with a large vocabulary, to write a copy of all
    takes longer than to choose.
    """
    found: list[float] = []
    tops: list[TopLogprobs] = []
    for part_RV in logits_BV.split(max(1, CACHED_NUMBERS // logits_BV.shape[1])):
        rows = slice(len(found), len(found) + len(part_RV))
        logprobs_RV = part_RV.log_softmax(dim=-1)
        found += logprobs_RV[torch.arange(len(part_RV)), ids[rows]].tolist()
        tops += top_logprobs(logprobs_RV, params[rows])
    return found, tops


def biased(
    logits_BV: Tensor,
    params: Sequence[Sampling],
    histories: Sequence[Sequence[int]],
    prompt_lengths: Sequence[int],
) -> Tensor:
    """The logits after the bias and the penalties of each row."""
    rows = [b for b, p in enumerate(params) if p.changes_logits]
    if not rows:
        return logits_BV
    logits_BV = logits_BV.clone()
    for b in rows:
        ids, biases = (torch.from_numpy(it).to(logits_BV.device) for it in params[b].biases)
        logits_BV[b, ids] += biases.to(logits_BV.dtype)
        _penalise(logits_BV[b], params[b], histories[b], prompt_lengths[b])
    return logits_BV


def _penalise(logits_V: Tensor, params: Sampling, history: Sequence[int], prompt_length: int) -> None:
    """CTRL's penalty for all tokens seen (positive logits divided, negative multiplied), OpenAI's for sampled
    ones, in place."""
    if params.repetition_penalty != 1:
        seen = torch.tensor(sorted(set(history)), device=logits_V.device)
        logits, penalty, most = logits_V[seen], params.repetition_penalty, torch.finfo(logits_V.dtype).max
        changed = torch.where(logits > 0, logits / penalty, logits * penalty)
        logits_V[seen] = changed.clamp(-most, most).where(logits.isfinite(), logits)
    if params.presence_penalty or params.frequency_penalty:
        sampled = torch.tensor(history[prompt_length:], dtype=torch.int64, device=logits_V.device)
        ids, counts = sampled.unique(return_counts=True)
        logits_V[ids] -= params.presence_penalty + params.frequency_penalty * counts


def filtered(logits_BV: Tensor, params: Sequence[Sampling]) -> Tensor:
    """Logits (the best is 0) after temperature, with -inf for what top-k, top-p and min-p drop."""
    temperatures = torch.tensor([p.temperature or 1.0 for p in params], dtype=torch.float64)
    # the best goes to 0 first, so that a tiny temperature cannot overflow
    logits_BV = (logits_BV - logits_BV.amax(dim=-1, keepdim=True)).double()
    logits_BV = logits_BV / temperatures.to(logits_BV.device)[:, None]
    vocab_size = logits_BV.shape[1]
    for threshold, rows in (
        (_top_k, [b for b, p in enumerate(params) if 0 < p.top_k < vocab_size]),
        (_top_p, [b for b, p in enumerate(params) if p.top_p < 1]),
        (_min_p, [b for b, p in enumerate(params) if p.min_p > 0]),
    ):
        if rows:
            kept_RV = logits_BV[rows]
            least_R1 = threshold(kept_RV, [params[b] for b in rows])
            logits_BV[rows] = kept_RV.masked_fill(kept_RV < least_R1, -math.inf)
    return logits_BV


def _top_k(logits_RV: Tensor, params: Sequence[Sampling]) -> Tensor:
    """The k-th largest logit."""
    ks_R = torch.tensor([p.top_k for p in params], device=logits_RV.device)
    best_RK = logits_RV.topk(int(ks_R.max()), dim=-1).values
    return best_RK.gather(1, ks_R[:, None] - 1)


def _top_p(logits_RV: Tensor, params: Sequence[Sampling]) -> Tensor:
    """The smallest logit of the smallest set of best tokens that holds probability p."""
    ps_R1 = torch.tensor([[p.top_p] for p in params], dtype=torch.float64, device=logits_RV.device)
    sorted_RV = logits_RV.sort(dim=-1, descending=True).values
    probs_RV = sorted_RV.softmax(dim=-1)
    before_RV = probs_RV.cumsum(dim=-1) - probs_RV
    count_R1 = (before_RV < ps_R1).sum(dim=-1, keepdim=True)
    return sorted_RV.gather(1, count_R1 - 1)


def _min_p(logits_RV: Tensor, params: Sequence[Sampling]) -> Tensor:
    """The logit that is min_p times as probable as the best."""
    ratios = torch.tensor([[p.min_p] for p in params], dtype=torch.float64, device=logits_RV.device)
    return logits_RV.amax(dim=-1, keepdim=True) + ratios.log()


def draw(logits_BV: Tensor, uniforms: Sequence[float]) -> Tensor:
    """Inverse-transform sampling: the first token whose cumulative probability exceeds the uniform number."""
    cumulative_BV = logits_BV.softmax(dim=-1).cumsum(dim=-1)
    total_B1 = cumulative_BV[:, -1:].contiguous()
    targets_B1 = total_B1 * torch.tensor(uniforms, dtype=torch.float64, device=logits_BV.device)[:, None]
    chosen_B1 = torch.searchsorted(cumulative_BV, targets_B1, right=True)
    last_B1 = torch.searchsorted(cumulative_BV, total_B1)  # rounding must not pick what has no probability
    return chosen_B1.minimum(last_B1).squeeze(1)


def top_logprobs(logprobs_BV: Tensor, params: Sequence[Sampling]) -> list[TopLogprobs]:
    """The best params[b].logprobs (id, logprob) pairs of each row."""
    most = min(max(p.logprobs for p in params), logprobs_BV.shape[1])
    if most == 0:
        return [() for _ in params]
    values, ids = logprobs_BV.topk(most, dim=-1)
    pairs = [tuple(zip(*row, strict=True)) for row in zip(ids.tolist(), values.tolist(), strict=True)]
    return [row[: p.logprobs] for row, p in zip(pairs, params, strict=True)]
