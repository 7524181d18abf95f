"""Who may use a server, and what strange, slow and broken clients do to it: nothing."""

from __future__ import annotations

import base64
import json
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from malmoi.core.errors import UserError
from malmoi.serve.catalogue import LanguageEntry
from malmoi.serve.settings import Keys, ServeSettings, is_loopback
from tests.engine.fake_scorer import FakeScorer
from tests.engine.scripted import BYTES, Scripted
from tests.serve.conftest import scripted_entry
from tests.serve.running import Running, running
from tests.serve.test_worker import Endless

KEY, OTHER = "correct-horse-battery-staple", "another-key-of-some-length"
CHAT = {"model": "talker", "messages": [{"role": "user", "content": "안녕"}], "temperature": 0}
ENDLESS = {"model": "endless", "prompt": "x", "max_tokens": 4000, "stream": True}


class Slow(FakeScorer):
    """Takes its time for every token."""

    def logits(self, history: Any) -> Any:
        time.sleep(0.05)
        return super().logits(history)


def entries() -> dict[str, LanguageEntry]:
    made = [
        scripted_entry("talker", Scripted(context=512), chats=True),
        scripted_entry("endless", Endless(BYTES.vocab_size), chats=False, max_rows=1),
        scripted_entry("slow", Slow(BYTES.vocab_size), chats=False),
    ]
    return {entry.name: entry for entry in made}


@pytest.fixture(scope="module")
def guarded() -> Iterator[Running]:
    limits = ServeSettings(
        keys=Keys((KEY, OTHER)), cors_origins=("https://example.org",), max_body_bytes=20_000,
        body_timeout_s=0.4, request_timeout_s=1.0,
    )  # fmt: skip
    with running({**entries()}, max_waiting=1, settings=limits) as found:
        yield found


@pytest.fixture(scope="module")
def plain() -> Iterator[Running]:
    with running({**entries()}) as found:
        yield found


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


# --- keys and addresses


