"""Rotary positions (Su et al. 2021) and the ways to let them reach further.

The scalings and their names are those of the Hugging Face libraries.
Shape letters: T positions, C head width, F = C/2 frequencies.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from malmoi.core.errors import UserError
from malmoi.models.blocks import Positions
from malmoi.models.config import (
    DynamicRope,
    LinearRope,
    Llama3Rope,
    LongRope,
    RopeScaling,
    TransformerConfig,
    YarnRope,
)


class Rotary(nn.Module):
    """Each pair of numbers is turned by an angle that grows with position.

    Pairs are (i, i + C/2), as in Llama's Hugging Face layout. steady: in rows longer than this the angles
    depend on how long the longest row is (None: never).
    """

    def __init__(
        self, head_width: int, theta: float, positions: int, scaling: RopeScaling | None = None
    ) -> None:
        super().__init__()
        self.head_width, self.theta, self.scaling, self.context = head_width, theta, scaling, positions
        self.steady: int | None = None
        if isinstance(scaling, DynamicRope | LongRope):
            limit = (
                positions if isinstance(scaling, DynamicRope) else scaling.original_max_position_embeddings
            )
            self.steady = positions = min(positions, limit)
        self.register_buffer("cos_TC", torch.empty(0), persistent=False)
        self.register_buffer("sin_TC", torch.empty(0), persistent=False)
        # they grow when longer rows come: a context of 128,000 takes more memory than many a matrix
        self.reserve(min(positions, 4096), torch.device("cpu"))

    @classmethod
    def of(cls, config: TransformerConfig, *, in_window: bool = False) -> Rotary:
        """The rotation of layers with or without a window."""
        theta, scaling = config.rope_theta, config.rope
        if in_window and config.window_rope_theta is not None:
            theta, scaling = config.window_rope_theta, None
        return cls(config.size_of_head, theta, config.context, scaling)

    @torch.inference_mode(False)  # tables grown while generating must serve training afterwards
    def reserve(self, positions: int, device: torch.device) -> None:
        """Make the tables long enough for `positions`."""
        cos_TC, sin_TC = self._turns(torch.arange(positions, dtype=torch.float32), self.steady or positions)
        self.cos_TC, self.sin_TC = cos_TC.to(device), sin_TC.to(device)

    def tables(self, positions: Positions, length: int, reach: int | None = None) -> tuple[Tensor, Tensor]:
        """cos and sin for positions, all below `length`: shapes broadcast against x_BTHC.

        reach: where the longest row's real tokens end; None: at `length`. Raises UserError where positions
        differ between rows and the angles depend on the longest row.
        """
        reach = reach or length
        if self.steady is not None and reach > self.steady:
            return self._tables_of(positions, length, reach)
        if length > len(self.cos_TC):
            self.reserve(2 * length, self.cos_TC.device)
        return self.cos_TC[positions].unsqueeze(-2), self.sin_TC[positions].unsqueeze(-2)

    def _tables_of(self, positions: Positions, length: int, reach: int) -> tuple[Tensor, Tensor]:
        if not isinstance(positions, slice):
            assert self.scaling is not None
            raise UserError(
                f"beyond {self.steady} positions, rope_type {self.scaling.rope_type!r} turns by the longest "
                "row of a batch; give rows of one length, or one row at a time"
            )
        here_T = torch.arange(length, dtype=torch.float32)[positions]
        cos_TC, sin_TC = self._turns(here_T, reach)
        return cos_TC.to(self.cos_TC.device).unsqueeze(-2), sin_TC.to(self.cos_TC.device).unsqueeze(-2)

    def _turns(self, positions_T: Tensor, length: int) -> tuple[Tensor, Tensor]:
        frequencies_F, sharper = frequencies(self.head_width, self.theta, self.scaling, self.context, length)
        angles_TC = torch.outer(positions_T, frequencies_F).repeat(1, 2)
        cos_TC, sin_TC = angles_TC.cos() * sharper, angles_TC.sin() * sharper
        # the sign of the half-turn is kept in the table, which saves a negation in every layer
        sin_TC[:, : self.head_width // 2] *= -1
        return cos_TC, sin_TC


def frequencies(
    head_width: int, theta: float, scaling: RopeScaling | None, context: int, length: int
) -> tuple[Tensor, float]:
    """frequencies_F in radians per position, and what cos and sin are multiplied by.

    context: the positions that the model was made for. length: of the longest row, all that is known.
    """
    exponents_F = torch.arange(0, head_width, 2, dtype=torch.float32) / head_width
    plain_F = 1.0 / theta**exponents_F
    match scaling:
        case None:
            return plain_F, 1.0
        case LinearRope():
            return plain_F / scaling.factor, 1.0
        case DynamicRope():
            longer = scaling.factor * max(length, context) / context - (scaling.factor - 1)
            base = theta * longer ** (head_width / (head_width - 2)) if longer != 1 else theta
            return 1.0 / base**exponents_F, 1.0
        case Llama3Rope():
            return _llama3(plain_F, scaling), 1.0
        case YarnRope():
            return _yarn(theta**exponents_F, theta, scaling), _yarn_factor(scaling)
        case LongRope():
            is_long = length > scaling.original_max_position_embeddings
            divisors_F = torch.tensor(scaling.long_factor if is_long else scaling.short_factor)
            return 1.0 / (divisors_F * theta**exponents_F), _longrope_factor(scaling)


def _llama3(plain_F: Tensor, scaling: Llama3Rope) -> Tensor:
    old = scaling.original_max_position_embeddings
    turns_F = old / (2 * math.pi / plain_F)  # in the original context
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    ramp_F = (turns_F - low) / (high - low)
    between_F = (1 - ramp_F) * plain_F / scaling.factor + ramp_F * plain_F
    return torch.where(
        turns_F < low, plain_F / scaling.factor, torch.where(turns_F > high, plain_F, between_F)
    )


def _yarn(periods_F: Tensor, theta: float, scaling: YarnRope) -> Tensor:
    width = 2 * len(periods_F)

    def dimension(turns: float) -> float:
        """Where the frequency is that makes `turns` turns in the original context."""
        share = scaling.original_max_position_embeddings / (turns * 2 * math.pi)
        return width * math.log(share) / (2 * math.log(theta))

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    ramp_F = ((torch.arange(len(periods_F)) - low) / (high - low or 0.001)).clamp(0, 1)
    return ramp_F / (scaling.factor * periods_F) + (1 - ramp_F) / periods_F


def _yarn_factor(scaling: YarnRope) -> float:
    def sharper(by: float) -> float:
        return 0.1 * by * math.log(scaling.factor) + 1 if scaling.factor > 1 else 1.0

    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.mscale and scaling.mscale_all_dim:
        return sharper(scaling.mscale) / sharper(scaling.mscale_all_dim)
    return sharper(1.0)


def _longrope_factor(scaling: LongRope) -> float:
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.factor <= 1:
        return 1.0
    return math.sqrt(1 + math.log(scaling.factor) / math.log(scaling.original_max_position_embeddings))
