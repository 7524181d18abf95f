"""What a model in 8 bits loses: its bits per byte before and after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from malmoi.engine.engine import Engine
from malmoi.engine.loaded import Loaded
from malmoi.models.state import Scorer
from malmoi.text.tokenizer import Tokenizer
from malmoi.world import documents

NUM_DOCUMENTS = 24  # English and Korean by turns; about 10 kB


def bits_per_byte(scorer: Scorer, tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    """-log2 of the probability of texts per UTF-8 byte, each as far as the context reaches."""
    most = None if scorer.context is None else scorer.context - 1  # after the id that begins a text
    rests = [tokenizer.encode(text)[:most] for text in texts]
    nats = -sum(Engine(scorer, tokenizer).score([[tokenizer.start]] * len(rests), rests))
    return nats / math.log(2) / sum(len(tokenizer.decode(ids).encode()) for ids in rests)


def int8_loss(folder: str | Path, int8: Loaded, texts: Sequence[str] | None = None) -> tuple[float, float]:
    """Bits per byte of a model folder as it is and of the same model in 8 bits, on the same texts.

    texts: documents of the sample world if not given.
    """
    texts = texts or [one.text for one in documents(NUM_DOCUMENTS, split="valid")]
    before = bits_per_byte(Loaded(folder).model, int8.tokenizer, texts)
    return before, bits_per_byte(int8.model, int8.tokenizer, texts)
