"""Bits per byte beyond the trained context: does a model still understand where it has never been?

Shape letters: B rows, T positions, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from malmoi.core.errors import UserError
from malmoi.core.nouns import Say
from malmoi.core.tensors import TokenBatch
from malmoi.inside.learning import learn
from malmoi.models.build import build_model
from malmoi.models.config import RecurrentConfig, TransformerConfig
from malmoi.models.language import LanguageModel
from malmoi.text.tokenizer import Tokenizer, train_tokenizer

ROWS, TIMES = 24, 4  # of text; contexts in a row


def long_rows(texts: Iterable[str], tokenizer: Tokenizer, length: int, rows: int = ROWS) -> Tensor:
    """ids_BT of `rows` rows of length + 1 tokens of a stream of texts. Raises UserError for too little."""
    stream: list[int] = []
    for text in texts:
        stream += [tokenizer.specials.eos, *tokenizer.encode(text)]
        if len(stream) >= rows * (length + 1):
            return torch.tensor(stream[: rows * (length + 1)]).view(rows, length + 1)
    raise UserError(
        f"{len(stream):,} tokens of text are too few for {rows} rows of {length:,}; give more text"
    )


def bytes_of(tokenizer: Tokenizer) -> Tensor:
    """bytes_V: how many bytes of text each token stands for."""
    return torch.tensor([float(len(tokenizer.token_bytes(id))) for id in range(tokenizer.vocab_size)])


@torch.inference_mode()
def bits_by_position(
    model: LanguageModel, ids_BT: Tensor, bytes_V: Tensor, edges: Sequence[int]
) -> list[float]:
    """Bits per byte of the tokens at positions from each edge up to the next.

    Raises UserError for a model with learned positions whose context is shorter than the rows.
    """
    length = ids_BT.shape[1] - 1
    if getattr(model.config, "position", "") == "learned" and length > (model.context or length):
        raise UserError(f"learned positions end at {model.context}: there is none for what comes after")
    nats, weights = torch.zeros(length), torch.zeros(length)
    for ids_T in ids_BT.to(model.device):  # a row at a time: logits of long rows are large
        logits_TV = model.logits(model.hidden(TokenBatch(ids_T[None, :-1])))[0]
        nats += torch.nn.functional.cross_entropy(logits_TV, ids_T[1:], reduction="none").cpu()
        weights += bytes_V[ids_T[1:].cpu()]
    return [
        float(nats[a:b].sum() / weights[a:b].sum().clamp_min(1) / math.log(2)) for a, b in pairwise(edges)
    ]


def edges_of(context: int) -> list[int]:
    """Positions that divide TIMES contexts into quarters of a context."""
    return list(range(0, TIMES * context + 1, max(1, context // 4)))


def trained_readers(
    texts: Sequence[str], *, context: int, steps: int, say: Say
) -> tuple[dict[str, LanguageModel], Tokenizer]:
    """A byte-level GPT and LSTM that have read as many batches of rows of `context` bytes."""
    tokenizer = train_tokenizer([], "byte")
    ids_N = torch.tensor([id for text in texts for id in (tokenizer.specials.eos, *tokenizer.encode(text))])
    torch.manual_seed(0)
    size, models = tokenizer.vocab_size, {}
    for config in (
        TransformerConfig(vocab_size=size, context=context, layers=2, width=96, heads=4, tied=True),
        RecurrentConfig(family="lstm", vocab_size=size, layers=1, width=192),
    ):
        model, generator = build_model(config), torch.Generator().manual_seed(0)

        def batch(generator: torch.Generator = generator) -> TokenBatch:
            starts_B = torch.randint(len(ids_N) - context - 1, (16, 1), generator=generator)
            rows_BT = ids_N[starts_B + torch.arange(context + 1)]
            return TokenBatch(rows_BT[:, :-1], rows_BT[:, 1:])

        name = "GPT" if isinstance(config, TransformerConfig) else "LSTM"
        learn(model, batch, steps, lr=4e-3, say=lambda line, name=name: say(f"{name} reads bytes: {line}"))
        models[f"{name} (trained here)"] = model
    return models, tokenizer
