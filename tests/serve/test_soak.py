"""Many streaming clients at once, some of which go away: nothing is lost, mixed up or kept.

A fake scorer has no tensors in its state, so it shows what the server does. Tiny Transformers in every
precision show what the states do, where several choices of a request leave from the middle of a batch.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import time
from pathlib import Path
from typing import Any, cast

import httpx
import psutil
import pytest
import torch

from malmoi.engine import Engine, Sampling
from malmoi.models.build import build_model
from malmoi.models.config import TransformerConfig
from malmoi.models.grouped import INT8
from malmoi.models.packed import pack
from malmoi.models.state import Scorer
from malmoi.serve.catalogue import PREFIX_BYTES, LanguageEntry
from tests.engine.fake_scorer import FakeScorer
from tests.engine.scripted import BYTES
from tests.serve.running import Running, running

CLIENTS = 64
TOKENS = 32
PROMPTS = [f"{i} 번째 이야기 once upon a time" for i in range(72)]
KINDS = ("fake", "fp32", "bf16", "int8")


def scorer_of(kind: str) -> Scorer:
    """A fake scorer, or a tiny Transformer in this precision, packed as a server does it."""
    if kind == "fake":
        return FakeScorer(BYTES.vocab_size)
    torch.manual_seed(1)
    config = TransformerConfig(
        vocab_size=BYTES.vocab_size, context=128, layers=2, width=64, heads=4, kv_heads=2
    )
    model = build_model(config).eval()
    with torch.no_grad():  # larger weights, so that answers are not one token again and again
        for parameter in model.parameters():
            parameter.mul_(3.0)
    model = model.to(torch.bfloat16 if kind == "bf16" else torch.float32)
    pack(model, INT8 if kind == "int8" else None)
    return model


def entry_of(kind: str) -> LanguageEntry:
    engine = Engine(scorer_of(kind), BYTES, max_rows=16, prefix_bytes=PREFIX_BYTES)
    return LanguageEntry("writer", Path("writer"), cast(Any, None), engine, None, 1_700_000_000)


def alone(kind: str) -> dict[str, str]:
    """What prompts get where nobody else asks, of those prompts that leave the least doubt.

    In a batch the last bits differ, so only tokens whose logit leads clearly have to be the same.
    """
    engine = Engine(scorer_of(kind), BYTES, max_rows=1)
    params = Sampling(temperature=0.0, max_tokens=TOKENS, logprobs=2)
    found: list[tuple[float, str, str]] = []
    for prompt in PROMPTS:
        events = list(engine.stream(prompt, params))
        *texts, last = [event.text for event in events]
        lead = min(event.top[0][1] - event.top[1][1] for event in events)
        found.append((lead, prompt, "".join(texts) + last.rstrip("\ufffd")))  # without a cut character
    return {prompt: text for _, prompt, text in sorted(found)[-len(PROMPTS) // 3 :]}


async def ask(client: httpx.AsyncClient, draw: random.Random, expected: dict[str, str]) -> bool:
    """One request, which may go away before its end; whether it was read to the end."""
    prompt, patience = draw.choice([*expected]), draw.choice([None, None, 0, 1, 5])
    n = draw.choice([1, 1, 2, 4])
    body = {
        "prompt": prompt,
        "temperature": 0,
        "max_tokens": TOKENS,
        "stream": True,
        "model": "writer",
        "n": n,
    }
    texts, done, pieces = [""] * n, False, 0
    async with client.stream("POST", "/v1/completions", json=body) as response:
        assert response.status_code == 200, await response.aread()
        async for line in response.aiter_lines():
            if pieces == patience:
                return False
            if line == "data: [DONE]":
                done = True
            elif line:
                pieces += 1
                for choice in json.loads(line.removeprefix("data: "))["choices"]:
                    texts[choice["index"]] += choice["text"]
    assert done, "a request was lost"
    assert texts == [expected[prompt]] * n, "requests were mixed up"
    return True


async def soak(server: Running, kind: str, clients: int, most: int, seconds: float) -> tuple[int, list[int]]:
    """Every client asks up to `most` times. Requests read to the end, and memory as they went on."""
    expected, until, whole, asked = alone(kind), time.monotonic() + seconds, 0, 0
    memory: list[int] = []
    # a connection for each request: one that is used again may be closed by either side just then
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=server.url, timeout=120, limits=limits) as client:

        async def one(number: int) -> None:
            nonlocal whole, asked
            draw = random.Random(number)
            for _ in range(most):
                if time.monotonic() > until:
                    return
                read = await ask(client, draw, expected)
                whole, asked = whole + read, asked + 1
                if asked % 200 == 0:
                    gc.collect()
                    memory.append(psutil.Process().memory_info().rss)

        await asyncio.gather(*(one(number) for number in range(clients)))
        assert (await client.get("/health")).status_code == 200
    return whole, memory


def check(kind: str, clients: int, most: int, seconds: float, growth_bytes: int) -> None:
    entry = entry_of(kind)
    with running({"writer": entry}, max_waiting=4 * clients) as server:
        whole, memory = asyncio.run(soak(server, kind, clients, most, seconds))
        print(f"{kind}: {whole} replies read to the end, of more than {200 * len(memory)} asked for")
        assert whole > clients
        until = time.monotonic() + 30
        while entry.engine.busy and time.monotonic() < until:
            time.sleep(0.01)
        assert not entry.engine.busy
        assert not any(server.worker._open.values())
        assert not any(server.worker._asked.values())
        later = memory[len(memory) // 2 :]
        assert not later or max(later) - later[0] < growth_bytes, memory


@pytest.mark.parametrize("kind", KINDS)
def test_a_short_soak(kind: str) -> None:
    check(kind, 24, 5, 3600.0, 32 << 20)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_long_soak(kind: str) -> None:
    check(kind, CLIENTS, 1_000_000, 60.0, 32 << 20)
