"""A real server in a thread of this process, on a free port, with tiny models."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from fastapi import FastAPI

from malmoi.serve.api import create_app
from malmoi.serve.catalogue import Catalogue
from malmoi.serve.server import Server, bind
from malmoi.serve.settings import ServeSettings
from malmoi.serve.worker import Worker


@dataclass
class Running:
    """What a test needs of it."""

    url: str
    port: int
    catalogue: Catalogue
    worker: Worker
    app: FastAPI
    server: Server

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return httpx.post(self.url + path, json=body, headers=headers, timeout=60)

    def get(self, path: str, **headers: str) -> httpx.Response:
        return httpx.get(self.url + path, headers=headers, timeout=60)


@contextmanager
def running(
    catalogue: Catalogue, *, max_waiting: int = 64, settings: ServeSettings | None = None,
    mount: Callable[[FastAPI, Catalogue, Worker, ServeSettings], FastAPI] | None = None,
) -> Iterator[Running]:  # fmt: skip
    """A server until the block ends; it stops gracefully. mount: adds the page."""
    worker, settings = Worker(max_waiting=max_waiting), settings or ServeSettings()
    app = create_app(catalogue, worker, settings)
    if mount is not None:
        app = mount(app, catalogue, worker, settings)
    worker.start()
    with bind("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        server = Server(app, worker, settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield Running(f"http://127.0.0.1:{port}", port, catalogue, worker, app, server)
        finally:
            server.stop()
            thread.join(20)
            assert not thread.is_alive(), "the server did not stop"
