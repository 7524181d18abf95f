"""What a model expects at every position of a text: n tokens are n predictions and n losses.

Shape letters: T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from malmoi.models.state import Scorer
from malmoi.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Prediction:
    """One position: the token that stands there, and what the model expected before it was seen."""

    token: str
    probability: float  # of that token
    loss: float  # -ln of it, nats
    best: tuple[tuple[str, float], ...]  # the likeliest tokens with their probabilities


def predictions(
    model: Scorer, tokenizer: Tokenizer, ids: Sequence[int], *, top: int = 5
) -> list[Prediction]:  # fmt: skip
    """One `Prediction` a token of a text; the first is predicted from the start of a document (eos).

    A text longer than the model's context is cut there.
    """
    ids = ids[: model.context]
    read = [tokenizer.start, *ids[:-1]]
    counts = torch.tensor([len(read)])
    logits_TV = model.step(torch.tensor([read]), counts, model.new_state(1, len(read)))[0].cpu()
    log_probs_TV = logits_TV.log_softmax(-1)
    return [
        Prediction(
            tokenizer.token_text(id),
            float(row_V[id].exp()),
            -float(row_V[id]),
            tuple(
                (tokenizer.token_text(int(other)), float(value.exp()))
                for value, other in zip(*row_V.topk(top), strict=True)
            ),
        )
        for id, row_V in zip(ids, log_probs_TV, strict=True)
    ]
