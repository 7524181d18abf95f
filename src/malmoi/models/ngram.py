"""Interpolated modified Kneser-Ney, the best counting language model (Chen & Goodman 1999).

The n-grams of each order form one level of a tree: a k-gram's key is (number of its first k-1 tokens at the
level above) * vocabulary + last token, and its number is its place among the sorted keys. So the tokens seen
after a context lie side by side, and the longest known ends of a text are followed from token to token with
one search per level. Counting runs over the whole stream: a context may reach back over an eos.

Shape letters: B rows, T positions, P positions of all rows, O orders 0..order-1 of a context, V vocabulary,
G n-grams of a level, C contexts of a level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from malmoi.core.errors import UserError
from malmoi.models.config import MOST_VOCAB

if TYPE_CHECKING:  # it counts and looks up without PyTorch; only a `Scorer` speaks in its tensors
    from torch import Tensor

    from malmoi.models.state import State

MODEL_TYPE = "malmoi_ngram"
MAX_TOKENS = 20_000_000  # counting takes about 100 bytes of memory a token
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)  # where counts of counts say nothing, as in KenLM (Heafield et al. 2013)
CHUNK_NUMBERS = 1 << 24  # probabilities made at a time

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


def estimate_discounts(counts_G: NDArray[np.integer]) -> tuple[float, float, float]:
    """What to take off n-grams counted once, twice, and more often (Chen & Goodman 1999, equation 17)."""
    n1, n2, n3, n4 = (int((counts_G == count).sum()) for count in (1, 2, 3, 4))
    if not (n1 and n2 and n3):
        return FALLBACK_DISCOUNTS
    y = n1 / (n1 + 2 * n2)
    discounts = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    valid = all(0 < discount <= most for most, discount in enumerate(discounts, start=1))
    return discounts if valid else FALLBACK_DISCOUNTS


@dataclass(slots=True)
class Level:
    """The n-grams of one order. Number -1 stands for an unknown n-gram or context.

    discounted_G: (count - discount) / count of the context. backoff_C: the share that a context leaves to the
    shorter one. starts_C: where a context's n-grams begin, with one entry more for the end.
    """

    keys_G: Ints
    counts_G: NDArray[np.int32]
    starts_C: Ints
    discounted_G: Floats
    backoff_C: Floats

    @classmethod
    def of(cls, keys_G: Ints, counts_G: NDArray[np.int32], num_contexts: int, vocab_size: int) -> Self:
        """Everything else follows from the keys and counts."""
        starts_C = np.searchsorted(keys_G, np.arange(num_contexts + 1) * vocab_size)
        discounts = np.array((0.0, *estimate_discounts(counts_G)))
        discount_G = discounts[np.minimum(counts_G, 3)]
        total_C, taken_C = _sums(counts_G, starts_C), _sums(discount_G, starts_C)
        divisor_C = np.where(total_C > 0, total_C, 1)
        discounted_G = (counts_G - discount_G) / np.repeat(divisor_C, np.diff(starts_C))
        backoff_C = np.where(total_C > 0, taken_C / divisor_C, 1.0)
        # the last entry is what -1 finds
        return cls(keys_G, counts_G, starts_C, _with_last(discounted_G, 0.0), _with_last(backoff_C, 1.0))

    def find(self, contexts: Ints, ids: Ints, vocab_size: int) -> Ints:
        """The number of each n-gram "context, id", or -1."""
        keys = contexts * vocab_size + ids
        places = np.minimum(np.searchsorted(self.keys_G, keys), len(self.keys_G) - 1)
        return np.where(self.keys_G[places] == keys, places, -1)

    def successors(self, contexts_P: Ints) -> tuple[Ints, Ints]:
        """Pairs (position, number of an n-gram of its context) for all n-grams of all contexts."""
        starts_P = self.starts_C[contexts_P]
        sizes_P = np.where(contexts_P >= 0, self.starts_C[contexts_P + 1] - starts_P, 0)
        positions = np.repeat(np.arange(len(contexts_P)), sizes_P)
        first_P = np.cumsum(sizes_P) - sizes_P
        return positions, np.arange(len(positions)) + np.repeat(starts_P - first_P, sizes_P)


def _sums(values_G: NDArray[Any], starts_C: Ints) -> NDArray[np.float64]:
    """The sum of each context's values."""
    running = np.concatenate(([0.0], np.cumsum(values_G, dtype=np.float64)))
    return np.diff(running[starts_C])


def _with_last(values: NDArray[np.float64], last: float) -> Floats:
    return np.append(values, last).astype(np.float32)


