"""The official `openai` client against a real running server."""

from __future__ import annotations

import asyncio
from typing import Literal

import openai
import pytest
from pydantic import BaseModel

from tests.engine.scripted import echo
from tests.serve.running import Running

ASKED = "안녕? hello"


class Place(BaseModel):
    """What a structured reply holds."""

    city: Literal["서울", "Busan"]
    large: bool


@pytest.fixture
def client(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def test_sync(client: openai.OpenAI) -> None:
    found = client.chat.completions.create(
        model="talker", messages=[{"role": "user", "content": ASKED}], temperature=0, logprobs=True,
        presence_penalty=0.1, frequency_penalty=0.1, logit_bias={"9": -100}, seed=3, user="me",
    )  # fmt: skip
    assert found.choices[0].message.content == echo(ASKED)
    assert found.usage
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens
    assert found.choices[0].logprobs
    assert found.choices[0].logprobs.content
    assert client.models.list().data[0].id == "talker"
    assert client.models.retrieve("writer").owned_by == "malmoi"


def test_streaming_with_usage(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="talker", messages=[{"role": "user", "content": ASKED}], temperature=0, stream=True,
            stream_options={"include_usage": True},
        )
    )  # fmt: skip
    text = "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)
    assert text == echo(ASKED)
    assert chunks[-1].usage
    assert chunks[-2].choices[0].finish_reason == "stop"


def test_the_stream_helper(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model="talker", messages=[{"role": "user", "content": ASKED}], temperature=0
    ) as stream:
        for _ in stream:
            pass
        assert stream.get_final_completion().choices[0].message.content == echo(ASKED)


def test_async_requests_at_once(server: Running) -> None:
    async def ask() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            found = await asyncio.gather(
                *(
                    client.chat.completions.create(
                        model="talker", messages=[{"role": "user", "content": f"{ASKED} {i}"}], temperature=0
                    )
                    for i in range(12)
                )
            )
            stream = await client.completions.create(model="writer", prompt="하나", max_tokens=5, stream=True)
            assert [one async for one in stream]
        return [one.choices[0].message.content for one in found]

    assert asyncio.run(ask()) == [echo(f"{ASKED} {i}") for i in range(12)]


def test_structured_output(client: openai.OpenAI) -> None:
    found = client.chat.completions.parse(
        model="talker", messages=[{"role": "user", "content": ASKED}], response_format=Place, max_tokens=200
    )
    assert isinstance(found.choices[0].message.parsed, Place)


def test_completions(client: openai.OpenAI) -> None:
    found = client.completions.create(
        model="writer", prompt=["옛날에", "once"], max_tokens=4, echo=True, logprobs=1
    )
    assert [one.text[:3] for one in found.choices] == ["옛날에", "onc"]
    assert found.choices[0].logprobs


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"model": "nobody"}, openai.NotFoundError),
        ({"temperature": 5}, openai.BadRequestError),
        ({"tools": [{"type": "function", "function": {"name": "f", }}]}, openai.BadRequestError),
    ],
)  # fmt: skip
def test_errors_are_the_clients_own(client: openai.OpenAI, body: dict, error: type[Exception]) -> None:
    asked = {"model": "talker", "messages": [{"role": "user", "content": "x"}]} | body
    with pytest.raises(error):
        client.chat.completions.create(**asked)
