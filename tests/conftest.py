from __future__ import annotations

import random
from pathlib import Path

import pytest

ANIMALS = ("cat", "goose", "turtle", "crow", "고양이", "거위", "거북이", "까마귀")
PLACES = ("at the mill", "under the bridge", "in the library", "방앗간에서", "다리 아래에서", "도서관에서")
DOINGS = ("slept", "sang a song", "read the paper", "잠을 잤다", "노래를 불렀다", "신문을 읽었다")


def sentences(count: int, seed: int = 0) -> list[str]:
    """Short made-up lines in two languages."""
    rng = random.Random(seed)
    return [f"{rng.choice(ANIMALS)} {rng.choice(DOINGS)} {rng.choice(PLACES)}." for _ in range(count)]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One text file of some 15 kB."""
    path = tmp_path_factory.mktemp("corpus") / "town.txt"
    path.write_text("\n".join(sentences(400)), encoding="utf-8")
    return path
