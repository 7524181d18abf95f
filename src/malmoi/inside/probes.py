"""Built-in checks of a language model: minimal pairs, multiple choice, cloze. No answer is generated.

Each is a pure function of an engine and its items. A text begins where a document begins: after the eos id.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from malmoi.core.errors import UserError
from malmoi.core.nouns import Metric
from malmoi.engine.engine import Engine
from malmoi.engine.loaded import Loaded
from malmoi.engine.score import Pair, likelihoods, score_choices, split_pair
from malmoi.inside.probe_files import Cloze, MultipleChoice, read_choices, read_cloze, read_pairs
from malmoi.metrics.statistics import Floats, mean, word_perplexity
from malmoi.util import files
from malmoi.util.version import VERSION
from malmoi.world import Language, Split
from malmoi.world.minimal_pairs import MinimalPair, world_probes

PAIRS_SIGNATURE = "minimal pairs, summed nats"


def minimal_pairs(engine: Engine, pairs: Sequence[MinimalPair]) -> dict[str, Metric]:
    """The share of pairs whose good sentence has the higher log-probability (BLiMP, Warstadt et al. 2020).

    "accuracy" of all, then of each group ("accuracy/article"). Chance is 0.5. Raises as `prefers_good`.
    """
    return accuracies(prefers_good(engine, pairs), [pair.group for pair in pairs], PAIRS_SIGNATURE)


def prefers_good(engine: Engine, pairs: Sequence[MinimalPair]) -> Floats:
    """right_E: whether the good sentence of each pair is the likelier one; of equal ones neither is.

    What both begin with is read once. Raises UserError where a sentence exceeds the context.
    """
    start, both = engine.tokenizer.start, []
    for pair in pairs:
        ids = [engine.tokenizer.encode(text) for text in (pair.good, pair.bad)]
        _check_length(max(map(len, ids)), engine.scorer.context)
        both.append((_shared(*ids), ids))
    prompts = [[start, *ids[0][:shared]] for shared, ids in both]
    scores = score_choices(engine, prompts, [[one[shared:] for one in ids] for shared, ids in both])
    return np.array([good > bad for good, bad in scores], dtype=np.float64)


def multiple_choice(engine: Engine, items: Sequence[MultipleChoice]) -> dict[str, Metric]:
    """The share of items whose right choice is the likeliest after the prompt.

    "accuracy" goes by summed log-probability, "accuracy_norm" by that for each character, as in lm_eval's
    acc and acc_norm; of all, then accuracy of each group. Prompts are cut from the left where they exceed the
    context.
    """
    pairs = [
        _pair(engine, item.prompt, _continued(item.prompt, choice))
        for item in items
        for choice in item.choices
    ]
    scored = iter(likelihoods(engine, pairs))
    nats = [[next(scored).nats for _ in item.choices] for item in items]
    sizes = [[max(1, len(choice)) for choice in item.choices] for item in items]
    normed = [[n / size for n, size in zip(*both, strict=True)] for both in zip(nats, sizes, strict=True)]
    norm = mean(_right(normed, items), signature="likeliest choice, nats per character")
    groups = [item.group for item in items]
    found_all = accuracies(_right(nats, items), groups, "likeliest choice, summed nats")
    return {"accuracy": found_all.pop("accuracy"), "accuracy_norm": norm.metric()} | found_all


def cloze(engine: Engine, items: Sequence[Cloze]) -> dict[str, Metric]:
    """Whether greedy decoding finds each text's last word, and how surprising that word is.

    "accuracy" and "perplexity" of the word as LAMBADA defines them (Paperno et al. 2016). Prompts are cut
    from the left where they exceed the context.
    """
    pairs = [_pair(engine, item.prompt, item.word) for item in items]
    found = likelihoods(engine, pairs)
    greedy_E = np.array([one.greedy for one in found], dtype=np.float64)
    words = ["word"] * len(items)  # each item is one word, whatever its script
    perplexity = word_perplexity([one.nats for one in found], words)
    return {
        "accuracy": mean(greedy_E, signature="greedy last word").metric(),
        "perplexity": perplexity.metric(),
    }


def _continued(prompt: str, choice: str) -> str:
    return choice if prompt[-1:].isspace() else f" {choice}"


def _pair(engine: Engine, prompt: str, rest: str) -> Pair:
    """The ids of both, the prompt after the start of a document."""
    ids, after = split_pair(engine.tokenizer, prompt, rest)
    return [engine.tokenizer.start, *ids], after


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """How many ids both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def _check_length(length: int, context: int | None) -> None:
    if context is not None and length > context:
        raise UserError(
            f"a sentence is {length} tokens and the model's context is {context}; leave long ones out"
        )


def _right(scores: Sequence[Sequence[float]], items: Sequence[MultipleChoice]) -> Floats:
    """right_E: whether the best score is the answer's (the first of equal ones)."""
    pairs = zip(scores, items, strict=True)
    return np.array([int(np.argmax(of)) == item.answer for of, item in pairs], dtype=np.float64)