def test_a_key_is_needed_wherever_there_is_one(guarded: Running) -> None:
    for path in ("/v1/models", "/metrics", "/", "/gradio_api/x"):
        found = guarded.get(path)
        assert (found.status_code, found.json()["error"]["code"]) == (401, "invalid_api_key")
        assert found.headers["www-authenticate"].startswith("Basic")
    for header in (f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", "Bearer", "Basic !!!", "Basic /w==", "x"):
        assert guarded.get("/v1/models", Authorization=header).status_code == 401
    assert guarded.get("/health").status_code == 200
    for key in (KEY, OTHER):
        assert guarded.get("/v1/models", **bearer(key)).status_code == 200
    basic = base64.b64encode(f"me:{KEY}".encode()).decode()  # as a browser sends it
    assert guarded.get("/v1/models", Authorization=f"Basic {basic}").status_code == 200


def test_keys_are_never_shown(guarded: Running, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        text = (
            guarded.get("/v1/models", **bearer(KEY + "x")).text + guarded.get("/metrics", **bearer(KEY)).text
        )
    assert KEY not in text + caplog.text + repr(guarded.server.settings) + repr(vars(Keys((KEY,))))


@pytest.mark.parametrize(
    ("content", "expected"),
    [("", "no key"), ("# only a comment\n", "no key"), ("short\n", "16"), ("a key with blanks in it", "16"),
     ("열쇠열쇠열쇠열쇠열쇠열쇠열쇠열쇠", "16")],
)  # fmt: skip
def test_a_key_file_must_hold_good_keys(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "keys"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=expected):
        Keys.read(path)
    with pytest.raises(UserError, match="cannot be read"):
        Keys.read(tmp_path / "missing")
    path.write_text(f"# mine\n\n{KEY}\n{OTHER}\n")
    assert Keys.read(path).hold(OTHER)
    assert not Keys.read(path).hold("")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.5", "example.org"])
def test_a_public_address_needs_a_key(host: str) -> None:
    with pytest.raises(UserError, match="`api_key_file`"):
        ServeSettings(host=host)
    assert ServeSettings(host=host, keys=Keys((KEY,))).host == host
    assert not is_loopback(host)
    assert all(map(is_loopback, ("127.0.0.1", "::1", "localhost", "127.8.8.8")))


def test_other_names_and_other_sites_are_refused(plain: Running, guarded: Running) -> None:
    for host in (
        "evil.example",
        f"evil.example:{plain.port}",
        "",
        "localhost.evil.example",
        "[",
        "127.0.0.1.x",
    ):
        assert plain.get("/health", Host=host).status_code in (400, 403), host
    for host in ("localhost", f"127.0.0.1:{plain.port}", "[::1]:80"):
        assert plain.get("/health", Host=host).status_code == 200, host
    evil = plain.post("/v1/chat/completions", CHAT, Origin="http://evil.example")
    assert evil.status_code == 403
    assert "access-control-allow-origin" not in evil.headers
    for origin in ("null", "http://[", "", plain.url.removeprefix("http://")):
        assert plain.post("/v1/chat/completions", CHAT, Origin=origin).status_code == 403, origin
    assert plain.post("/v1/chat/completions", CHAT, Origin=plain.url).status_code == 200
    allowed = guarded.post("/v1/chat/completions", CHAT, Origin="https://example.org", **bearer(KEY))
    assert allowed.headers["access-control-allow-origin"] == "https://example.org"
    preflight = httpx.options(
        f"{guarded.url}/v1/models",
        headers={"Origin": "https://example.org", "Access-Control-Request-Method": "GET"},
    )
    assert preflight.status_code == 200
    wanted = "authorization,content-type,x-stainless-os,x-stainless-retry-count"  # of OpenAI's client
    for origin, status in (("https://example.org", 200), ("http://evil.example", 400)):
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": wanted}
        url = f"{guarded.url}/v1/chat/completions"
        found = httpx.options(url, headers={"Origin": origin, **asked})
        assert found.status_code == status
        assert found.headers.get("access-control-allow-headers") in (wanted, None)
    with pytest.raises(UserError, match="no origin"):
        ServeSettings(cors_origins=("example.org",))


# --- limits


def test_big_bodies_are_refused(guarded: Running) -> None:
    big = b'{"x": "' + b"a" * 30_000 + b'"}'
    for content in (big, iter([big[:15_000], big[15_000:]])):  # the second in chunks, without a length
        found = httpx.post(f"{guarded.url}/v1/completions", content=content, headers=bearer(KEY))
        assert found.status_code == 413
        assert found.json()["error"]["code"] == "request_too_large"


def test_a_request_that_takes_too_long_ends(guarded: Running) -> None:
    found = guarded.post("/v1/completions", ENDLESS | {"stream": False}, **bearer(KEY))
    assert (found.status_code, found.json()["error"]["type"]) == (504, "timeout_error")
    streamed = guarded.post("/v1/completions", ENDLESS, **bearer(KEY)).text.strip().split("\n\n")
    assert json.loads(streamed[-1].removeprefix("data: "))["error"]["type"] == "timeout_error"
    echo = {"model": "slow", "prompt": ["abcd"] * 20, "max_tokens": 0, "echo": True, "logprobs": 1}
    assert guarded.post("/v1/completions", echo, **bearer(KEY)).status_code == 504


def test_a_full_queue_is_429_with_retry_after(guarded: Running) -> None:
    with httpx.Client(headers=bearer(KEY)) as client:
        streams = [client.stream("POST", f"{guarded.url}/v1/completions", json=ENDLESS) for _ in range(2)]
        first = streams[0].__enter__()
        waiting = raw(guarded, ENDLESS, KEY)  # gets no answer while the first has the row
        try:
            wait_for(lambda: len(guarded.worker._open[guarded_engine(guarded)]) == 2)
            found = guarded.post("/v1/completions", ENDLESS, **bearer(KEY))
            assert found.status_code == 429
            assert int(found.headers["retry-after"]) >= 1
            assert found.json()["error"]["code"] == "rate_limit_exceeded"
        finally:
            waiting.close()
            first.close()
    wait_for(lambda: not guarded.worker._open[guarded_engine(guarded)])


# --- clients that go away, wait, or send anything


def guarded_engine(server: Running) -> Any:
    entry = server.catalogue["endless"]
    assert isinstance(entry, LanguageEntry)
    return entry.engine


def raw(server: Running, body: Any, key: str = "") -> socket.socket:
    """A connection that has sent a request and reads nothing yet."""
    content = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n"
    head += f"Authorization: Bearer {key}\r\n" if key else ""
    found = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    found.sendall(head.encode() + b"\r\n" + content)
    return found


def wait_for(condition: Any, timeout_s: float = 20) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "it did not come true"
        time.sleep(0.01)


def works(server: Running) -> bool:
    return server.post("/v1/chat/completions", CHAT).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_row(plain: Running, stream: bool) -> None:
    engine = guarded_engine(plain)
    with closing(raw(plain, ENDLESS | {"stream": stream})) as client:
        wait_for(lambda: engine.num_running == 1)
        if stream:
            assert client.recv(100)
    wait_for(lambda: not engine.busy)
    assert not plain.worker._open[engine]


def test_a_half_closed_connection_is_gone(plain: Running) -> None:
    engine = guarded_engine(plain)
    with closing(raw(plain, ENDLESS)) as client:
        assert client.recv(100)
        client.shutdown(socket.SHUT_WR)
        wait_for(lambda: not engine.busy)
        while client.recv(65536):
            pass  # the server closes its side, too
    assert works(plain)


def test_a_client_that_does_not_read_holds_up_nobody(plain: Running) -> None:
    engine = guarded_engine(plain)
    with closing(raw(plain, ENDLESS | {"logprobs": 20, "max_tokens": 1000})):
        wait_for(lambda: engine.num_running == 1)
        assert works(plain)
        assert plain.post("/v1/completions", ENDLESS | {"stream": False, "max_tokens": 2}).status_code == 200
    wait_for(lambda: not engine.busy)


def test_slow_bodies_time_out(guarded: Running) -> None:
    with closing(socket.create_connection(("127.0.0.1", guarded.port), timeout=20)) as client:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
        client.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        assert b"408" in client.recv(4096)


JUNK = st.one_of(
    st.binary(max_size=200),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=12,
    ).map(lambda value: json.dumps(value).encode()),
    st.sampled_from([b"[" * 100_000, b'{"a":' * 50_000, b'{"prompt":"\\ud800"}', b"\xff\xfe", b"1e999"]),
)
FIELDS = st.sampled_from(
    ["model", "messages", "prompt", "stop", "n", "seed", "logit_bias", "response_format", "stream_options",
     "temperature", "max_tokens", "logprobs", "top_logprobs", "echo", "stream", "input", "inputs", "tokens"]
)  # fmt: skip
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=8),
    st.lists(st.integers(0, 300) | st.text(max_size=3), max_size=4),
    st.dictionaries(st.text(max_size=5), st.integers(-200, 200) | st.text(max_size=4), max_size=3),
)  # fmt: skip


