from __future__ import annotations

import pytest
from fake_scorer import FakeScorer

from malmoi.text.tokenizer import Tokenizer, train_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer([], "byte")


@pytest.fixture
def scorer(tokenizer: Tokenizer) -> FakeScorer:
    return FakeScorer(tokenizer.vocab_size)
