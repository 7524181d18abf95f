"""Many streaming clients at once, some of which go away: nothing is lost, mixed up or kept."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import time

import httpx
import psutil
import pytest

from malmoi.engine import Engine, Sampling
from tests.engine.fake_scorer import FakeScorer
from tests.engine.scripted import BYTES

from .conftest import scripted_entry
from .running import Running, running

CLIENTS = 64
PROMPTS = [f"{i} 번째 이야기 once upon a time" for i in range(24)]


def alone() -> dict[str, str]:
    """What each prompt gets where nobody else asks."""
    engine = Engine(FakeScorer(BYTES.vocab_size), BYTES, max_rows=1)
    params = Sampling(temperature=0.0, max_tokens=24)
    found: dict[str, str] = {}
    for prompt in PROMPTS:
        *texts, last = [event.text for event in engine.stream(prompt, params)]
        found[prompt] = "".join(texts) + last.rstrip("\ufffd")  # a character that was cut is left out
    return found


async def ask(client: httpx.AsyncClient, draw: random.Random, expected: dict[str, str]) -> bool:
    """One request, which may go away before its end; whether it was read to the end."""
    prompt, patience = draw.choice(PROMPTS), draw.choice([None, None, 0, 1, 5])
    body = {"prompt": prompt, "temperature": 0, "max_tokens": 24, "stream": True, "model": "writer"}
    text, done, pieces = "", False, 0
    async with client.stream("POST", "/v1/completions", json=body) as response:
        assert response.status_code == 200, await response.aread()
        async for line in response.aiter_lines():
            if pieces == patience:
                return False
            if line == "data: [DONE]":
                done = True
            elif line:
                pieces += 1
                text += json.loads(line.removeprefix("data: "))["choices"][0]["text"]
    assert done, "a request was lost"
    assert text == expected[prompt], "requests were mixed up"
    return True


async def soak(server: Running, most: int, seconds: float) -> tuple[int, list[int]]:
    """Every client asks up to `most` times. Requests read to the end, and memory as they went on."""
    expected, until, whole, asked = alone(), time.monotonic() + seconds, 0, 0
    memory: list[int] = []
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=CLIENTS)
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

        await asyncio.gather(*(one(number) for number in range(CLIENTS)))
    return whole, memory


def check(most: int, seconds: float, growth_bytes: int) -> None:
    entry = scripted_entry("writer", FakeScorer(BYTES.vocab_size), chats=False, max_rows=16)
    with running({"writer": entry}, max_waiting=4 * CLIENTS) as server:
        whole, memory = asyncio.run(soak(server, most, seconds))
        assert whole > CLIENTS
        until = time.monotonic() + 30
        while entry.engine.busy and time.monotonic() < until:
            time.sleep(0.01)
        assert not entry.engine.busy
        assert not any(server.worker._open.values())
        assert all(not lane.running and not lane.left for lane in server.worker._lanes.values())
        middle = len(memory) // 2
        assert max(memory[middle:]) - memory[middle] < growth_bytes, memory


def test_a_short_soak() -> None:
    check(12, 3600.0, 32 << 20)


@pytest.mark.slow
def test_a_soak_of_two_minutes() -> None:
    check(1_000_000, 120.0, 32 << 20)
