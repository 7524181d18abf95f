"""The size dial: one number, the depth, decides a model's shape and how it is trained.

Depth d gives 64 d wide vectors, d heads, a context of 64 d tokens and a vocabulary of 1024 d. Wider models
want smaller steps: the learning rate falls as width^-0.7, near what tuning finds at these sizes.
"""

from __future__ import annotations

from typing import Any, Literal

Size = Literal["nano", "micro", "mini", "small", "base"]
DEPTHS: dict[Size, int] = {"nano": 2, "micro": 4, "mini": 6, "small": 8, "base": 12}


def derived(size: Size, family: str) -> dict[str, dict[str, Any]]:
    """The settings that a size stands for, for a Transformer or a recurrent model of the same width."""
    depth = DEPTHS[size]
    width = 64 * depth
    shape = {"layers": depth, "width": width, "heads": depth}
    if family != "transformer":
        shape = {"layers": 2, "width": width}
    train = {
        "steps": 125 * depth**2,
        "batch": 16 if depth <= 6 else 4 * depth,
        "context": 64 * depth,
        "lr": float(f"{0.003 * (128 / width) ** 0.7:.2g}"),
    }
    return {"model": shape, "tokenizer": {"vocab_size": 1024 * depth}, "train": train}
