"""Learning-rate schedules: a factor in 0..1 for each step."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["cosine", "wsd", "constant"]


def learning_rate_factor(
    step: int, *, steps: int, kind: Schedule, warmup_steps: int, floor: float, decay_fraction: float
) -> float:
    """The factor at `step` (0-based) of `steps`.

    All warm up linearly from 1/warmup_steps. `cosine` (Loshchilov & Hutter 2017) falls to `floor` over the
    rest; `wsd`, warm-up-stable-decay (Hu et al. 2024), stays at 1 and falls linearly to `floor` over the last
    `decay_fraction`; `constant` stays at 1.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if kind == "constant":
        return 1.0
    if kind == "cosine":
        done = (step - warmup_steps) / max(1, steps - warmup_steps)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    decay_steps = max(1, round(steps * decay_fraction))
    left = max(0, steps - step) / decay_steps
    return floor + (1 - floor) * min(1.0, left)
