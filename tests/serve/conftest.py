from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from malmoi.engine.engine import Engine
from malmoi.methods.folder import save_method
from malmoi.methods.registry import make_method
from malmoi.methods.use import completed
from malmoi.serve.catalogue import Catalogue, LanguageEntry, open_catalogue
from malmoi.text.chat import TEMPLATE, ChatFormat
from malmoi.text.tokenizer import Tokenizer
from tests.engine.fake_scorer import FakeScorer
from tests.engine.scripted import BYTES, FORM, Scripted
from tests.methods.tiny import world, write_model
from tests.serve.running import Running, running


def scripted_entry(name: str, scorer: FakeScorer, *, chats: bool, max_rows: int = 4) -> LanguageEntry:
    """A language model without a neural network: what it says is a function of all that it has read."""
    tokenizer = Tokenizer.from_json(BYTES.to_json())
    if chats:
        ChatFormat(tokenizer, TEMPLATE).adopt()
    engine = Engine(scorer, tokenizer, max_rows=max_rows)
    return LanguageEntry(name, Path(name), cast(Any, None), engine, FORM if chats else None, 1_700_000_000)


def fitted(folder: Path, task: str, method: str) -> Path:
    """A method fitted to a few examples of the sample world."""
    made, examples = world(task)
    found = make_method(method, made)
    report = found.fit(examples[:50], examples[50:])
    save_method(folder, found, completed(report, found, examples[:50]))
    return folder


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny model that chats, and fitted methods."""
    root = tmp_path_factory.mktemp("models")
    return {
        "tiny": write_model(root / "tiny", chat=True),
        "topics": fitted(root / "topics", "classification", "tfidf"),
    }


@pytest.fixture(scope="session")
def catalogue(folders: dict[str, Path]) -> Catalogue:
    """talker says what it was told; writer writes what only it understands; the rest from folders."""
    made = [
        scripted_entry("talker", Scripted(context=512), chats=True),
        scripted_entry("writer", FakeScorer(BYTES.vocab_size, context=256), chats=False),
    ]
    return {entry.name: entry for entry in made} | open_catalogue(list(folders.values()), max_rows=4)


@pytest.fixture(scope="session")
def server(catalogue: Catalogue) -> Iterator[Running]:
    with running(catalogue) as found:
        yield found
