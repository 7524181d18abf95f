"""Perfect grammar, questionable logic: two scores of one model on the sample world."""

from __future__ import annotations

from collections.abc import Sequence

from malmoi.core.nouns import Metric
from malmoi.engine.engine import Engine
from malmoi.inside.probes import PAIRS_SIGNATURE, accuracies, chance, prefers_good
from malmoi.world.document import Language, Split
from malmoi.world.minimal_pairs import world_probes

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
        told = [(language, pair) for language in languages for pair in probes[language][name]]
        right_E = prefers_good(engine, [pair for _, pair in told])
        languages_E = [language for language, _ in told]
        phenomena_E = [f"{language}/{pair.group}" for language, pair in told]
        scores = [accuracies(right_E, groups, PAIRS_SIGNATURE) for groups in (languages_E, phenomena_E)]
        found |= {key.replace("accuracy", name, 1): it for one in scores for key, it in one.items()}
    return dict(sorted(found.items(), key=lambda item: item[0].count("/")))


def verdict(found: dict[str, Metric]) -> str:
    """The two scores in a sentence."""
    grammar, logic = found["grammar"], found["logic"]
    told = f"grammar {grammar.value:.0%}, logic {logic.value:.0%}, where guessing gives 50%"
    if chance(logic) and not chance(grammar):
        return f"{told}: fluent, but what it says need not follow"
    return told
