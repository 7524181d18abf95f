"""A comparison of fakes, for the tests of what it found and of what is shown of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from malmoi.compare.comparison import Comparison
from malmoi.compare.runner import run_comparison
from malmoi.compare.settings import ComparisonSettings
from malmoi.methods.registry import METHODS
from tests.compare.fakes import FAKES, write_reviews


def compared_fakes(folder: Path) -> Comparison:
    """A whole comparison in this process: a failure, a slow method, a learning curve, a price."""
    with pytest.MonkeyPatch.context() as patch:
        for name, fake in FAKES.items():
            patch.setitem(METHODS, name, fake)
        settings = ComparisonSettings(
            task="classification", train=write_reviews(folder / "reviews.jsonl", 900), curve=True,
            methods={"words": {}, "slow": {"letters": 3}, "usual": {}, "raises": {}},
            price_per_hour=1200, currency="원", measure_seconds=0.001,
        )  # fmt: skip
        return run_comparison(settings, folder / "out", isolated=False)
