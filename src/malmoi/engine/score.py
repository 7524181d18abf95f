"""The one likelihood: how probable a model finds what follows a prompt, and the tokens of a text.

What follows every token that is read scores the next one. So a continuation needs all but its last token, and
those whose beginnings are the same, or one of which begins another, need one reading together.

Shape letters: B rows, T positions, V vocabulary, C continuations (choices), W wanted log-probabilities.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from malmoi.core.errors import UserError
from malmoi.core.nouns import Done, silent
from malmoi.engine.engine import Engine, Prompt
from malmoi.engine.prefixes import Found, common
from malmoi.engine.reader import CHUNK_TOKENS, padded
from malmoi.engine.request import Sampling, TopLogprobs
from malmoi.engine.sampling import check_finite, top_logprobs
from malmoi.models.state import KVState, State
from malmoi.text.tokenizer import Tokenizer

LOGITS_NUMBERS = 1 << 24  # at most this many logits at once: 64 MiB
GROUPS_AT_ONCE = 8  # that what prompts have in common is looked for in
LEAST_IN_PLACE = 8  # prompts that keep a step busy, so that choices need not be read side by side
STATE_BYTES = 1 << 26  # for the copies of prompts' states; max_rows of them may take more

Pair = tuple[list[int], list[int]]  # the ids of a prompt, and of what follows it
Wanted = tuple[int, int, int, int]  # row, position, token, number of the choice


class Likelihood(NamedTuple):
    """nats: the summed log-probability of a continuation. greedy: each of its tokens was the likeliest, as a
    cloze test asks (LAMBADA's accuracy, Paperno et al. 2016)."""

    nats: float
    greedy: bool


def score(engine: Engine, prompts: Sequence[Prompt], continuations: Sequence[Prompt]) -> list[float]:
    """Summed log-probability (nats) of each continuation after its prompt.

    The two texts are encoded apart, so that the boundary between them is the same for every continuation.
    Raises UserError for an empty prompt or where both together exceed the context.
    """
    return [nats for (nats,) in score_choices(engine, prompts, [[rest] for rest in continuations])]


def score_choices(
    engine: Engine, prompts: Sequence[Prompt], choices: Sequence[Sequence[Prompt]], done: Done = silent
) -> list[list[float]]:
    """Summed log-probability (nats) of each of a prompt's choices; the prompt is read once for them all.

    done: hears for how many prompts that is known. Encoded as, and raises as, `score`.
    """
    encode = engine.tokenizer.encode
    choices_ids = [
        [encode(rest) if isinstance(rest, str) else list(rest) for rest in of_prompt] for of_prompt in choices
    ]
    found = _likelihoods(engine, [engine.ids(prompt) for prompt in prompts], choices_ids, done)
    return [[one.nats for one in of_prompt] for of_prompt in found]


def likelihoods(engine: Engine, pairs: Sequence[Pair]) -> list[Likelihood]:
    """Of each continuation after its prompt, which loses its beginning where both exceed the context.

    A prompt that several pairs have is read once. Raises as `fitted`, and UserError for an empty prompt.
    """
    numbers: dict[tuple[int, ...], list[int]] = {}
    kept = [fitted(pair, engine.scorer.context) for pair in pairs]
    for number, (prompt, _) in enumerate(kept):
        numbers.setdefault(tuple(prompt), []).append(number)
    choices = [[kept[number][1] for number in of_prompt] for of_prompt in numbers.values()]
    found = _likelihoods(engine, [list(prompt) for prompt in numbers], choices)
    placed = {
        number: one
        for of_prompt, ones in zip(numbers.values(), found, strict=True)
        for number, one in zip(of_prompt, ones, strict=True)
    }
    return [placed[number] for number in range(len(pairs))]


def score_in_parts(engine: Engine, pairs: Sequence[Pair]) -> list[float]:
    """Log-probability (nats) of the second ids of each pair after the first, however long they are.

    What exceeds the context is scored in further parts, which see half a context of what came before.
    """
    parts = [(n, *part) for n, pair in enumerate(pairs) for part in _within(*pair, engine.scorer.context)]
    totals = [0.0] * len(pairs)
    scores = score(engine, [before for _, before, _ in parts], [rest for _, _, rest in parts])
    for (n, _, _), nats in zip(parts, scores, strict=True):
        totals[n] += nats
    return totals


@torch.inference_mode()
def token_logprobs(engine: Engine, ids: Sequence[int], top: int = 0) -> list[tuple[float, TopLogprobs]]:
    """The log-probability (nats) of every token but the first after those before it, and the best `top`
    tokens there. Raises UserError as `Engine.submit` does."""
    engine.check_ids(ids)
    scorer = engine.scorer
    state, found = scorer.new_state(1, len(ids)), []
    width = max(1, min(CHUNK_TOKENS, LOGITS_NUMBERS // scorer.vocab_size))
    for start in range(0, len(ids) - 1, width):
        part = list(ids[start : min(start + width, len(ids) - 1)])
        logits_1TV = scorer.step(torch.tensor([part]), torch.tensor([len(part)]), state)
        logprobs_TV = logits_1TV[0].float().log_softmax(-1)
        check_finite(logprobs_TV[:, 0])
        targets = list(ids[start + 1 : start + 1 + len(part)])
        own = logprobs_TV[torch.arange(len(part)), targets].tolist()
        found += zip(own, top_logprobs(logprobs_TV, [Sampling(logprobs=top)] * len(part)), strict=True)
    return found


def bits_per_byte(engine: Engine, texts: Sequence[str]) -> float:
    """-log2 of the probability of texts per UTF-8 byte, each as far as the context reaches."""
    tokenizer, context = engine.tokenizer, engine.scorer.context
    most = None if context is None else context - 1  # after the id that begins a text
    rests = [tokenizer.encode(text)[:most] for text in texts]
    nats = -sum(score(engine, [[tokenizer.start]] * len(rests), rests))
    return nats / math.log(2) / sum(len(tokenizer.decode(ids).encode()) for ids in rests)


# ---- where a continuation begins and what fits


def split_pair(tokenizer: Tokenizer, prompt: str, rest: str) -> Pair:
    """Ids of a prompt and of what follows it, cut out of the ids of both together.

    A space at the prompt's end belongs to the word that follows, as most tokenizers write words; so the two
    are encoded as in running text. An empty prompt gives no ids.
    """
    kept = prompt.rstrip(" ")
    whole = tokenizer.encode(prompt + rest)
    start = len(tokenizer.encode(kept)) if kept else 0
    return whole[:start], whole[start:]


def fitted(pair: Pair, context: int | None) -> Pair:
    """The pair with as much of the prompt's end as the context holds; the last id need not be read.

    Raises UserError where the continuation alone exceeds the context.
    """
    prompt, rest = pair
    if context is None or len(prompt) + len(rest) - 1 <= context:
        return pair
    room = context + 1 - len(rest)
    if room < 1:
        raise UserError(
            f"a continuation is {len(rest)} tokens and the model's context is {context}; give shorter ones"
        )
    return prompt[-room:], rest


def _within(before: list[int], rest: list[int], context: int | None) -> Iterator[Pair]:
    """(prompt, continuation)s of at most `context` tokens; the last one need not be read."""
    whole, done = before + rest, len(before)
    context = context or len(whole)
    while done < len(whole):
        end = done + context - len(before) + 1
        yield before, whole[done:end]
        done = min(end, len(whole))
        before = whole[:done][-context // 2 :]


# ---- reading


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


@torch.inference_mode()
def _likelihoods(
    engine: Engine,
    prompts: Sequence[list[int]],
    choices: Sequence[Sequence[list[int]]],
    done: Done = silent,
) -> list[list[Likelihood]]:
    """Of each of a prompt's choices."""
    for prompt, rests in zip(prompts, choices, strict=True):
        engine.check_ids(prompt, rests)
    found: list[list[Likelihood]] = [[] for _ in prompts]
    counted = 0
    for group, known in _groups(engine, prompts):
        of_group = _group(engine, [prompts[i] for i in group], [choices[i] for i in group], known)
        for i, of_prompt in zip(group, of_group, strict=True):
            found[i] = of_prompt
        done(counted := counted + len(group))
    return found


def _groups(engine: Engine, prompts: Sequence[list[int]]) -> Iterator[tuple[list[int], list[Found]]]:
    """The numbers of prompts to read together, of which about as much is left to read, and what is known of
    each. Those that begin alike come soon after each other, so that few states are held at once."""
    order = sorted(range(len(prompts)), key=prompts.__getitem__)
    for start in range(0, len(order), near := GROUPS_AT_ONCE * engine.max_rows):
        numbers = order[start : start + near]
        known = engine.reader.known([prompts[i] for i in numbers])
        left = [len(prompts[i]) - one.length for i, one in zip(numbers, known, strict=True)]
        for group in engine.reader.groups(left):
            yield [numbers[n] for n in group], [known[n] for n in group]


def _group(
    engine: Engine,
    prompts: Sequence[list[int]],
    choices: Sequence[Sequence[list[int]]],
    known: Sequence[Found],
) -> list[list[Likelihood]]:
    """Of prompts that are read together."""
    starts = [0, *accumulate(map(len, choices))]
    reads = [
        read for r, rests in enumerate(choices) for read in shared_reads(rests, r, first_number=starts[r])
    ]
    room = max((len(it.ids) for it in reads), default=0)
    logits_RV, state = engine.reader.read_prompts(prompts, room, known)
    for r, one in enumerate(known):
        if 2 * one.length < len(prompts[r]):  # or the most of it is kept anyhow
            engine.reader.remember(prompts[r], state, r)
    totals = _Totals(starts[-1])
    totals.add(
        logits_RV[:, None], [(it.prompt, 0, ids[0], c) for it in reads for c, ids in it.choices if ids]
    )
    alike = all(rests == choices[0] for rests in choices)
    if alike and len(prompts) >= LEAST_IN_PLACE and isinstance(state, KVState) and not engine.deterministic:
        _read_in_place(engine, totals, choices[0], state)
    else:
        _read_copies(engine, totals, reads, state, len(prompts))
    found = totals.likelihoods()
    return [found[start:stop] for start, stop in pairwise(starts)]


def _read_in_place(engine: Engine, totals: _Totals, choices: Sequence[list[int]], state: KVState) -> None:
    """The same choices after every prompt, one after the other: each goes back to where it parts from the one
    before. What a cache holds beyond its lengths is written over, so nothing is copied."""
    wanted: defaultdict[tuple[int, ...], list[tuple[int, int]]] = defaultdict(
        list
    )  # what follows a beginning
    for number, ids in enumerate(choices):
        for t in range(1, len(ids)):
            wanted[*ids[:t]].append((ids[t], number))
    lengths_B, before, num_rows = state.lengths_B.clone(), list[int](), len(state.lengths_B)
    width = max(1, LOGITS_NUMBERS // (engine.scorer.vocab_size * num_rows))
    for ids in (read.ids for read in shared_reads(choices) if read.ids):
        kept = common(before, ids)
        for start in range(kept, len(ids), width):
            state.lengths_B = lengths_B + start
            part = ids[start : start + width]
            logits_BTV = engine.scorer.step(*padded([part] * num_rows), state)
            totals.add(logits_BTV, [
                (b, t, id, b * len(choices) + number)
                for t in range(len(part))
                for id, number in wanted[*ids[: start + t + 1]]
                for b in range(num_rows)
            ])  # fmt: skip
        before = ids


def _read_copies(
    engine: Engine, totals: _Totals, reads: Sequence[Read], state: State, num_prompts: int
) -> None:
    """Any choices, each after a copy of its prompt's state, many of them at once."""
    most_rows = max(engine.max_rows, STATE_BYTES * num_prompts // max(1, state.nbytes))
    most_rows = 1 if engine.deterministic else most_rows
    for batch in batches(reads, most_rows, max(1, LOGITS_NUMBERS // engine.scorer.vocab_size)):
        _read(engine, totals, batch, state.select([read.prompt for read in batch]))


def _read(engine: Engine, totals: _Totals, batch: Sequence[Read], state: State) -> None:
    """Add what these reads say, a single long one in pieces."""
    width = max(1, LOGITS_NUMBERS // (engine.scorer.vocab_size * len(batch)))
    for start in range(0, len(batch[-1].ids), width):
        ids_BT, counts_B = padded([read.ids[start : start + width] for read in batch])
        logits_BTV = engine.scorer.step(ids_BT, counts_B, state)
        totals.add(
            logits_BTV, [one for b, read in enumerate(batch) for one in read.wanted(b, start, start + width)]
        )


class _Totals:
    """What has been added up of each choice."""

    def __init__(self, count: int) -> None:
        self._nats_C = torch.zeros(count, dtype=torch.float64)
        self._misses_C = torch.zeros(count, dtype=torch.int64)  # tokens that were not the likeliest

    def add(self, logits_BTV: Tensor, wanted: Sequence[Wanted]) -> None:
        """The wanted log-probabilities, each to its choice."""
        if not wanted:
            return
        rows_W, places_W, ids_W, numbers_W = torch.tensor(wanted).T
        norms_BT = torch.stack([logits_TV.float().logsumexp(-1) for logits_TV in logits_BTV])
        logprobs_W = logits_BTV[rows_W, places_W, ids_W].float() - norms_BT[rows_W, places_W]
        self._nats_C.index_add_(0, numbers_W, logprobs_W.double().cpu())
        missed_W = logits_BTV.argmax(-1)[rows_W, places_W].cpu() != ids_W
        self._misses_C.index_add_(0, numbers_W, missed_W.long())

    def likelihoods(self) -> list[Likelihood]:
        """In order. Raises UserError for what is not finite."""
        check_finite(self._nats_C)
        return [
            Likelihood(nats, misses == 0)
            for nats, misses in zip(self._nats_C.tolist(), self._misses_C.tolist(), strict=True)
        ]