@dataclass(slots=True)
class NGramState:
    """contexts_BO: the numbers of the k-grams that end each row, k = 0..order-1 (-1: never seen)."""

    contexts_BO: Ints
    lengths_B: Tensor

    @property
    def nbytes(self) -> int:
        return self.contexts_BO.nbytes

    def select(self, rows: Sequence[int]) -> NGramState:
        index = list(rows)
        return NGramState(self.contexts_BO[index], self.lengths_B[index])

    def keep(self, rows: Sequence[int]) -> None:
        kept = self.select(rows)
        self.contexts_BO, self.lengths_B = kept.contexts_BO, kept.lengths_B

    def join(self, others: Sequence[NGramState]) -> NGramState:
        import torch

        states = [self, *others]
        contexts_BO = np.concatenate([state.contexts_BO for state in states])
        return NGramState(contexts_BO, torch.cat([state.lengths_B for state in states]))

    def snapshot(self) -> NGramState:
        return NGramState(self.contexts_BO.copy(), self.lengths_B.clone())

    def prefix(self, row: int, length: int) -> NGramState | None:
        return self.select([row]) if int(self.lengths_B[row]) == length else None


class KneserNey:
    """A `Scorer` that counts. Make one with `fit` or `from_tensors`."""

    context = None  # a row may be of any length; only its last order - 1 tokens matter

    def __init__(self, levels: Sequence[Level], vocab_size: int, num_tokens: int, note: str = "") -> None:
        """num_tokens: how many were counted; `note` says what `fit` left out, if anything."""
        self.levels, self.vocab_size, self.num_tokens, self.note = list(levels), vocab_size, num_tokens, note
        first = self.levels[0]
        self._unigram_V = np.full(vocab_size, first.backoff_C[0] / vocab_size, dtype=np.float32)
        self._unigram_V[first.keys_G] += first.discounted_G[:-1]

    @property
    def order(self) -> int:
        return len(self.levels)

    @classmethod
    def fit(
        cls, ids: NDArray[np.integer], vocab_size: int, *, order: int = 5, max_tokens: int = MAX_TOKENS
    ) -> Self:
        """Count a token stream (a memory-mapped one is fine); of a longer one the first max_tokens.

        The longest n-grams have their counts; shorter ones the number of different tokens seen before them.
        Raises UserError for a stream shorter than `order` or with ids outside the vocabulary.
        """
        stream_T = np.asarray(ids[:max_tokens], dtype=np.int64)
        if order < 1 or len(stream_T) < order:
            raise UserError(
                f"an n-gram model needs an order of at least 1 and as many tokens, but the order is {order} "
                f"and the text has {len(stream_T)} tokens; give more text or another order"
            )
        if not 0 <= stream_T.min() <= stream_T.max() < vocab_size:
            raise UserError(
                f"the text has an id outside 0..{vocab_size - 1}; use the tokenizer it was made with"
            )
        left_out = f"counted the first {len(stream_T):,} of {len(ids):,} tokens"
        note = left_out if len(stream_T) < len(ids) else ""
        return cls(_count(stream_T, vocab_size, order), vocab_size, len(stream_T), note)

    # --- the Scorer contract

    def new_state(self, rows: int, capacity: int = 0) -> NGramState:
        del capacity  # the state does not grow
        import torch

        contexts_BO = np.full((rows, self.order), -1)
        contexts_BO[:, 0] = 0  # the empty context is always known
        return NGramState(contexts_BO, torch.zeros(rows, dtype=torch.int64))

    def step(self, ids_BT: Tensor, counts_B: Tensor, state: State, *, last_only: bool = False) -> Tensor:
        """See `Scorer.step`; the logits are log-probabilities."""
        import torch

        assert isinstance(state, NGramState)
        contexts_BTO = self._follow(ids_BT.cpu().numpy(), state.contexts_BO)
        last_B1O = contexts_BTO[np.arange(len(ids_BT)), counts_B.cpu().numpy() - 1][:, None]
        state.contexts_BO = last_B1O[:, 0]
        with torch.inference_mode():  # as the engine has it, whoever calls
            state.lengths_B += counts_B.cpu()
        return torch.from_numpy(self._log_probs(last_B1O if last_only else contexts_BTO))

    def _follow(self, ids_BT: Ints, contexts_BO: Ints) -> Ints:
        """contexts_BTO after each token, from the contexts before the first."""
        after = [np.zeros_like(ids_BT)]
        for k, level in enumerate(self.levels[:-1]):
            before_BT = np.concatenate((contexts_BO[:, k : k + 1], after[k][:, :-1]), axis=1)
            after.append(level.find(before_BT, ids_BT, self.vocab_size))
        return np.stack(after, axis=-1)

    def _log_probs(self, contexts_BTO: Ints) -> Floats:
        """log-probabilities logits_BTV, a bounded number at a time."""
        contexts_PO = contexts_BTO.reshape(-1, self.order)
        logits_PV = np.empty((len(contexts_PO), self.vocab_size), dtype=np.float32)
        size = max(1, CHUNK_NUMBERS // self.vocab_size)
        for start in range(0, len(contexts_PO), size):
            self._fill_probs(contexts_PO[start : start + size], logits_PV[start : start + size])
        return np.log(logits_PV, out=logits_PV).reshape(*contexts_BTO.shape[:2], self.vocab_size)

    def _fill_probs(self, contexts_PO: Ints, probs_PV: Floats) -> None:
        """p(v | context) = discounted + backoff * p(v | shorter context), from the shortest up."""
        probs_PV[:] = self._unigram_V
        for k, level in enumerate(self.levels[1:], start=1):
            contexts_P = contexts_PO[:, k]
            probs_PV *= level.backoff_C[contexts_P, None]
            positions, ngrams = level.successors(contexts_P)
            probs_PV[positions, level.keys_G[ngrams] % self.vocab_size] += level.discounted_G[ngrams]

    # --- evaluation

    def token_log_probs(self, ids: NDArray[np.integer]) -> NDArray[np.float64]:
        """Natural log-probability of each token after those before it, without whole distributions."""
        ids_T = np.asarray(ids, dtype=np.int64)
        contexts_T = np.zeros(len(ids_T), dtype=np.int64)
        probs_T = np.full(len(ids_T), 1 / self.vocab_size)
        for level in self.levels:
            ngrams_T = level.find(contexts_T, ids_T, self.vocab_size)
            probs_T = level.discounted_G[ngrams_T] + level.backoff_C[contexts_T] * probs_T
            contexts_T = np.concatenate(([-1], ngrams_T[:-1]))
        return np.log(probs_T)

    # --- files

    @property
    def config(self) -> dict[str, Any]:
        """What `config.json` says."""
        return {
            "model_type": MODEL_TYPE, "vocab_size": self.vocab_size, "order": self.order,
            "num_tokens": self.num_tokens, "note": self.note,
        }  # fmt: skip

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Keys and counts of every level; the rest follows from them."""
        keys = {f"keys.{k}": level.keys_G for k, level in enumerate(self.levels, start=1)}
        return keys | {f"counts.{k}": level.counts_G for k, level in enumerate(self.levels, start=1)}

    @classmethod
    def from_tensors(cls, config: Mapping[str, Any], tensors: Mapping[str, Any]) -> Self:
        """The model whose `config` and `tensors()` these are, the latter as arrays of either library.

        Raises KeyError where one is missing, UserError where the two do not belong together.
        """
        order, vocab_size, num_tokens = (config[name] for name in ("order", "vocab_size", "num_tokens"))
        sizes = ((order, len(tensors) // 2), (vocab_size, MOST_VOCAB), (num_tokens, 1 << 62))
        if not all(type(size) is int and 1 <= size <= most for size, most in sizes):
            raise UserError(f"{order=}, {vocab_size=}, {num_tokens=} are not those of n-grams; copy it again")
        parts = [
            (np.asarray(tensors[f"keys.{k}"]), np.asarray(tensors[f"counts.{k}"]))
            for k in range(1, order + 1)
        ]
        sizes = [1, *(len(keys_G) for keys_G, _ in parts)]
        for (keys_G, counts_G), num_contexts in zip(parts, sizes, strict=False):
            if not _are_ngrams(keys_G, counts_G, num_contexts * vocab_size):
                raise UserError("the n-grams do not fit order and vocab_size; copy or make the folder again")
        return cls(_levels(parts, vocab_size), vocab_size, num_tokens, str(config.get("note", "")))


def _are_ngrams(keys_G: NDArray[Any], counts_G: NDArray[Any], end: int) -> bool:
    """Whether these are n-grams with rising keys below `end`, and how often each was seen."""
    return (
        keys_G.dtype == np.int64 and counts_G.dtype == np.int32
        and keys_G.ndim == 1 and len(keys_G) > 0 and keys_G.shape == counts_G.shape
        and keys_G[0] >= 0 and keys_G[-1] < end and bool((np.diff(keys_G) > 0).all())
        and counts_G.min() >= 0
    )  # fmt: skip


def _count(stream_T: Ints, vocab_size: int, order: int) -> list[Level]:
    """Number the k-grams that end at each token, level by level, and count them."""
    keys: list[Ints] = []
    counts: list[NDArray[np.integer]] = []
    contexts = np.zeros_like(stream_T)  # of each token from the k-th on
    ngrams = contexts
    for k in range(order):
        keys_G, following, counts_G = np.unique(
            contexts * vocab_size + stream_T[k:], return_inverse=True, return_counts=True
        )
        if k:  # a shorter n-gram counts the different longer ones that end with it
            place_G = np.empty(len(keys_G), dtype=np.int64)
            place_G[following] = np.arange(len(following))  # one of each n-gram's places, no matter which
            counts[-1] = np.bincount(ngrams[1:][place_G], minlength=len(keys[-1]))
        keys.append(keys_G)
        counts.append(counts_G)
        ngrams, contexts = following, following[:-1]
    return _levels([(k, c.astype(np.int32)) for k, c in zip(keys, counts, strict=True)], vocab_size)


def _levels(parts: Sequence[tuple[Ints, NDArray[np.int32]]], vocab_size: int) -> list[Level]:
    num_contexts = [1, *(len(keys_G) for keys_G, _ in parts)]
    return [
        Level.of(keys_G, counts_G, num_contexts[k], vocab_size) for k, (keys_G, counts_G) in enumerate(parts)
    ]
