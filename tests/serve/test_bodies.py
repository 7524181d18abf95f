"""Requests drawn by chance: every one has an answer, none a failure, and the server works on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import pytest

from malmoi.serve.catalogue import open_catalogue
from malmoi.serve.settings import ServeSettings
from tests.engine.scripted import Scripted
from tests.methods.tiny import write_model
from tests.serve.bodies import HUGE, Bodies
from tests.serve.conftest import fitted, scripted_entry
from tests.serve.running import Running, running

FITTED = {
    "classification": "tfidf", "ner": "crf", "question-answering": "sentence", "translation": "ibm1",
    "summarization": "lead", "completion": "ngram", "chat": "retrieval",
}  # fmt: skip
MODELS = ["talker", "gpt", "words"]
USUAL = {200, 307, 400, 404, 405, 413}
TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A method for every task, and models that cut text in several ways."""
    root = tmp_path_factory.mktemp("models")
    folders = [fitted(root / f"my-{task}", task, method) for task, method in FITTED.items()]
    folders.append(write_model(root / "gpt", chat=True))
    folders.append(write_model(root / "words", chat=True, family="lstm", kind="word"))
    talker = scripted_entry("talker", Scripted(context=512), chats=True)
    catalogue = {"talker": talker} | open_catalogue(folders, max_rows=4)
    with running(catalogue, settings=ServeSettings(max_tokens=8)) as found:
        yield found


def failures(server: Running, requests: Sequence[tuple[str, bytes]]) -> tuple[Counter[int], list[str]]:
    """How often each status came, and the requests that got none, a failure, or what is not JSON."""
    statuses: Counter[int] = Counter()
    wrong: list[str] = []
    with httpx.Client(base_url=server.url, timeout=TIMEOUT_S) as client:
        for path, body in requests:
            asked = f"{path} {body[:500]!r}"
            try:
                found = client.post(path, content=body)
            except httpx.TransportError as error:  # a connection that was dropped, or hangs
                wrong.append(f"{type(error).__name__}: {asked}")
                continue
            statuses[found.status_code] += 1
            if problem := _problem(found):
                wrong.append(f"{problem}: {asked}")
    return statuses, wrong


def _problem(found: httpx.Response) -> str:
    """What is wrong with an answer, or ''."""
    if found.status_code not in USUAL:
        return f"{found.status_code} {found.text[:200]}"
    lines = (
        found.text.split("\n\n") if "event-stream" in found.headers.get("content-type", "") else [found.text]
    )
    for line in (line.removeprefix("data: ") for line in lines):
        if line.strip() and line != "[DONE]" and '"server_error"' in json.dumps(_strict(line)):
            return line[:200]
    return ""


def _strict(text: str) -> Any:
    """JSON without NaN and Infinity, which many readers do not know."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def drawn(seed: int, count: int) -> list[tuple[str, bytes]]:
    bodies = Bodies(seed, MODELS, list(FITTED))
    return [bodies.draw() for _ in range(count)]


def test_random_bodies_get_an_answer(server: Running) -> None:
    statuses, wrong = failures(server, drawn(1, 500))
    assert wrong == []
    assert statuses[200] > 50  # they are not refused for one and the same reason
    assert statuses[400] > 100
    assert server.get("/health").status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/v1/chat/completions", "/v1/completions", "/v1/tasks/classification", "/tokenize", "/detokenize"],
)
def test_deep_nesting_and_thousands_of_digits_are_refused(server: Running, path: str) -> None:
    statuses, wrong = failures(server, [(path, body) for body in HUGE])
    assert wrong == []
    assert statuses == {400: len(HUGE)}


@pytest.mark.slow
def test_twenty_thousand_random_bodies_get_an_answer(server: Running) -> None:
    statuses, wrong = failures(server, drawn(2, 20_000))
    print(dict(statuses))
    assert wrong == []
    assert sum(statuses.values()) == 20_000
    assert server.get("/health").status_code == 200
