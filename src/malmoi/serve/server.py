"""Runs an app until it is asked to stop; then it finishes what runs and refuses what comes."""

from __future__ import annotations

import asyncio
import json
import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

from malmoi.core.errors import UserError
from malmoi.models.native.library import why_not
from malmoi.serve.catalogue import Catalogue, LanguageEntry, TaskEntry, languages
from malmoi.serve.settings import ServeSettings
from malmoi.serve.worker import POLL_S, Worker

CONNECTIONS = 1024  # more at once get 503
# longer than clients keep an idle connection (5 s are usual), or one could send just when it is closed
KEEP_ALIVE_S = 75


class Server(uvicorn.Server):
    """Stops gracefully at the first SIGTERM or Ctrl-C, with exit code 0; at once at the second.

    uvicorn alone would close its socket first, so that new requests find nobody; here they get 503.
    """

    def __init__(self, app: FastAPI, worker: Worker, settings: ServeSettings) -> None:
        super().__init__(
            uvicorn.Config(
                app, host=settings.host, port=settings.port, log_level="warning", access_log=False,
                log_config=None,  # uvicorn's own would close the handlers, and absl's closes standard output
                lifespan="on", ws="none", server_header=False, limit_concurrency=CONNECTIONS,
                timeout_graceful_shutdown=5,
                timeout_keep_alive=KEEP_ALIVE_S, h11_max_incomplete_event_size=1 << 16,
            )
        )  # fmt: skip
        self.worker, self.settings = worker, settings
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets=sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal, in the main thread."""
        del sig, frame
        if self.worker.stopping:
            self.should_exit = self.force_exit = True
        else:
            self.stop()

    def stop(self) -> None:
        """Begin to stop; from any thread."""
        self.worker.drain()
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        if self._stop is None:
            self._stop = asyncio.ensure_future(self._finish())

    async def _finish(self) -> None:
        await self.worker.close(self.settings.stop_timeout_s)
        until = asyncio.get_running_loop().time() + 2  # the last answers are on their way
        while self.server_state.tasks and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(POLL_S)
        self.should_exit = True


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0: a free one. Raises UserError where it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends small replies at once (TCP_NODELAY) only where the socket names its protocol
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(512)
    except OSError as error:
        found.close()
        raise UserError(
            f"{host}:{port} cannot be opened ({error.strerror}); choose another `port` or `host`"
        ) from None
    return found


def opening_lines(url: str, catalogue: Catalogue, with_key: bool, page: bool) -> list[str]:
    """What the terminal shows once the server is there."""
    width = max(map(len, catalogue))
    lines = [f"malmoi serves at {url}" + ("  (open it in a browser)" if page else "")]
    if languages(catalogue) and (reason := why_not()):  # asking compiles them
        lines.append(f"language models answer more slowly, without malmoi's own kernels: {reason}")
    for entry in catalogue.values():
        does = (
            f"task {entry.task.name}, by {entry.method.method.name}" if isinstance(entry, TaskEntry)
            else f"{'chat and completion' if entry.form else 'completion'}, in {entry.model.precision}"
        )  # fmt: skip
        lines.append(f"  {entry.name:{width}}  {does}")
    return [*lines, f"base URL for OpenAI clients: {url}/v1", "try:", *_example(url, catalogue, with_key)]


def _example(url: str, catalogue: Catalogue, with_key: bool) -> list[str]:
    """A curl command for the first model that chats, else for the first one."""
    entry = next((one for one in languages(catalogue) if one.form), next(iter(catalogue.values())))
    if not isinstance(entry, LanguageEntry):
        path = f"/v1/tasks/{entry.task.name}"
        body = {"model": entry.name, "input": entry.task.kind.example}
    elif entry.form:
        path = "/v1/chat/completions"
        body = {"model": entry.name, "messages": [{"role": "user", "content": "안녕하세요?"}]}
    else:
        path, body = "/v1/completions", {"model": entry.name, "prompt": "옛날에", "max_tokens": 32}
    key = " -H 'Authorization: Bearer YOUR_KEY'" if with_key else ""
    data = json.dumps(body, ensure_ascii=False)
    return [f"  curl {url}{path} -H 'Content-Type: application/json'{key} \\", f"    -d '{data}'"]
