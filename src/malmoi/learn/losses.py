"""Next-token cross-entropy, as a sum and a count.

Shape letters: B rows, T positions, N = B T, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from malmoi.core.tensors import IGNORE, Loss, TokenBatch
from malmoi.models.frozen import FrozenLinear
from malmoi.models.language import LanguageModel, capped
from malmoi.models.native import fused
from malmoi.models.output import head_log_probabilities
from malmoi.models.state import State

_TINY = torch.finfo(torch.float32).tiny
_CHUNK_BYTES = (32 << 20, 512 << 20)  # logits of one chunk, on a processor (near its cache) and on a GPU


class LinearCrossEntropy(torch.autograd.Function):
    """sum_n -log softmax(capped(x_n W^T))[target_n], without ever holding logits_NV.

    The gradient is made chunk by chunk during the forward pass, where the logits are still at hand, so one
    set of logits is computed (recomputing would need two) and memory is one chunk plus the gradients.
    """

    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, softcap: float | None = None
    ) -> Tensor:
        wants_x, wants_weight = ctx.needs_input_grad[:2]  # a frozen matrix costs nothing
        grad_x_ND = torch.empty_like(x_ND) if wants_x else None
        grad_weight_VD = torch.zeros_like(weight_VD) if wants_weight else None
        total = x_ND.new_zeros((), dtype=torch.float32)
        rows = max(64, _CHUNK_BYTES[x_ND.device.type == "cuda"] // (4 * len(weight_VD)))
        multiplied_VD = weight_VD.to(x_ND.dtype)
        for start in range(0, len(x_ND), rows):
            part = slice(start, start + rows)
            total += _chunk(
                x_ND[part], multiplied_VD, targets_N[part], grad_x_ND, grad_weight_VD, start, softcap
            )
        ctx.save_for_backward(grad_x_ND, grad_weight_VD)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        grads: tuple[Tensor | None, Tensor | None] = ctx.saved_tensors
        scale = grad_outputs[0]
        if scale.item() == 1:  # the usual case: the trainer divides by the count later
            return *grads, None, None
        grad_x_ND, grad_weight_VD = (None if g is None else g * scale.to(g.dtype) for g in grads)
        return grad_x_ND, grad_weight_VD, None, None


def _chunk(
    x_CD: Tensor,
    weight_VD: Tensor,
    targets_C: Tensor,
    grad_x_ND: Tensor | None,
    grad_weight_VD: Tensor | None,
    start: int,
    softcap: float | None,
) -> Tensor:
    """The loss of rows start..start+C; their gradients are written (x) and added (weight)."""
    logits_CV = torch.matmul(x_CD, weight_VD.T)
    if fused.has_kernels(logits_CV):
        loss, grad_CV = fused.cross_entropy(logits_CV, targets_C, softcap).sum(), logits_CV
    else:
        loss, grad_CV = _cross_entropy(capped(logits_CV, softcap), targets_C, softcap)
    if grad_x_ND is not None:
        torch.matmul(grad_CV, weight_VD, out=grad_x_ND[start : start + len(x_CD)])
    if grad_weight_VD is not None and grad_weight_VD.dtype == x_CD.dtype:
        grad_weight_VD.addmm_(grad_CV.T, x_CD)
    elif grad_weight_VD is not None:  # bf16 products are summed in fp32, where small ones do not get lost
        grad_weight_VD.add_(grad_CV.T @ x_CD)
    return loss


def _cross_entropy(logits_CV: Tensor, targets_C: Tensor, softcap: float | None) -> tuple[Tensor, Tensor]:
    """The sum over rows of capped logits, and its gradient by what they were before, in their dtype."""
    p_CV = logits_CV.softmax(1, dtype=torch.float32)
    trained_C = targets_C != IGNORE
    safe_C1 = targets_C.where(trained_C, 0).unsqueeze(1)
    # from the probabilities, as accurate as from log_softmax but for a loss above 87, and much faster
    loss = -(p_CV.gather(1, safe_C1).clamp_min_(_TINY).log_().squeeze(1) * trained_C).sum()
    grad_CV = p_CV.scatter_add_(1, safe_C1, p_CV.new_full(safe_C1.shape, -1.0))
    grad_CV.mul_(trained_C.unsqueeze(1))
    if softcap is not None:
        grad_CV.mul_(1 - (logits_CV / softcap).square_())
    return loss, grad_CV.to(logits_CV.dtype)


def next_token_loss(model: LanguageModel, batch: TokenBatch, state: State | None = None) -> Loss:
    """Cross-entropy in nats of every target of the batch (see IGNORE); only their positions get logits."""
    assert batch.targets_BT is not None
    x_ND, targets_N = model.hidden(batch, state).flatten(0, 1), batch.targets_BT.flatten()
    trained_N = targets_N != IGNORE
    count = int(trained_N.sum())
    if count < len(targets_N):
        x_ND, targets_N = x_ND[trained_N], targets_N[trained_N]
    if isinstance(model.head, FrozenLinear):
        return Loss(-head_log_probabilities(model.head, x_ND, targets_N, model.softcap).sum(), count)
    weight_VD = model.head.weight if torch.is_grad_enabled() else model.head.weight.detach()
    if torch.is_autocast_enabled(x_ND.device.type):
        x_ND = x_ND.to(torch.get_autocast_dtype(x_ND.device.type))
    with torch.autocast(x_ND.device.type, enabled=False):
        total = LinearCrossEntropy.apply(x_ND, weight_VD, targets_N, model.softcap)
    assert isinstance(total, Tensor)
    return Loss(total, count)
