"""The small parts of a Transformer: norms, positions, feed-forward networks.

Shape letters: B rows, T positions, H heads, C head width, D width, F feed-forward width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from malmoi.models.config import TransformerConfig

# Where tokens stand in their rows: a slice, the same in every row, or positions_BT.
Positions = slice | Tensor


def make_norm(config: TransformerConfig, width: int) -> nn.Module:
    """RMSNorm (Zhang & Sennrich 2019) or LayerNorm (Ba et al. 2016) over the last dimension."""
    if config.norm == "rms":
        return RMSNorm(width, eps=config.norm_eps)
    return nn.LayerNorm(width, eps=config.norm_eps, bias=config.bias)


class RMSNorm(nn.RMSNorm):
    """weight x / sqrt(mean(x^2) + eps); PyTorch has no fused kernel on processors, so ours trains there."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and torch.is_grad_enabled():
            normed = RootMeanSquare.apply(x, self.weight, self.eps)
            assert isinstance(normed, Tensor)
            return normed
        return super().forward(x)


class RootMeanSquare(torch.autograd.Function):
    """RMSNorm with its gradient written out, in half of the passes over memory."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        norm_N1 = torch.linalg.vector_norm(x_ND, dim=-1, keepdim=True, dtype=torch.float32)
        scale_N1 = norm_N1.square_().div_(x_ND.shape[-1]).add_(eps).rsqrt_()
        unit_ND = x_ND * scale_N1.to(x_ND.dtype)
        ctx.save_for_backward(unit_ND, scale_N1, weight_D)
        return unit_ND * weight_D.to(x_ND.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None]:
        unit_ND, scale_N1, weight_D = ctx.saved_tensors
        dy_ND = grad_outputs[0]
        dweight_D = (dy_ND * unit_ND).flatten(0, -2).sum(0, dtype=weight_D.dtype)
        dunit_ND = dy_ND * weight_D.to(dy_ND.dtype)
        along_N1 = torch.linalg.vecdot(dunit_ND, unit_ND).unsqueeze(-1).div_(unit_ND.shape[-1])
        return dunit_ND.addcmul_(unit_ND, along_N1, value=-1).mul_(scale_N1.to(dy_ND.dtype)), dweight_D, None


class Rotary(nn.Module):
    """Rotary positions (Su et al. 2021): each pair of numbers is turned by an angle that grows with position.

    Pairs are (i, i + C/2), as in Llama's Hugging Face layout.
    """

    def __init__(self, head_width: int, theta: float, positions: int) -> None:
        super().__init__()
        self.head_width, self.theta = head_width, theta
        self.register_buffer("cos_TC", torch.empty(0), persistent=False)
        self.register_buffer("sin_TC", torch.empty(0), persistent=False)
        self.reserve(positions, torch.device("cpu"))

    @torch.inference_mode(False)  # tables grown while generating must serve training afterwards
    def reserve(self, positions: int, device: torch.device) -> None:
        """Make the tables long enough for `positions`."""
        exponents = torch.arange(0, self.head_width, 2, dtype=torch.float32) / self.head_width
        angles_TC = torch.outer(torch.arange(positions, dtype=torch.float32), self.theta**-exponents).repeat(
            1, 2
        )
        self.cos_TC, sin_TC = angles_TC.cos().to(device), angles_TC.sin()
        # the sign of the half-turn is kept in the table, which saves a negation in every layer
        sin_TC[:, : self.head_width // 2] *= -1
        self.sin_TC = sin_TC.to(device)

    def tables(self, positions: Positions, length: int) -> tuple[Tensor, Tensor]:
        """cos and sin for positions, all below `length`: shapes broadcast against x_BTHC."""
        if length > len(self.cos_TC):
            self.reserve(2 * length, self.cos_TC.device)
        return self.cos_TC[positions].unsqueeze(-2), self.sin_TC[positions].unsqueeze(-2)


def rotate(x_BTHC: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each head's vector by its position's angles, in x's precision."""
    turned = Rotation.apply(x_BTHC, *(table.to(x_BTHC.dtype) for table in tables))
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

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.width, 2 * config.size_of_ff, bias=config.bias)
        self.down = nn.Linear(config.size_of_ff, config.width, bias=config.bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        gate_BTF, up_BTF = self.gate_up(x_BTD).chunk(2, dim=-1)
        return self.down(functional.silu(gate_BTF) * up_BTF)


class GELU(nn.Module):
    """down(gelu(up(x))) with the tanh approximation (Hendrycks & Gimpel 2016), as in GPT-2."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, config.size_of_ff, bias=config.bias)
        self.down = nn.Linear(config.size_of_ff, config.width, bias=config.bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(functional.gelu(self.up(x_BTD), approximate="tanh"))


def make_feed_forward(config: TransformerConfig) -> nn.Module:
    """The feed-forward part that the configuration names: x_BTD -> x_BTD."""
    return SwiGLU(config) if config.feed_forward == "swiglu" else GELU(config)
