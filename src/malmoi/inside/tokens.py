"""A text's tokens: how it is cut, what a model expects at each of them, and what their embeddings are like.

Each way to cut trades length against vocabulary and unknown words; n tokens are n predictions and n losses;
an embedding is a token's row of numbers.

Shape letters: N rows, O orders, T positions, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from malmoi.models.ngram import KneserNey
from malmoi.models.state import Scorer
from malmoi.text.tokenizer import Tokenizer, train_tokenizer


@dataclass(frozen=True, slots=True)
class Cut:
    """A text as one tokenizer cuts it. The pieces joined are the text itself, spaces included.

    A token that ends inside a character has that character, and those that go on with it have nothing.
    """

    name: str
    vocab_size: int
    pieces: tuple[str, ...]
    unknown: tuple[bool, ...]  # pieces that are not in the vocabulary

    @property
    def num_unknown(self) -> int:
        return sum(self.unknown)


def cut(name: str, tokenizer: Tokenizer, text: str) -> Cut:
    """Cut `text`; an unknown piece is shown as it was written."""
    ids, spans = tokenizer.encode(text), tokenizer.offsets(text)
    unk = tokenizer.specials.unk
    ends = [0, *(end for _, end in spans)]
    pieces = tuple(text[before:end] for before, end in pairwise(ends))
    return Cut(name, tokenizer.vocab_size, pieces, tuple(id == unk for id in ids))


def cuts_of(text: str, tokenizer: Tokenizer | None) -> list[Cut]:
    """A text by words, by characters, and as its model cuts it (where that is another way)."""
    ways = [(kind, train_tokenizer([text], kind, 1 << 20)) for kind in ("word", "character")]
    if tokenizer is not None and tokenizer.kind not in ("word", "character"):
        ways.insert(1, (f"the model's own sub-words ({tokenizer.kind})", tokenizer))
    names = {"word": "words", "character": "characters"}
    return [cut(names.get(name, name), one, text) for name, one in ways]


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


def matrix_of(embed: nn.Module, size: int) -> Tensor:
    """weight_VD, whatever the precision that it is kept in."""
    weight_VD = embed.weight
    assert isinstance(weight_VD, Tensor)
    return weight_VD.detach()[:size].float().cpu()


def neighbours(
    weight_VD: Tensor, id: int, count: int, without: Collection[int] = ()
) -> list[tuple[int, float]]:
    """The ids whose rows point most nearly the same way as that of `id`, with the cosines."""
    cosines_V = functional.cosine_similarity(weight_VD, weight_VD[id : id + 1])
    cosines_V[[id, *without]] = float("-inf")
    found = cosines_V.topk(min(count, len(cosines_V)))
    pairs = zip(found.indices.tolist(), found.values.tolist(), strict=True)
    return [(other, cosine) for other, cosine in pairs if cosine > float("-inf")]


def plane(rows_ND: Tensor) -> tuple[Tensor, float]:
    """points_N2 on the plane of the two main directions (PCA, Pearson 1901), and its share of the variance.

    Each direction is turned so that its largest number is positive: a picture comes out the same again.
    """
    centred_ND = rows_ND - rows_ND.mean(0)
    _, sizes, directions = torch.linalg.svd(centred_ND, full_matrices=False)
    points_N2 = functional.pad(centred_ND @ directions[:2].mT, (0, 2 - len(directions[:2])))
    largest_2 = points_N2.gather(0, points_N2.abs().argmax(0, keepdim=True))
    share = float((sizes[:2] ** 2).sum() / (sizes**2).sum().clamp_min(1e-12))
    return points_N2 * torch.where(largest_2 < 0, -1.0, 1.0), share


def orders_of(model: KneserNey, ids: Sequence[int]) -> tuple[list[int], list[int]]:
    """For each token the length of the longest counted n-gram that ends there (0: none), and its count.

    The counts of n-grams shorter than the model's order are those of different tokens before them.
    """
    orders, counts = [0] * len(ids), [0] * len(ids)
    state = model.new_state(1)
    for place, id in enumerate(ids):
        contexts_O = state.contexts_BO[0].tolist()
        for order, (level, context) in enumerate(zip(model.levels, contexts_O, strict=True), start=1):
            number = int(level.find(np.array([context]), np.array([id]), model.vocab_size)[0])
            if context >= 0 and number >= 0:
                orders[place], counts[place] = order, int(level.counts_G[number])
        model.step(torch.tensor([[id]]), torch.tensor([1]), state, last_only=True)
    return orders, counts
