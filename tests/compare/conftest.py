"""A comparison of fakes, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from malmoi.compare.comparison import Comparison
from malmoi.compare.settings import ComparisonSettings
from malmoi.methods.registry import METHODS
from tests.compare.compared import compared_fakes
from tests.compare.fakes import FAKES, write_reviews


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, fake in FAKES.items():
        monkeypatch.setitem(METHODS, name, fake)


@pytest.fixture
def settings(tmp_path: Path) -> ComparisonSettings:
    """Two fakes on reviews."""
    train = write_reviews(tmp_path / "reviews.jsonl")
    return ComparisonSettings(
        task="classification",
        train=train,
        methods={"words": {}, "usual": {}},
        measure_seconds=0.001,
    )


@pytest.fixture(scope="session")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """See `tests.compare.compared:compared_fakes`."""
    return compared_fakes(tmp_path_factory.mktemp("compared"))
