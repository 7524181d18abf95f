"""A chat endpoint on this machine that answers as a test scripts it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Json = dict[str, Any]


@dataclass
class Raw:
    """An answer that is no chat completion; status 0: the connection is cut."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def error(status: int, message: str, **headers: str) -> Raw:
    body = json.dumps({"error": {"message": message, "type": "x"}}).encode()
    return Raw(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


Script = Callable[[str, int], str | Raw | None]  # (the last message, the request's number) -> the answer


class Handler(BaseHTTPRequestHandler):
    """Keeps the requests; how many are under way at once is counted."""

    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # one packet an answer
    server: ChatServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.requests.append(body)
            server.keys.add(self.headers["Authorization"])
            number = len(server.requests) - 1
            server.under_way += 1
            server.most_at_once = max(server.most_at_once, server.under_way)
        try:
            found = server.script(body["messages"][-1]["content"], number)
        finally:
            with server.lock:
                server.under_way -= 1
        self.answer(found if isinstance(found, Raw) else completion(found, body))

    def answer(self, raw: Raw) -> None:
        if not raw.status:
            self.close_connection = True
            return
        self.send_response(raw.status)
        for name, value in ({"Content-Type": "application/json"} | raw.headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(raw.body)))
        self.end_headers()
        self.wfile.write(raw.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Tests are quiet."""


def completion(text: str | None, body: Json) -> Raw:
    """A chat completion; a token is a word."""
    words = sum(len(message["content"].split()) for message in body["messages"])
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    usage = {"prompt_tokens": words, "completion_tokens": len((text or "").split())}
    found = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"]}
    return Raw(200, json.dumps(found | {"choices": [choice], "usage": usage}).encode())


class ChatServer(ThreadingHTTPServer):
    """What was asked, with which keys, and how many at once."""

    daemon_threads = True

    def __init__(self, script: Script) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.lock = script, threading.Lock()
        self.requests: list[Json] = []
        self.keys: set[str] = set()
        self.under_way = self.most_at_once = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has given up is no news."""


@contextmanager
def serving(script: Script) -> Iterator[ChatServer]:
    with ChatServer(script) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