def accuracies(right_E: Floats, groups: Sequence[str], signature: str) -> dict[str, Metric]:
    """ "accuracy" over all, then "accuracy/GROUP" of each group in the order of first appearance."""
    found = {"accuracy": mean(right_E, signature=signature).metric()}
    for group in dict.fromkeys(filter(None, groups)):
        chosen_E = np.array([one == group for one in groups])
        found[f"accuracy/{group}"] = mean(right_E[chosen_E], signature=signature).metric()
    return found


def chance(accuracy: Metric, share: float = 0.5) -> bool:
    """Whether an accuracy does not differ from guessing."""
    low, high = accuracy.interval or (-math.inf, math.inf)
    return low <= share <= high


_KINDS: dict[str, tuple[Callable[[Path], list[Any]], Callable[[Engine, Any], dict[str, Metric]]]] = {
    "pairs": (read_pairs, minimal_pairs),
    "choices": (read_choices, multiple_choice),
    "cloze": (read_cloze, cloze),
}


@dataclass(frozen=True, slots=True)
class Probed:
    """One check of a model. source: the file, or "world"; sha256 of the file; note: a sentence for people."""

    kind: str
    source: str
    num_items: int
    metrics: dict[str, Metric]
    sha256: str = ""
    note: str = ""


def probe(
    folder: Path, given: dict[str, Path | None], *, world: bool = False, count: int | None = None,
    device: str = "cpu",
) -> list[Probed]:  # fmt: skip
    """Ask a model what is given: "pairs", "choices", "cloze" are files; world: the sample world, `count`
    pairs (None: 200) for each score.

    Raises UserError where nothing is asked, and for a folder or a file that cannot be used.
    """
    wanted = {kind: path for kind, path in given.items() if path is not None}
    if count and not world:
        raise UserError(f"`count` {count} needs `world`")
    if not wanted and not world:
        raise UserError("nothing to ask; give `pairs`, `choices` or `cloze` FILE, or `world`")
    asked = {kind: _KINDS[kind][0](path) for kind, path in wanted.items()}  # before the model is loaded
    loaded = Loaded(folder, device=device)
    engine = Engine(loaded.model, loaded.tokenizer, max_rows=32)
    return list(_probed(engine, wanted, asked, (count or 200) if world else None))


def _probed(
    engine: Engine, paths: dict[str, Path], asked: dict[str, list[Any]], world: int | None
) -> Iterator[Probed]:
    for kind, items in asked.items():
        path = paths[kind]
        digest = files.sha256(path) if path.is_file() else ""
        yield Probed(kind, str(path), len(items), _KINDS[kind][1](engine, items), digest)
    if world is not None:
        found = grammar_and_logic(engine, count=world)
        yield Probed("world", "world", 2 * len(LANGUAGES) * world, found, note=verdict(found))


def write_probes(path: Path, folder: Path, probed: list[Probed]) -> None:
    """The results as JSON."""
    value = {"malmoi": VERSION, "model": str(folder), "probes": [asdict(one) for one in probed]}
    files.write_json(path, value)


LANGUAGES: tuple[Language, ...] = ("en", "ko")


def grammar_and_logic(
    engine: Engine,
    *,
    split: Split = "test",
    languages: Sequence[Language] = LANGUAGES,
    count: int = 200,
    seed: int = 0,
) -> dict[str, Metric]:
    """How often the right one of two sentences is the likelier: where only the grammar differs, or the logic.

    "grammar" and "logic" over all languages, `count` pairs of each in each; then each language alone
    ("grammar/en"), and its phenomena ("grammar/en/article"). Chance is 0.5 everywhere.
    """
    found: dict[str, Metric] = {}
    probes = {language: world_probes(split, language, count=count, seed=seed) for language in languages}
    for name in ("grammar", "logic"):
        pairs_of_all = [(language, pair) for language in languages for pair in probes[language][name]]
        right_E = prefers_good(engine, [pair for _, pair in pairs_of_all])
        languages_E = [language for language, _ in pairs_of_all]
        phenomena_E = [f"{language}/{pair.group}" for language, pair in pairs_of_all]
        scores = [accuracies(right_E, groups, PAIRS_SIGNATURE) for groups in (languages_E, phenomena_E)]
        found |= {key.replace("accuracy", name, 1): it for one in scores for key, it in one.items()}
    return dict(sorted(found.items(), key=lambda item: item[0].count("/")))


def verdict(found: dict[str, Metric]) -> str:
    """The two scores in a sentence."""
    grammar, logic = found["grammar"], found["logic"]
    scores = f"grammar {grammar.value:.0%}, logic {logic.value:.0%}, where guessing gives 50%"
    if chance(logic) and not chance(grammar):
        return f"{scores}: fluent, but what it says need not follow"
    return scores
