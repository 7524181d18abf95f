"""Outputs over a vocabulary: targets' log-probabilities without fp32 logits being held, and copying.

Shape letters: B rows, T positions, S source positions, N some positions of all rows, D width, V vocabulary;
M positions at once, C rows of the vocabulary at once, H targets among these, K rows that learn.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from malmoi.models.attention import Memory
from malmoi.models.frozen import FrozenLinear, computing_dtype
from malmoi.models.language import capped

_TINY = torch.finfo(torch.float32).tiny
_CHUNK_NUMBERS = 1 << 22  # fp32 probabilities at once: 16 MiB, near a processor's cache
_ROWS, _LEAST_ROWS = 2048, 1024  # positions, and rows of a matrix, whose product is taken at once


class TargetLogProbability(torch.autograd.Function):
    """log softmax(capped(x_n W^T))[target_n]; only the probabilities are kept, in the precision of x."""

    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, softcap: float | None = None
    ) -> Tensor:
        multiplied_VD = weight_VD.to(x_ND.dtype)
        keep = any(ctx.needs_input_grad)
        p_NV = x_ND.new_empty(len(x_ND) if keep else 0, len(weight_VD))
        logp_N = x_ND.new_empty(len(x_ND), dtype=torch.float32)
        rows = max(64, _CHUNK_NUMBERS // len(weight_VD))
        for start in range(0, len(x_ND), rows):
            part = slice(start, start + rows)
            logits_CV = capped(torch.matmul(x_ND[part], multiplied_VD.T), softcap)
            exact_CV = logits_CV.softmax(1, dtype=torch.float32)
            logp_N[part] = exact_CV.gather(1, targets_N[part, None])[:, 0].clamp(min=_TINY).log()
            if keep:
                p_NV[part] = exact_CV
        ctx.softcap = softcap
        ctx.save_for_backward(x_ND, weight_VD, targets_N, p_NV)
        return logp_N

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        x_ND, weight_VD, targets_N, p_NV = ctx.saved_tensors
        grad_N1 = grad_outputs[0].to(x_ND.dtype)[:, None]
        grad_NV = (p_NV * -grad_N1).scatter_add_(1, targets_N[:, None], grad_N1)
        if ctx.softcap is not None:  # what the cap let through, from the logits once more
            logits_NV = torch.matmul(x_ND, weight_VD.T.to(x_ND.dtype))
            grad_NV.mul_(1 - torch.tanh(logits_NV / ctx.softcap).square_())
        grad_VD = (grad_NV.T @ x_ND).to(weight_VD.dtype) if ctx.needs_input_grad[1] else None
        return grad_NV @ weight_VD.to(x_ND.dtype), grad_VD, None, None


class FrozenLogProbability(torch.autograd.Function):
    """The same by a matrix that does not learn, a few of its rows at a time: logits_NV are never held.

    rows_KD: those of its rows that do learn, for their gradients.
    """

    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, rows_KD: Tensor | None, head: FrozenLinear, targets_N: Tensor,
        softcap: float | None,
    ) -> Tensor:  # fmt: skip
        wants_x, wants_rows = ctx.needs_input_grad[:2]
        logp_N, log_z_N = x_ND.new_empty(2, len(x_ND), dtype=torch.float32)
        grad_ND = torch.empty_like(x_ND) if wants_x else None
        rows = -(-len(x_ND) // max(1, -(-len(x_ND) // _ROWS)))  # parts of one size
        for start in range(0, len(x_ND), rows or 1):
            part = slice(start, start + rows)
            found = _log_probability(x_ND[part], head, targets_N[part], softcap, wants_x=wants_x)
            logp_N[part], log_z_N[part] = found[:2]
            if grad_ND is not None:
                grad_ND[part] = found[2]
        grad_NK = None
        if wants_rows:
            assert rows_KD is not None
            assert head.learned is not None
            logits_NK = capped(x_ND @ rows_KD.to(x_ND.dtype).T, softcap).float()
            p_NK = (logits_NK - log_z_N[:, None]).exp_()
            is_NK = targets_N[:, None] == torch.tensor(head.learned.ids, device=x_ND.device)
            grad_NK = (is_NK.float() - p_NK) * _let_through(logits_NK, softcap)
        ctx.save_for_backward(x_ND if wants_rows else None, grad_ND, grad_NK)
        return logp_N

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        x_ND, grad_ND, grad_NK = ctx.saved_tensors
        grad_N1 = grad_outputs[0][:, None]
        dx_ND = None if grad_ND is None else grad_ND * grad_N1.to(grad_ND.dtype)
        drows_KD = None if grad_NK is None else (grad_NK * grad_N1).T @ x_ND.float()
        return dx_ND, drows_KD, None, None, None


def _log_probability(
    x_MD: Tensor, head: FrozenLinear, targets_M: Tensor, softcap: float | None, *, wants_x: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """log p of the targets, log of the sum of all, and the gradient of x: w_target - sum_v p_v w_v.

    The largest logit and the sums run along, as in FlashAttention (Dao et al. 2022): one pass is enough.
    """
    most_M1 = x_MD.new_full((len(x_MD), 1), float("-inf"), dtype=torch.float32)
    z_M1, sum_MD = torch.zeros_like(most_M1), torch.zeros_like(x_MD, dtype=torch.float32)
    said_M1, target_MD = torch.zeros_like(most_M1), torch.zeros_like(sum_MD)
    step = max(_LEAST_ROWS, _CHUNK_NUMBERS // 4 // len(x_MD))
    for start in range(0, head.out_features, step):
        rows_CD = head.matrix(x_MD.dtype, slice(start, min(start + step, head.out_features)))
        logits_MC = capped(x_MD @ rows_CD.T, softcap)
        new_M1 = torch.maximum(most_M1, logits_MC.amax(1, keepdim=True).float())
        less_M1, e_MC = (most_M1 - new_M1).exp_(), (logits_MC - new_M1).exp_()
        most_M1, z_M1 = new_M1, z_M1.mul_(less_M1).add_(e_MC.sum(1, keepdim=True))
        here_H = ((targets_M >= start) & (targets_M < start + len(rows_CD))).nonzero()[:, 0]
        at_H = targets_M[here_H] - start
        said_M1[here_H, 0] = logits_MC[here_H, at_H].float()
        if wants_x:
            if softcap is not None:
                e_MC *= _let_through(logits_MC, softcap)
            sum_MD.mul_(less_M1).add_(e_MC.to(x_MD.dtype) @ rows_CD)
            target_MD[here_H] = rows_CD[at_H].float()
    log_z_M1 = most_M1 + z_M1.log()
    grad_MD = (target_MD * _let_through(said_M1, softcap)).sub_(sum_MD.div_(z_M1))
    return (said_M1 - log_z_M1)[:, 0], log_z_M1[:, 0], grad_MD


def _let_through(logits: Tensor, softcap: float | None) -> Tensor | float:
    """The derivative of capped logits by what they were before."""
    return 1.0 if softcap is None else 1 - (logits / softcap).square_()


def head_log_probabilities(
    head: nn.Linear, x_ND: Tensor, targets_N: Tensor, softcap: float | None = None
) -> Tensor:
    """fp32 log-probability (nats) of each target under a model's output, its logits capped."""
    if not isinstance(head, FrozenLinear):
        return target_log_probabilities(x_ND, head.weight, targets_N, softcap)
    rows_KD, x_ND = head.learned and head.learned.rows_KD, x_ND.to(computing_dtype(x_ND))
    with torch.autocast(x_ND.device.type, enabled=False):
        logp_N = FrozenLogProbability.apply(x_ND, rows_KD, head, targets_N, softcap)
    assert isinstance(logp_N, Tensor)
    return logp_N


