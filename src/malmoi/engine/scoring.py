"""Which tokens to read to score the continuations of a prompt, and what they add up to.

What follows every token that is read scores the next one. So a continuation needs all but its last token, and
those whose beginnings are the same, or one of which begins another, need one reading together.

Shape letters: B rows, T positions, V vocabulary, C continuations (choices), W wanted log-probabilities.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

Wanted = tuple[int, int, int, int]  # row, position, token, number of the choice


@dataclass(slots=True)
class Read:
    """Tokens to read after the prompt of this number, and the choices (number, ids) that they score."""

    prompt: int
    ids: list[int]
    choices: list[tuple[int, list[int]]] = field(default_factory=list)

    def wanted(self, row: int, start: int, stop: int) -> list[Wanted]:
        """What follows the tokens start..stop-1, which are the positions 0.. of the row."""
        return [
            (row, t - start, ids[t + 1], number)
            for number, ids in self.choices
            for t in range(start, min(stop, len(ids) - 1))
        ]


def shared_reads(choices: Sequence[list[int]], prompt: int = 0, first_number: int = 0) -> list[Read]:
    """What to read to score all choices of one prompt, which are numbered from first_number."""
    reads: list[Read] = []
    # in this order a beginning comes right after what it begins
    for i in sorted(range(len(choices)), key=lambda i: choices[i][:-1], reverse=True):
        ids = choices[i][:-1]
        if not reads or reads[-1].ids[: len(ids)] != ids:
            reads.append(Read(prompt, ids))
        reads[-1].choices.append((first_number + i, choices[i]))
    return reads


def batches(reads: Sequence[Read], most_rows: int, most_tokens: int) -> Iterator[list[Read]]:
    """Reads of like lengths together, of most_tokens with their padding unless one alone is longer.

    Empty reads are left out: what they score follows the prompt.
    """
    batch: list[Read] = []
    for read in sorted((read for read in reads if read.ids), key=lambda read: len(read.ids)):
        if batch and (len(batch) == most_rows or (len(batch) + 1) * len(read.ids) > most_tokens):
            yield batch
            batch = []
        batch.append(read)
    if batch:
        yield batch


def add_logprobs(totals_C: Tensor, logits_BTV: Tensor, wanted: Sequence[Wanted]) -> None:
    """Add each wanted log-probability to the total of its choice."""
    if not wanted:
        return
    rows_W, places_W, ids_W, numbers_W = torch.tensor(wanted).T
    norms_BT = torch.stack([logits_TV.float().logsumexp(-1) for logits_TV in logits_BTV])
    logprobs_W = logits_BTV[rows_W, places_W, ids_W].float() - norms_BT[rows_W, places_W]
    totals_C.index_add_(0, numbers_W, logprobs_W.double().to(totals_C.device))
