"""Seeds made of several numbers, so that a random choice is a function of (seed, step, ...) alone."""

from __future__ import annotations

import numpy as np


def mixed(*numbers: int) -> int:
    """One seed out of several numbers, spread over 64 bits."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
