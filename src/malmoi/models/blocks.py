"""The small parts of a Transformer: norms, positions, feed-forward networks.

Shape letters: B rows, T positions, H heads, C head width, D width, F feed-forward width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from malmoi.models.config import TransformerConfig

# Where tokens stand in their rows: a slice, the same in every row, or positions_BT.
Positions = slice | Tensor


def make_norm(config: TransformerConfig, width: int) -> nn.Module:
    """RMSNorm (Zhang & Sennrich 2019) or LayerNorm (Ba et al. 2016) over the last dimension."""
    if config.norm == "rms":
        return nn.RMSNorm(width, eps=config.norm_eps)
    return nn.LayerNorm(width, eps=config.norm_eps, bias=config.bias)


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
    """Turn each head's vector by its position's angles; computed in fp32, returned in x's dtype."""
    cos, sin = tables
    first, second = x_BTHC.chunk(2, dim=-1)
    return (x_BTHC * cos + torch.cat((second, first), dim=-1) * sin).to(x_BTHC.dtype)


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
