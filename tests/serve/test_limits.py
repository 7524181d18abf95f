"""Nothing that a request can lengthen holds up the others: sizes have limits, and what is long is cut."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from malmoi.core.nouns import Message, Predictions
from malmoi.serve.catalogue import Catalogue, TaskEntry
from malmoi.serve.endpoints import INPUTS_A_CALL
from malmoi.serve.guard import as_json
from malmoi.serve.protocol import (
    MOST_BIASES,
    MOST_MESSAGES,
    MOST_SCHEMA_CHARS,
    MOST_STOP_CHARS,
    MOST_STOPS,
    MOST_TOKENS,
)
from malmoi.serve.settings import ServeSettings
from malmoi.tasks import make_task
from malmoi.text.chat import TEMPLATE, ChatFormat
from tests.engine.scripted import BYTES, Scripted
from tests.serve.conftest import scripted_entry
from tests.serve.running import Running, running
from tests.serve.test_worker import Endless

LIMITS = ServeSettings(max_prompt_chars=200, max_prompt_tokens=50, max_input_chars=60)
ENGINE_THREAD = "malmoi-engine"


class Shouting:
    """A method that says its input in capitals. log: what it was given at once; scorers log there, too."""

    name = "shouting"

    def __init__(self, log: list[Any]) -> None:
        self.log, self.task = log, make_task("summarization")

    def predict_with_confidence(self, inputs: Sequence[str]) -> Predictions:
        self.log.append(list(inputs))
        return Predictions([text.upper() for text in inputs])


class Logged(Endless):
    """Logs a step."""

    def __init__(self, log: list[Any]) -> None:
        super().__init__(BYTES.vocab_size)
        self.log = log

    def step(self, *arguments: Any, **named: Any) -> Any:
        self.log.append("step")
        return super().step(*arguments, **named)


class Watched(ChatFormat):
    """Knows on which threads it has rendered."""

    def __init__(self) -> None:
        super().__init__(BYTES, TEMPLATE)
        self.threads: set[str] = set()

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        self.threads.add(threading.current_thread().name)
        return super().prompt_ids(messages)


@pytest.fixture(scope="module")
def log() -> list[Any]:
    return []


@pytest.fixture(scope="module")
def form() -> Watched:
    return Watched()


@pytest.fixture(scope="module")
def server(log: list[Any], form: Watched) -> Iterator[Running]:
    loaded = cast(Any, SimpleNamespace(method=Shouting(log)))
    talker = scripted_entry("talker", Scripted(context=None), chats=True)
    catalogue: Catalogue = {
        "talker": replace(talker, form=form),
        "endless": scripted_entry("endless", Logged(log), chats=False),
        "shouting": TaskEntry("shouting", Path(), make_task("summarization"), loaded, 0),
    }
    with running(catalogue, settings=LIMITS) as found:
        yield found


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


COMPLETION = {"model": "endless", "prompt": "a", "max_tokens": 1}
SCHEMA = {"enum": ["a" * MOST_SCHEMA_CHARS]}


@pytest.mark.parametrize(
    ("path", "body", "param", "limit"),
    [
        ("v1/completions", {"prompt": "a" * 201}, "prompt", "200"),
        ("v1/completions", {"prompt": ["a", "a" * 201]}, "prompt", "200"),
        ("v1/completions", {"prompt": "a" * 60}, "prompt", "50 tokens"),
        ("v1/completions", {"prompt": [9] * 51}, "prompt", "50 tokens"),
        ("v1/completions", {"stop": "a" * (MOST_STOP_CHARS + 1)}, "stop", str(MOST_STOP_CHARS)),
        ("v1/completions", {"stop": ["a"] * (MOST_STOPS + 1)}, "stop", str(MOST_STOPS)),
        ("v1/completions", {"logit_bias": dict.fromkeys(map(str, range(MOST_BIASES + 1)), 1)}, "logit_bias",
         str(MOST_BIASES)),
        ("v1/completions", {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
         "response_format", f"{MOST_SCHEMA_CHARS:,}"),
        ("v1/chat/completions", {"messages": said("a" * 201)}, "messages", "200"),
        ("v1/chat/completions", {"messages": said("a" * 60)}, "messages", "50 tokens"),
        ("v1/chat/completions", {"messages": said("a") * (MOST_MESSAGES + 1)}, "messages",
         str(MOST_MESSAGES)),
        ("tokenize", {"prompt": "a" * 201}, "prompt", "200"),
        ("tokenize", {"messages": said("a" * 201)}, "messages", "200"),
        ("detokenize", {"tokens": [9] * (MOST_TOKENS + 1)}, "tokens", str(MOST_TOKENS)),
        ("v1/tasks/summarization", {"input": "a" * 61}, "inputs.0", "60"),
        ("v1/tasks/summarization", {"inputs": ["a", {"text": ["a" * 30, {"b": "a" * 30}]}]}, "inputs.1",
         "60"),
    ],
)  # fmt: skip
def test_a_limit_is_named(server: Running, path: str, body: dict[str, Any], param: str, limit: str) -> None:
    if "tasks" not in path:
        body = {"model": "talker"} | body if "chat" in path or "messages" in body else COMPLETION | body
    if path == "detokenize":
        body = {"model": "endless", "tokens": body["tokens"]}
    found = server.post(f"/{path}", body)
    assert found.status_code == 400, found.text
    assert found.json()["error"]["param"] == param
    assert limit in found.json()["error"]["message"]


@pytest.mark.parametrize(
    "fields",
    [{"top_k": 2**64}, {"n": 2**64}, {"max_tokens": 2**31}, {"logprobs": 2**40}, {"seed": -(2**64)},
     {"repetition_penalty": 1e-300}, {"repetition_penalty": 1e300}, {"prompt": [2**31]}, {"prompt": [2**70]},
     {"prompt": [-1]}, {"logit_bias": {"9" * 100: 1}}, {"logit_bias": {"-1": 1}}, {"logit_bias": {"²": 1}}],
)  # fmt: skip
def test_numbers_out_of_range_are_refused_where_they_are_read(
    server: Running, fields: dict[str, Any]
) -> None:
    found = server.post("/v1/completions", COMPLETION | fields)
    assert found.status_code == 400, found.text
    assert found.json()["error"]["param"] == next(iter(fields))


def test_inputs_are_predicted_in_parts_with_others_tokens_in_between(server: Running, log: list[Any]) -> None:
    texts = ["a" * 50, "b" * 30, "c" * 30, "d" * 60, *(f"{at}" for at in range(INPUTS_A_CALL + 1))]
    endless = COMPLETION | {"max_tokens": 4000, "stream": True}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=endless, timeout=60) as stream:
        pieces = stream.iter_bytes()  # kept: whoever drops it closes the connection
        next(pieces)
        log.clear()
        found = server.post("/v1/tasks/summarization", {"inputs": texts}).json()["predictions"]
        did = list(log)
    assert [one["prediction"] for one in found] == [text.upper() for text in texts]
    parts = [one for one in did if one != "step"]
    assert parts == [texts[:1], texts[1:3], texts[3:4], texts[4:-1], texts[-1:]]
    assert all("step" in did[did.index(one) : did.index(two)] for one, two in pairwise(parts))


def test_text_becomes_tokens_off_the_engines_thread(server: Running, form: Watched) -> None:
    messages = {"model": "talker", "messages": said("안녕")}
    assert server.post("/v1/chat/completions", messages).status_code == 200
    assert server.post("/tokenize", messages).status_code == 200
    assert form.threads
    assert ENGINE_THREAD not in form.threads


@pytest.mark.parametrize(
    "name", ["", " ", "\x7f", "한", "a\r\nX-Forged: 1", "e" + "\u0301" * 600, '"', "\x00"]
)
def test_any_name_of_a_field_can_be_named_in_a_header(server: Running, name: str) -> None:
    found = server.post("/tokenize", {"model": "endless", "prompt": "a", name: 1})
    assert found.status_code == 200
    assert found.headers["x-malmoi-warning"].startswith('ignored: "')
    assert "x-forged" not in found.headers


def test_half_a_character_does_not_stop_an_answer() -> None:
    assert as_json({"a": "\udc80말"}) == '{"a":"\\udc80말"}'.encode()


@pytest.mark.parametrize("digits", [10, 20, 5000])
def test_any_length_of_a_body_gets_an_answer(server: Running, digits: int) -> None:
    head = f"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: {'9' * digits}\r\n\r\n"
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=20)) as connection:
        connection.sendall(head.encode())
        assert connection.recv(100).startswith((b"HTTP/1.1 413", b"HTTP/1.1 400"))
