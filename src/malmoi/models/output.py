"""Outputs over a vocabulary: targets' log-probabilities without fp32 logits being held, and copying.

Shape letters: B rows, T positions, S source positions, N some positions of all rows, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from malmoi.models.attention import Memory
from malmoi.models.language import capped

_TINY = torch.finfo(torch.float32).tiny
_CHUNK_NUMBERS = 1 << 22  # fp32 probabilities at once: 16 MiB, near a processor's cache


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
