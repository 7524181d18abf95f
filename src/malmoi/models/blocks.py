"""The small parts of a Transformer: norms, rotation by positions, feed-forward networks.

Shape letters: B rows, T positions, H heads, C head width, D width, F feed-forward width.
"""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from malmoi.models.config import TransformerConfig
from malmoi.models.native import fused

# Where tokens stand in their rows: a slice, the same in every row, or positions_BT.
Positions = slice | Tensor


def make_norm(config: TransformerConfig, width: int) -> nn.Module:
    """RMSNorm (Zhang & Sennrich 2019) or LayerNorm (Ba et al. 2016) over the last dimension."""
    if config.norm == "rms":
        return (OffsetRMSNorm if config.norm_offset else RMSNorm)(width, eps=config.norm_eps)
    return nn.LayerNorm(width, eps=config.norm_eps, bias=config.has_bias("norm"))


class RMSNorm(nn.RMSNorm):
    """weight x / sqrt(mean(x^2) + eps); PyTorch has no fused kernel on processors, so ours trains there."""

    @property
    def factors(self) -> Tensor:
        """What a vector of length sqrt(D) is multiplied by, factors_D."""
        return self.weight

    @property
    def epsilon(self) -> float:
        """What keeps a vector of zeros from a division by zero."""
        return torch.finfo(self.weight.dtype).eps if self.eps is None else self.eps

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu":
            return root_mean_square(x, self.factors, self.epsilon)
        return super().forward(x)


class OffsetRMSNorm(RMSNorm):
    """RMSNorm by 1 + weight, in fp32: Gemma's, whose weights near zero keep their digits in bf16."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)

    @property
    def factors(self) -> Tensor:
        return 1 + self.weight.float()

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu":
            return root_mean_square(x, self.factors, self.epsilon)
        normed = functional.rms_norm(x.float(), self.normalized_shape, eps=self.eps)
        return (normed * self.factors).type_as(x)


def root_mean_square(x_ND: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """RMSNorm in few operations, for processors."""
    if fused.has_kernels(x_ND):
        return fused.norm(x_ND, weight_D, eps)
    if not torch.is_grad_enabled():
        return _unit(x_ND, eps)[0] * weight_D.to(x_ND.dtype)
    normed = RootMeanSquare.apply(x_ND, weight_D, eps)
    assert isinstance(normed, Tensor)
    return normed


def _unit(x_ND: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """unit_ND = x / sqrt(mean(x^2) + eps), and what x was multiplied by, scale_N1 in fp32."""
    norm_N1 = torch.linalg.vector_norm(x_ND, dim=-1, keepdim=True, dtype=torch.float32)
    scale_N1 = torch.addcmul(constant(eps), norm_N1, norm_N1, value=1 / x_ND.shape[-1]).rsqrt_()
    return x_ND * scale_N1.to(x_ND.dtype), scale_N1


@cache
@torch.inference_mode(False)  # or it could not serve training
def constant(value: float) -> Tensor:
    """A number as a tensor, for processors: an operation with a plain one spends as long on making it."""
    return torch.tensor(value)


class RootMeanSquare(torch.autograd.Function):
    """RMSNorm with its gradient written out, in half of the passes over memory."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        unit_ND, scale_N1 = _unit(x_ND, eps)
        ctx.save_for_backward(unit_ND, scale_N1, weight_D)
        return unit_ND * weight_D.to(x_ND.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor | None, None]:
        unit_ND, scale_N1, weight_D = ctx.saved_tensors
        dy_ND, dweight_D = grad_outputs[0], None
        if ctx.needs_input_grad[1]:  # a frozen norm costs nothing
            dweight_D = (dy_ND * unit_ND).flatten(0, -2).sum(0, dtype=weight_D.dtype)
        dunit_ND = dy_ND * weight_D.to(dy_ND.dtype)
        along_N1 = torch.linalg.vecdot(dunit_ND, unit_ND).unsqueeze(-1).div_(unit_ND.shape[-1])
        return dunit_ND.addcmul_(unit_ND, along_N1, value=-1).mul_(scale_N1.to(dy_ND.dtype)), dweight_D, None


def rotate(x_BTHC: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each head's vector by its position's angles, in x's precision."""
    cos, sin = (table.to(x_BTHC.dtype) for table in tables)
    if not torch.is_grad_enabled():
        return _turned(x_BTHC, cos, sin)
    turned = Rotation.apply(x_BTHC, cos, sin)
    assert isinstance(turned, Tensor)
    return turned


class Rotation(torch.autograd.Function):
    """Its gradient is the rotation back."""

    @staticmethod
    def forward(ctx: Any, x_BTHC: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x_BTHC, cos, sin)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(grad_outputs[0], cos, -sin), None, None


def _turned(x_BTHC: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x cos + (second half, first half) sin, without making the exchanged vector."""
    (first, second), (sin_first, sin_second) = x_BTHC.chunk(2, dim=-1), sin.chunk(2, dim=-1)
    out_BTHC = x_BTHC * cos
    out_first, out_second = out_BTHC.chunk(2, dim=-1)
    out_first.addcmul_(second, sin_first)
    out_second.addcmul_(first, sin_second)
    return out_BTHC


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer 2020); gate and up are one matrix product."""

    activation: ClassVar[fused.Activation] = "silu"

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.width, 2 * config.size_of_ff, bias=config.has_bias("ff"))
        self.down = nn.Linear(config.size_of_ff, config.width, bias=config.has_bias("ff"))

    def forward(self, x_BTD: Tensor) -> Tensor:
        gates_BTJ = self.gate_up(x_BTD)
        if fused.has_kernels(gates_BTJ):
            return self.down(fused.gate(gates_BTJ, self.activation))
        gate_BTF, up_BTF = gates_BTJ.chunk(2, dim=-1)
        return self.down(self.activated(gate_BTF) * up_BTF)

    def activated(self, gate_BTF: Tensor) -> Tensor:
        """What multiplies the other half."""
        return functional.silu(gate_BTF)


class GEGLU(SwiGLU):
    """down(gelu(gate(x)) * up(x)) (Shazeer 2020) with the tanh approximation, as in Gemma."""

    activation = "gelu"

    def activated(self, gate_BTF: Tensor) -> Tensor:
        return functional.gelu(gate_BTF, approximate="tanh")


class GELU(nn.Module):
    """down(gelu(up(x))) with the tanh approximation (Hendrycks & Gimpel 2016), as in GPT-2."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, config.size_of_ff, bias=config.has_bias("ff"))
        self.down = nn.Linear(config.size_of_ff, config.width, bias=config.has_bias("ff"))

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(functional.gelu(self.up(x_BTD), approximate="tanh"))


def make_feed_forward(config: TransformerConfig) -> nn.Module:
    """The feed-forward part that the configuration names: x_BTD -> x_BTD."""
    return {"swiglu": SwiGLU, "geglu": GEGLU, "gelu": GELU}[config.feed_forward](config)
