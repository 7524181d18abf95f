"""Opening folders, and the command: what it shows, and how it stops."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from malmoi.cli.words import app
from malmoi.core.errors import UserError
from malmoi.serve.catalogue import LanguageEntry, TaskEntry, open_catalogue
from malmoi.serve.server import _example
from malmoi.serve.settings import ServeSettings
from malmoi.tasks import TASKS
from malmoi.util.files import write_json
from tests.engine.scripted import BYTES
from tests.methods.tiny import world, write_model
from tests.serve.conftest import fitted, scripted_entry
from tests.serve.running import running
from tests.serve.test_worker import Endless


def test_models_methods_and_winners_have_short_names(folders: dict[str, Path], tmp_path: Path) -> None:
    fitted(tmp_path / "tasks" / "chat" / "winner", "ner", "crf")
    write_json(tmp_path / "tasks" / "chat" / "comparison.json", {})
    write_model(tmp_path / "chat", chat=True)
    found = open_catalogue([tmp_path / "chat", tmp_path / "tasks" / "chat", folders["topics"]], max_rows=3)
    assert list(found) == [f"{tmp_path.name}/chat", "tasks/chat", "topics"]
    language, winner, method = found.values()
    assert isinstance(language, LanguageEntry)
    assert language.form
    assert language.engine.max_rows == 3
    assert isinstance(winner, TaskEntry)
    assert isinstance(method, TaskEntry)
    assert (winner.task.name, method.task.name) == ("ner", "classification")
    with pytest.raises(UserError, match="twice"):
        open_catalogue([tmp_path / "chat", tmp_path / "tasks" / ".." / "chat"])
    with pytest.raises(UserError, match="nothing to serve"):
        open_catalogue([])


QUICK = {  # a method for each task, and the JSON type of its predictions
    "classification": ("lexicon", str), "multi-label": ("tfidf", list), "ner": ("crf", list),
    "translation": ("ibm1", str), "completion": ("ngram", str), "summarization": ("lead", str),
    "question-answering": ("sentence", dict), "chat": ("retrieval", str),
}  # fmt: skip


def test_every_task_predicts_over_http(tmp_path: Path) -> None:
    assert set(QUICK) == set(TASKS)
    catalogue = open_catalogue([fitted(tmp_path / task, task, name) for task, (name, _) in QUICK.items()])
    with running(catalogue) as server:
        assert {one["id"] for one in server.get("/v1/tasks").json()["data"]} == set(TASKS)
        for task, (_, kind) in QUICK.items():
            made, examples = world(task)
            shown = "".join(_example(server.url, {task: catalogue[task]}, with_key=False))
            body = json.loads(shown[shown.index("-d '") + 4 : -1])
            assert server.post(f"/v1/tasks/{task}", body).status_code == 200, shown
            inputs = [made.input_json(one.input) for one in examples[:3]]
            response = server.post(f"/v1/tasks/{task}", {"inputs": inputs})
            assert response.status_code == 200, response.text
            found = [one["prediction"] for one in response.json()["predictions"]]
            method = catalogue[task].method  # pyright: ignore
            expected = method.predict(inputs)
            assert found == [made.to_json(y, x.input) for y, x in zip(expected, examples, strict=False)]
            assert all(isinstance(one, kind) for one in found if one is not None)


def test_stopping_finishes_what_runs_and_answers_503() -> None:
    entry = scripted_entry("endless", Endless(BYTES.vocab_size), chats=False)
    with running({"endless": entry}, settings=ServeSettings(stop_timeout_s=20)) as server:
        body = {"prompt": "x", "max_tokens": 1500, "stream": True}
        with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=60) as response:
            lines = response.iter_lines()
            next(lines)
            server.server.stop()
            refused = server.post("/v1/completions", {"prompt": "x"})
            assert (refused.status_code, refused.json()["error"]["type"]) == (503, "stopping_error")
            assert "retry-after" in refused.headers
            health = server.get("/health")
            assert (health.status_code, health.json()) == (503, {"status": "stopping"})
            assert [line for line in lines if line][-1] == "data: [DONE]"


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_until_it_is_asked_to_stop(
    folders: dict[str, Path], tmp_path: Path, signal_number: int
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("a-key-of-this-test-only\n")
    command = [
        sys.executable, "-c", "from malmoi.cli.commands import main; main()", "serve", str(folders["tiny"]),
        str(folders["topics"]), "--port", "0", "--no-page", "--api-key-file", str(keys),
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    threading.Timer(90, process.kill).start()
    assert process.stdout
    lines: list[str] = []
    while not lines or "-d '" not in lines[-1]:
        lines.append(process.stdout.readline())
        assert lines[-1], "".join(lines)
    shown = "".join(lines)
    url = lines[0].split()[3]
    for expected in (
        "tiny    chat and completion, in fp32",
        "topics  task classification, by tfidf",
        f"{url}/v1",
        "YOUR_KEY",
    ):
        assert expected in shown, shown
    assert "a-key-of" not in shown
    until, headers = time.monotonic() + 60, {"Authorization": "Bearer a-key-of-this-test-only"}
    assert httpx.get(f"{url}/v1/models", headers=headers, timeout=until).status_code == 200
    process.send_signal(signal_number)
    rest = process.stdout.read()
    assert process.wait(60) == 0, rest
    assert rest.strip() == "stopped"


@pytest.mark.parametrize("wanted", [True, False])
def test_the_command_says_what_a_page_needs_to_those_who_want_one(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, wanted: bool
) -> None:
    monkeypatch.setattr("malmoi.cli.serving.find_spec", lambda _: None)
    monkeypatch.setattr("malmoi.serve.server.Server.run", lambda *_, **__: None)
    options = ["--port", "0", *([] if wanted else ["--no-page"])]
    found = CliRunner().invoke(app, ["serve", str(folders["topics"]), *options])
    assert found.exit_code == 0, found.output
    assert ("malmoi[web]" in found.output) == wanted
    assert "in a browser" not in found.output


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--host", "0.0.0.0"], "`api_key_file`"),
        (["--cors-origin", "x"], "origin"),
        (["--api-key-file", "/nowhere"], "cannot be read"),
        (["--host", "203.0.113.1", "--api-key-file", "KEYS"], "cannot be opened"),
    ],
)
def test_the_command_refuses(
    folders: dict[str, Path], tmp_path: Path, options: list[str], expected: str
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("a-key-of-this-test-only\n")
    options = [str(keys) if option == "KEYS" else option for option in options]
    found = CliRunner().invoke(app, ["serve", str(folders["tiny"]), "--port", "0", *options])
    assert isinstance(found.exception, UserError)
    assert expected in str(found.exception)


def test_replies_are_sent_at_once(folders: dict[str, Path]) -> None:
    """A small reply must not wait for the acknowledgement of the one before it on a kept connection."""
    with running(open_catalogue([folders["topics"]])) as server, httpx.Client(base_url=server.url) as client:
        assert client.get("/health").status_code == 200
        (connection,) = server.server.server_state.connections
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