@effort(max_examples=60, deadline=None)
@given(
    st.sampled_from(["chat/completions", "completions", "tasks/ner", "../tokenize", "../detokenize"]), JUNK
)
def test_any_body_gets_an_answer_in_openais_shape(path: str, body: bytes) -> None:
    found = client().post(f"/v1/{path}".replace("/v1/..", ""), content=body)
    assert found.status_code in (400, 404), found.text
    assert set(found.json()["error"]) == {"message", "type", "param", "code"}


@effort(max_examples=150, deadline=None)
@given(
    st.sampled_from([("chat/completions", CHAT), ("completions", ENDLESS)]), st.dictionaries(FIELDS, VALUES)
)
def test_any_values_of_fields_get_an_answer(base: tuple[str, dict[str, Any]], fields: dict[str, Any]) -> None:
    body = {**base[1], "max_tokens": 3, **fields}
    body["max_tokens"] = min(body["max_tokens"] or 3, 3) if isinstance(body["max_tokens"], int) else 3
    content = json.dumps(body).encode()
    found = client().post(f"/v1/{base[0]}", content=content)
    assert found.status_code in (200, 400, 404), found.text


_client: list[httpx.Client] = []


def client() -> httpx.Client:
    return _client[0]


@pytest.fixture(autouse=True)
def _remembered(plain: Running) -> Iterator[None]:
    """Hypothesis' tests take no fixtures of one example each."""
    with httpx.Client(base_url=plain.url, timeout=30) as found:
        _client[:] = [found]
        yield


def test_raw_nonsense_does_not_stop_the_server(plain: Running) -> None:
    for junk in (b"\x16\x03\x01\x00", b"GET / HTTP/9.9\r\n\r\n", b"POST / HTTP/1.1\r\n", b"\r\n" * 9,
                 b"GET /" + b"a" * 200_000, b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
                 b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"):  # fmt: skip
        with closing(socket.create_connection(("127.0.0.1", plain.port), timeout=20)) as sock:
            try:
                sock.sendall(junk)
                sock.shutdown(socket.SHUT_WR)
                sock.recv(1000)
            except OSError:
                pass  # closed on us, which is fine
    assert works(plain)
