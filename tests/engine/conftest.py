from __future__ import annotations

import pytest

from malmoi.text.tokenizer import Tokenizer, train_tokenizer
from tests.engine.fake_scorer import FakeScorer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer([], "byte")


@pytest.fixture
def scorer(tokenizer: Tokenizer) -> FakeScorer:
    return FakeScorer(tokenizer.vocab_size)
