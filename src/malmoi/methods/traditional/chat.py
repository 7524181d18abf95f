"""Chat by retrieval: the reply that followed the most similar turn.

Shape letters: N inputs, M remembered turns, F features.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import zip_longest
from typing import Annotated, Any, Self

import numpy as np
import torch
from pydantic import Field, PositiveInt
from scipy import sparse

from malmoi.core import Message
from malmoi.methods.base import Budget, Method, Parts, Say, silent
from malmoi.methods.traditional.choice import Examples, quality
from malmoi.methods.traditional.vectors import WORDS_AND_LETTERS, Vectors
from malmoi.models.config import StrictModel
from malmoi.util.errors import UserError

CHUNK_INPUTS = 32
CHOICE_INPUTS = 300
DISCOUNTS = (0.0, 0.3, 0.6)
TENSORS = ("indptr", "indices", "data")


class Retrieval(Method):
    """The reply to the remembered turn with the highest TF-IDF cosine.

    A turn's row is that of the last message plus `discount` times that of the one before it, and so on for
    `turns` messages; the discount is chosen on valid.
    """

    name, family, kinds, only = "retrieval", "traditional", frozenset({"text"}), frozenset({"chat"})

    class Options(StrictModel):
        """turns: how many messages back. max_turns: how many turns of training are remembered."""

        turns: Annotated[int, Field(ge=1, le=8)] = 3
        max_turns: PositiveInt = 50_000

    def fit(self, train: Examples, valid: Examples, budget: Budget = Budget(), say: Say = silent) -> Self:
        """See `Method.fit`. Raises UserError where there is nothing to remember."""
        del budget, say
        if not train:
            raise UserError("there is no conversation to learn from; give at least one with a reply")
        kept, some = train[: self.options.max_turns], valid[:CHOICE_INPUTS]
        turns, self._replies = [example.input for example in kept], [example.target for example in kept]
        self._vectors = Vectors(WORDS_AND_LETTERS, 50_000).fit([turn[-1].content for turn in turns])

        def value(discount: float) -> float:
            self._remember(turns, discount)
            return quality(self.task, self.predict([example.input for example in some]), some)

        self._remember(turns, max(DISCOUNTS, key=value) if some else DISCOUNTS[1])
        self.report = {"turns": len(turns), "discount": self._discount}
        return self

    def _remember(self, turns: Sequence[Sequence[Message]], discount: float) -> None:
        self._discount = discount
        self._turns_FM: Any = sparse.csr_array(self._rows(turns).T)  # by feature: few of them are in a text

    def _rows(self, turns: Sequence[Sequence[Message]]) -> Any:
        """rows_NF of length one (a turn without known words: zero)."""
        columns = zip_longest(
            *([m.content for m in turn[: -self.options.turns - 1 : -1]] for turn in turns), fillvalue=""
        )
        rows_NF: Any = sum(
            self._discount**age * self._vectors.rows(texts) for age, texts in enumerate(columns)
        )
        lengths_N = np.sqrt(rows_NF.multiply(rows_NF).sum(axis=1))
        return sparse.diags_array(1 / np.maximum(np.asarray(lengths_N).ravel(), 1e-9)) @ rows_NF

    def predict(self, inputs: Sequence[Sequence[Message]]) -> list[Any | None]:
        """See `Method.predict`; of equally near turns the first one's reply."""
        replies: list[Any | None] = []
        for start in range(0, len(inputs), CHUNK_INPUTS):
            cosines_NM = (self._rows(inputs[start : start + CHUNK_INPUTS]) @ self._turns_FM).toarray()
            replies += [self._replies[m] for m in cosines_NM.argmax(axis=1)]
        return replies

    def parts(self) -> Parts:
        """See `Method.parts`."""
        lines = "".join(json.dumps(reply, ensure_ascii=False) + "\n" for reply in self._replies)
        tensors = {name: torch.from_numpy(getattr(self._turns_FM, name)) for name in TENSORS}
        parts = Parts({"discount": self._discount}, tensors, {"replies.jsonl": lines.encode()})
        self._vectors.save(parts)
        return parts

    def restore(self, parts: Parts) -> None:
        """See `Method.restore`."""
        self._vectors, self._discount = Vectors.restore(parts), parts.config["discount"]
        self._replies = [json.loads(line) for line in parts.files["replies.jsonl"].splitlines()]
        indptr, indices, data = (parts.tensors[name].numpy() for name in TENSORS)
        shape = (len(indptr) - 1, len(self._replies))
        self._turns_FM = sparse.csr_array((data, indices, indptr), shape=shape)
