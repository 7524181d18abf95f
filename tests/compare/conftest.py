"""A comparison of fakes, made once, and a browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

from malmoi.compare.comparison import Comparison
from malmoi.compare.run import run_comparison
from malmoi.compare.settings import ComparisonSettings
from malmoi.methods.registry import METHODS
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
    """A whole comparison in this process: a failure, a slow method, a learning curve, a price."""
    folder = tmp_path_factory.mktemp("compared")
    with pytest.MonkeyPatch.context() as patch:
        for name, fake in FAKES.items():
            patch.setitem(METHODS, name, fake)
        settings = ComparisonSettings(
            task="classification", train=write_reviews(folder / "reviews.jsonl", 900), curve=True,
            methods={"words": {}, "slow": {"letters": 3}, "usual": {}, "raises": {}},
            price_per_hour=1200, currency="원", measure_seconds=0.001,
        )  # fmt: skip
        return run_comparison(settings, folder / "out", isolated=False)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium on the path: the report was not looked at in a browser")
    with sync_playwright() as playwright:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()
