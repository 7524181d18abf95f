from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from malmoi.util import threads

# The build draws the same examples every time, so that red means changed; `make test-all` draws new ones.
# No example has a deadline: how long one takes is the machine's affair.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("random", deadline=None)
settings.load_profile(
    "fixed"
)  # Nor does a test depend on what else the machine does: nobody can tell how busy it is.
threads._STAT = Path("no/such/file")

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


@pytest.fixture(scope="module")  # no longer, for while it lives nothing else can run an event loop here
def browser() -> Iterator[Any]:
    """Chromium, driven by Playwright."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium on the path: nothing was looked at in a browser")
    api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    with api.sync_playwright() as playwright:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()
