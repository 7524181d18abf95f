"""What every endpoint keeps: it is guarded, counted, answers in JSON; also one that a test adds by a line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import Request
from starlette.responses import Response

from malmoi.serve.api import ENDPOINTS
from malmoi.serve.endpoints import Serving, json_response, read
from malmoi.serve.guard import OPEN
from malmoi.serve.protocol import Body
from malmoi.serve.settings import Keys, ServeSettings
from tests.engine.scripted import Scripted
from tests.serve.conftest import scripted_entry
from tests.serve.running import Running, running


class EchoBody(Body):
    text: str


async def echo(serving: Serving, request: Request) -> Response:
    """Say it again."""
    body, headers = await read(EchoBody, request)
    return json_response({"text": body.text, "models": list(serving.catalogue)}, headers)


OWN, KEY = "/v1/echo", "a-key-of-this-test"
every_endpoint = pytest.mark.parametrize("path", [*ENDPOINTS, OWN])


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENDPOINTS, OWN, ("POST", echo))
        settings = ServeSettings(keys=Keys((KEY,)))
        with running(
            {"model": scripted_entry("model", Scripted(context=512), chats=True)}, settings=settings
        ) as found:
            yield found


def ask(server: Running, path: str, key: str = KEY, method: str = "", **more: Any) -> httpx.Response:
    place = path.replace("{name:path}", "model").replace("{task}", "ner")
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.request(method or method_of(path), server.url + place, headers=headers, timeout=30, **more)


def method_of(path: str) -> str:
    return "POST" if path == OWN else ENDPOINTS[path][0]


@every_endpoint
def test_it_needs_the_key(server: Running, path: str) -> None:
    found = ask(server, path, key="wrong")
    assert found.status_code == (200 if path == OPEN else 401)


@every_endpoint
def test_it_has_one_method(server: Running, path: str) -> None:
    found = ask(server, path, method="DELETE")
    assert found.status_code == 405
    assert "DELETE" in found.json()["error"]["message"]


@every_endpoint
def test_it_refuses_what_is_no_json_and_counts_it(server: Running, path: str) -> None:
    if method_of(path) == "GET":
        assert ask(server, path).status_code == 200
        return
    for body in (b"{", b"[]", b'{"nothing": 1}'):
        found = ask(server, path, content=body)
        assert found.status_code in (400, 404), found.text  # there may be no model for what is asked
        assert found.json()["error"]["message"]
    assert f'endpoint="{path}",status="400"' in ask(server, "/metrics").text


def test_an_endpoint_of_ones_own_works(server: Running) -> None:
    found = ask(server, OWN, json={"text": "안녕", "louder": True})
    assert found.json() == {"text": "안녕", "models": ["model"]}
    assert found.headers["x-malmoi-warning"] == "ignored: louder"
