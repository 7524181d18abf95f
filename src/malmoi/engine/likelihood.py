"""Log-likelihoods of continuations, and whether greedy decoding would say them.

What evaluation needs beyond `malmoi.engine.engine:Engine.score`: the greedy flag of a cloze test (LAMBADA's
accuracy, Paperno et al. 2016) and prompts that are cut from the left where they exceed the context.

Shape letters: B rows, T positions, V vocabulary, W wanted positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from malmoi.core.errors import UserError
from malmoi.engine.engine import LOGITS_NUMBERS
from malmoi.engine.reading import padded
from malmoi.engine.scoring import Read, batches
from malmoi.models.state import Scorer
from malmoi.text.tokenizer import Tokenizer

Pair = tuple[list[int], list[int]]  # the ids of a prompt, and of what follows it


class Likelihood(NamedTuple):
    """nats: the summed log-probability of a continuation. greedy: each of its tokens was the likeliest."""

    nats: float
    greedy: bool


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


@torch.inference_mode()
def log_likelihoods(scorer: Scorer, pairs: Sequence[Pair], *, max_rows: int = 32) -> list[Likelihood]:
    """The likelihood of each continuation after its prompt, in order; prompts must not be empty.

    The logits of at most `max_rows` pairs, or 64 MiB of them, are held at once. Raises as `fitted`.
    """
    wanted = [fitted(pair, scorer.context) for pair in pairs]
    assert all(prompt for prompt, _ in wanted)
    reads = [Read(number, [*prompt, *rest[:-1]]) for number, (prompt, rest) in enumerate(wanted) if rest]
    found: list[Likelihood] = [Likelihood(0.0, True)] * len(pairs)  # nothing to say has the likelihood 1
    for batch in batches(reads, max_rows, max(1, LOGITS_NUMBERS // scorer.vocab_size)):
        for read, result in zip(batch, _batch(scorer, batch, wanted), strict=True):
            found[read.prompt] = result
    return found


def _batch(scorer: Scorer, batch: Sequence[Read], pairs: Sequence[Pair]) -> list[Likelihood]:
    ids_BT, counts_B = padded([read.ids for read in batch])
    state = scorer.new_state(len(batch), ids_BT.shape[1])
    logits_BTV = scorer.step(ids_BT, counts_B, state)
    results: list[Likelihood] = []
    for logits_TV, read in zip(logits_BTV, batch, strict=True):
        prompt, rest = pairs[read.prompt]
        logits_WV = logits_TV[len(prompt) - 1 : len(prompt) - 1 + len(rest)].float()
        ids_W = torch.tensor(rest, device=logits_WV.device)
        logprobs_W = logits_WV.log_softmax(-1).gather(-1, ids_W[:, None]).squeeze(-1)
        greedy = bool((logits_WV.argmax(-1) == ids_W).all())
        results.append(Likelihood(float(logprobs_W.double().sum()), greedy))
    return results