def target_log_probabilities(
    x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, softcap: float | None = None
) -> Tensor:
    """fp32 log-probability (nats) of each target under softmax(x W^T), its logits capped."""
    kind = x_ND.device.type
    if not torch.is_grad_enabled():
        weight_VD = weight_VD.detach()
    if torch.is_autocast_enabled(kind):
        x_ND = x_ND.to(torch.get_autocast_dtype(kind))
    with torch.autocast(kind, enabled=False):
        logp_N = TargetLogProbability.apply(x_ND, weight_VD, targets_N, softcap)
    assert isinstance(logp_N, Tensor)
    return logp_N


def mean_log_probabilities(x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, logp_N: Tensor) -> Tensor:
    """The mean of log softmax(x W^T) over the whole vocabulary, from that of the targets.

    log p_v = x w_v - log Z, so the mean differs from a target's by x (mean w - w_target): no logits needed.
    """
    away_ND = weight_VD.mean(0) - functional.embedding(targets_N, weight_VD)
    return logp_N + (x_ND.float() * away_ND).sum(-1)


class Copier(nn.Module):
    """A pointer-generator (See et al. 2017): p = g softmax(vocabulary) + (1 - g) attention on source ids.

    Source and target share a vocabulary, so that every source id can be said.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(width, 1)
        nn.init.constant_(self.gate.bias, 1.0)  # first learn to speak, then what to copy

    def shares(self, x_BTD: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Both in fp32: log g and log (1 - g), as log_gates_2BT; the attention a_BTS on the source."""
        keys_BSD = memory.encoded_BSD.to(x_BTD.dtype)
        scores_BTS = torch.matmul(self.query(x_BTD), keys_BSD.mT).float() * x_BTD.shape[-1] ** -0.5
        a_BTS = scores_BTS.masked_fill(~memory.mask_BS[:, None], float("-inf")).softmax(-1)
        gate_BT = self.gate(x_BTD).float()[..., 0]
        return functional.logsigmoid(torch.stack((gate_BT, -gate_BT))), a_BTS

    def target_log_probabilities(
        self, x_BTD: Tensor, memory: Memory, targets_BT: Tensor, logp_BT: Tensor
    ) -> Tensor:
        """log p_BT of the targets, given logp_BT under the vocabulary's softmax. Nothing is scattered."""
        log_gates_2BT, a_BTS = self.shares(x_BTD, memory)
        copied_BT = (a_BTS * (memory.ids_BS[:, None] == targets_BT[..., None])).sum(-1)
        said_BT = log_gates_2BT[0] + logp_BT
        return torch.logaddexp(said_BT, log_gates_2BT[1] + copied_BT.clamp(min=_TINY).log())

    def log_probabilities(self, x_BTD: Tensor, memory: Memory, logits_BTV: Tensor) -> Tensor:
        """log p_BTV of the whole vocabulary."""
        log_gates_2BT, a_BTS = self.shares(x_BTD, memory)
        ids_BTS = memory.ids_BS[:, None].expand(a_BTS.shape)
        copied_BTV = torch.zeros_like(logits_BTV).scatter_add_(2, ids_BTS, a_BTS)
        said_BTV = log_gates_2BT[0, ..., None] + logits_BTV.log_softmax(-1)
        return torch.logaddexp(said_BTV, log_gates_2BT[1, ..., None] + copied_BTV.clamp(min=_TINY).log())
