"""Recall of a fact against its distance: how far back can a model look something up?

A row tells a fact (a key, then its value), talks of other things for a while, and asks: the key once more,
after which the value must come. Then comes the next fact. This is associative recall (Graves et al. 2014)
with distance as what varies. Keys and values are drawn anew for every row, so only the row itself can answer.

Shape letters: B rows, T positions, Q questions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from malmoi.core.nouns import Say
from malmoi.core.tensors import IGNORE, TokenBatch
from malmoi.inside.learning import learn
from malmoi.models.language import LanguageModel

KEYS, VALUES, FILLERS = 16, 8, 8
VOCABULARY = KEYS + VALUES + FILLERS
NEAREST = 2  # tokens from the key of a fact to the same key in its question
SHORTEST, TRAIN_TOKENS = 8, 2048  # of a row, of a step
TEST_ROWS = 512


@dataclass(frozen=True, slots=True)
class RecallTask:
    """Rows of `length` tokens; near and far questions are equally many by the logarithm of their distance."""

    length: int = 128

    def batch(self, rows: int, random: Random) -> tuple[TokenBatch, Tensor]:
        """Rows, and distance_BT: from each question's key back to the fact's (0 elsewhere)."""
        fillers = range(KEYS + VALUES, VOCABULARY)
        ids_BT = torch.tensor([random.choices(fillers, k=self.length) for _ in range(rows)])
        targets_BT, distance_BT = torch.full_like(ids_BT, IGNORE), torch.zeros_like(ids_BT)
        for b in range(rows):
            for stated, asked, key in self._facts(random):
                value = KEYS + random.randrange(VALUES)
                ids_BT[b, stated], ids_BT[b, stated + 1], ids_BT[b, asked] = key, value, key
                targets_BT[b, asked], distance_BT[b, asked] = value, asked - stated
        return TokenBatch(ids_BT, targets_BT), distance_BT

    def _facts(self, random: Random) -> list[tuple[int, int, int]]:
        """(where it is stated, where it is asked for, key) of each fact of a row, one after another."""
        facts, stated = [], 0
        for key in random.sample(range(KEYS), KEYS):
            farthest = self.length - 1 - stated
            if farthest < NEAREST:
                break
            asked = stated + int(math.exp(random.uniform(math.log(NEAREST), math.log(farthest + 1))))
            facts.append((stated, asked, key))
            stated = asked + 1
        return facts


def train_recall(model: LanguageModel, task: RecallTask, steps: int, *, lr: float, say: Say) -> float:
    """Learn the task, from short rows as well as long ones; the last loss."""
    random, lengths = Random(0), [task.length >> n for n in range(5) if task.length >> n >= SHORTEST]

    def batch() -> TokenBatch:
        length = random.choice(lengths)
        return RecallTask(length).batch(TRAIN_TOKENS // length, random)[0]

    return learn(model, batch, steps, lr=lr, say=say)


@torch.no_grad()
def recall_at(model: LanguageModel, task: RecallTask, edges: Sequence[int]) -> list[float]:
    """The share of right answers at distances from each edge up to the next, in rows of their own."""
    batch, distance_BT = task.batch(TEST_ROWS, Random("test"))
    assert batch.targets_BT is not None
    asked_BT = batch.targets_BT != IGNORE
    guesses_Q = model.logits(model.eval().hidden(batch)[asked_BT]).argmax(-1)
    right_Q, distance_Q = (guesses_Q == batch.targets_BT[asked_BT]).float(), distance_BT[asked_BT]
    parts_Q = torch.bucketize(distance_Q, torch.tensor(edges[1:]), right=True)
    return [float(right_Q[parts_Q == part].mean()) for part in range(len(edges) - 1)]
