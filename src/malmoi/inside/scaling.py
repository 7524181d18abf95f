"""Time and memory against sequence length, measured on this machine: n against n^2.

A recurrent network does the same work for every token; attention looks back at all of them, so that its work
for a row of n tokens grows with n^2, and what it remembers with n.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from malmoi.core.tensors import TokenBatch
from malmoi.learn.losses import next_token_loss
from malmoi.learn.trial import saved_bytes
from malmoi.models.build import build_model
from malmoi.models.config import RecurrentConfig, TransformerConfig
from malmoi.models.language import LanguageModel
from malmoi.util.units import figures, human_bytes

MOST_RUNS, ENOUGH_S = 7, 0.4  # of one measurement
REACH = 20  # a crossing further than this times the longest row is not predicted


@dataclass(frozen=True, slots=True)
class Measured:
    """One model at each of `lengths`, batch 1.

    train_seconds: a forward and a backward pass over a row. train_bytes: what the forward pass keeps for the
    backward one. decode_seconds: of the token after that many. state_bytes: what is remembered of them.
    """

    name: str
    lengths: tuple[int, ...]
    train_seconds: tuple[float, ...]
    train_bytes: tuple[int, ...]
    decode_seconds: tuple[float, ...]
    state_bytes: tuple[int, ...]


def small_models(vocab_size: int = 512, width: int = 128, context: int = 1 << 17) -> dict[str, LanguageModel]:
    """An RNN, an LSTM and a GPT with about as many numbers inside (12 width^2 a block of the GPT)."""
    torch.manual_seed(0)
    shapes = {
        "RNN": RecurrentConfig(family="rnn", vocab_size=vocab_size, layers=3, width=2 * width),
        "LSTM": RecurrentConfig(family="lstm", vocab_size=vocab_size, layers=3, width=width),
        "GPT": TransformerConfig(
            vocab_size=vocab_size, context=context, layers=2, width=width, heads=4, tied=True
        ),
    }
    return {name: build_model(shape) for name, shape in shapes.items()}


def measure(name: str, model: LanguageModel, lengths: Sequence[int], say: Callable[[str], None]) -> Measured:
    """See `Measured`; lengths beyond the model's context are left out."""
    lengths = tuple(length for length in lengths if length <= (model.context or length))
    rows = []
    for length in lengths:
        rows.append((*train_cost(model, length), *decode_cost(model, length)))
        say(f"{name} {length}: step {rows[-1][0]:.3g} s, token {1000 * rows[-1][2]:.3g} ms")
    columns = zip(*rows, strict=True) if rows else ((),) * 4
    return Measured(name, lengths, *columns)


def train_cost(model: LanguageModel, length: int) -> tuple[float, int]:
    """(seconds, bytes kept for the backward pass) of one row, without an optimizer's step."""
    ids_1T = torch.randint(model.vocab_size, (1, length), device=model.device)
    batch = TokenBatch(ids_1T, ids_1T)

    def step() -> None:
        next_token_loss(model, batch).sum.backward()

    model.train()
    kept_bytes = saved_bytes(model, step)
    found = _seconds(step)
    model.zero_grad(set_to_none=True)
    model.eval()
    return found, kept_bytes


def decode_cost(model: LanguageModel, length: int) -> tuple[float, int]:
    """(seconds, bytes remembered) of reading one more token after `length` - 1 others."""
    before = max(1, length - 1 - MOST_RUNS)
    state, one = model.new_state(1, before), torch.tensor([1])
    ids_1T = torch.randint(model.vocab_size, (1, before))
    model.step(ids_1T, torch.tensor([before]), state, last_only=True)
    remembered = state.nbytes
    runs = min(MOST_RUNS, (model.context or length) - before)
    spent = _seconds(lambda: model.step(ids_1T[:, :1], one, state, last_only=True), runs)
    return spent, remembered


