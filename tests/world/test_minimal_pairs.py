"""Minimal pairs of the sample world: one thing is wrong in the bad one, and it is what the group says."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from malmoi.world import Language, Split
from malmoi.world.minimal_pairs import MinimalPair, world_probes
from malmoi.world.patterns import final_consonant

PARTICLES = {"은": "는", "이": "가", "을": "를", "과": "와", "으로": "로"}


def probes(language: Language, split: Split = "test", count: int = 120) -> dict[str, list[MinimalPair]]:
    return world_probes(split, language, count=count)


@pytest.mark.parametrize("language", ["en", "ko"])
def test_pairs_are_the_same_every_time_and_balanced(language: Language) -> None:
    found = probes(language)
    assert found == probes(language)
    assert {name: pairs[:50] for name, pairs in found.items()} == probes(language, count=50)
    for pairs in found.values():
        assert len(pairs) == 120
        assert all(pair.good != pair.bad for pair in pairs)
        assert min(Counter(pair.group for pair in pairs).values()) > 20
    assert not {pair.good for pair in found["logic"]} & {it.good for it in probes(language, "train")["logic"]}


@pytest.mark.parametrize("language", ["en", "ko"])
def test_both_conclusions_are_as_grammatical_and_only_one_follows(language: Language) -> None:
    for pair in probes(language)["logic"]:
        *facts, good = re.split(r"(?<=[.]) ", pair.good)
        *same, bad = re.split(r"(?<=[.]) ", pair.bad)
        assert facts == same
        assert len(facts) == 4
        told = " ".join(facts)
        words = [set(re.findall(r"[\w]+", text)) for text in (good, bad)]
        # what differs was told of; in Korean with another particle
        for word in words[0] ^ words[1]:
            assert word in told or any(
                word.removesuffix(end) in told for end in (*PARTICLES, *PARTICLES.values())
            )


def test_korean_particles_contradict_the_sound_before_them() -> None:
    pairs = [pair for pair in probes("ko")["grammar"] if pair.group == "particle"]
    for pair in pairs:
        start = next(i for i, (a, b) in enumerate(zip(pair.good, pair.bad, strict=False)) if a != b)
        good, bad = (re.match(r"으로|로|[가-힣]", text[start:]) for text in (pair.good, pair.bad))
        assert good
        assert bad
        consonant = final_consonant(pair.good[start - 1]) not in ("", "ㄹ" if "로" in good[0] else "")
        assert (good[0] in PARTICLES) == consonant
        assert PARTICLES.get(good[0], good[0]) == PARTICLES.get(bad[0], bad[0])


def test_english_changes_one_or_two_words() -> None:
    for pair in probes("en")["grammar"]:
        good, bad = pair.good.split(" "), pair.bad.split(" ")
        assert len(good) == len(bad)
        if pair.group == "word order":
            assert sorted(re.findall(r"\w+", pair.good)) == sorted(re.findall(r"\w+", pair.bad))
        else:
            assert sum(a != b for a, b in zip(good, bad, strict=True)) == 1
        if pair.group == "article":
            (wrong,) = re.findall(r"\ba(?= [aeiou])|\bA(?= [aeiou])|\b[Aa]n(?= (?!hour)[^aeiou])", pair.bad)
            assert wrong
