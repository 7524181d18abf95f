"""The evaluation harness measures a served model as the engine does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from malmoi.engine.score import score
from malmoi.serve.catalogue import LanguageEntry
from tests.serve.running import Running

pytestmark = pytest.mark.slow  # the harness takes long to import


def test_log_likelihoods_are_the_engines(
    server: Running, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    instances = pytest.importorskip("lm_eval.api.instance")
    models: Any = pytest.importorskip("lm_eval.models.openai_completions")
    model = models.LocalCompletionsAPI(
        base_url=f"{server.url}/v1/completions", model="tiny", tokenizer=str(folders["tiny"]),
        tokenizer_backend="huggingface", max_length=256, batch_size=2,
    )  # fmt: skip
    pairs = [("오늘은", " 맑음"), ("the game", " was won by"), ("서울", " 날씨")]
    asked = [instances.Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    entry = server.catalogue["tiny"]
    assert isinstance(entry, LanguageEntry)
    encode = entry.engine.tokenizer.encode
    prompts, rests = zip(*((encode(a), encode(a + b)[len(encode(a)) :]) for a, b in pairs), strict=True)
    expected = score(entry.engine, prompts, rests)
    assert [value for value, _ in model.loglikelihood(asked)] == pytest.approx(expected, abs=1e-4)