def _seconds(work: Callable[[], object], runs: int = MOST_RUNS) -> float:
    """The quickest of a few runs (of slow work fewer): what else the machine does only adds."""
    found: list[float] = []
    while len(found) < runs and (sum(found) < ENOUGH_S or len(found) < 3):
        start_s = time.perf_counter()
        work()
        found.append(time.perf_counter() - start_s)
    return min(found)


def growth(lengths: Sequence[int], values: Sequence[float]) -> float:
    """The power of n with which values grow over the last three lengths (least squares of logarithms)."""
    xs, ys = ([math.log(one) for one in some[-3:]] for some in (lengths, values))
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    above = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    return above / (sum((x - mean_x) ** 2 for x in xs) or 1.0)


@dataclass(frozen=True, slots=True)
class Crossing:
    """From `length` on (0: everywhere) the second curve is below; predicted: beyond what was measured."""

    length: float
    predicted: bool = False


def crossing(lengths: Sequence[int], first: Sequence[float], second: Sequence[float]) -> Crossing | None:
    """Where the second curve goes below the first for good; None: nowhere near.

    Between two lengths and beyond the last the curves are taken as straight in their logarithms.
    """
    gaps = [math.log(b / a) for a, b in zip(first, second, strict=True)]  # below 0: the second is lower
    if gaps[-1] < 0:
        above = [place for place, gap in enumerate(gaps) if gap >= 0]
        if not above:
            return Crossing(0)
        left, right = above[-1], above[-1] + 1
        share = gaps[left] / (gaps[left] - gaps[right])
        return Crossing(lengths[left] * (lengths[right] / lengths[left]) ** share)
    faster = growth(lengths, first) - growth(lengths, second)
    if faster <= 0.05 or gaps[-1] / faster > math.log(REACH):
        return None
    return Crossing(lengths[-1] * math.exp(gaps[-1] / faster), predicted=True)


def sentences(found: Mapping[str, Measured], first: str = "GPT", second: str = "LSTM") -> list[str]:
    """What was found, in words; the crossings are those of the two models named."""
    lines = [_training(one) for one in found.values() if one.lengths]
    if first in found and second in found:
        pairs = (("trains", "train_seconds"), ("writes its next token", "decode_seconds"))
        lines += [_crossing(found[first], found[second], does, field) for does, field in pairs]
    return lines + [_memory(one) for one in found.values() if one.lengths]


def _training(one: Measured) -> str:
    last, power = one.lengths[-1], growth(one.lengths, one.train_seconds)
    step = _time(one.train_seconds[-1])
    return f"{one.name}: a training step on {last:,} tokens takes {step}; it grows as n^{power:.1f}."


def _crossing(a: Measured, b: Measured, does: str, field: str) -> str:
    lengths = [length for length in a.lengths if length in b.lengths]
    curves = [[getattr(one, field)[one.lengths.index(length)] for length in lengths] for one in (a, b)]
    found = crossing(lengths, *curves)
    so_far = f"Up to {lengths[-1]:,} tokens the {a.name} {does} faster than the {b.name}"
    if found is None:
        return f"{so_far}, and no crossing is near."
    if not found.length:
        return f"At every length from {lengths[0]:,} tokens the {b.name} {does} faster than the {a.name}."
    where = figures(found.length, 2)
    if found.predicted:
        return f"{so_far}; as the curves go on, they would cross at about {where}."
    return f"From about {where} tokens on the {b.name} {does} faster than the {a.name}."


def _memory(one: Measured) -> str:
    first, last = one.state_bytes[0], one.state_bytes[-1]
    token, length = _time(one.decode_seconds[-1]), one.lengths[-1]
    size = human_bytes(last)
    remembered = f"is {size}, however long the text" if first == last else f"has grown to {size}"
    return f"{one.name}: the token after {length:,} takes {token}; its memory {remembered}."


def _time(seconds: float) -> str:
    return f"{figures(seconds, 2)} s" if seconds >= 1 else f"{figures(1000 * seconds, 2)} ms"
