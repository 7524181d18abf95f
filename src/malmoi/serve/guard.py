"""What stands before every route, the page's included: who may ask, from where, how much, and until when."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from malmoi.serve.settings import ApiError, ServeSettings, is_loopback

MOST_DIGITS = 20  # of a length; Python makes no number of thousands
OPEN = "/health"  # the one path that needs no key and answers while the server stops
Report = Callable[[Scope, int, float], None]  # status and seconds of a request that is over
Refused = Callable[[ApiError], None]


class ErrorResponse(Response):
    """An `ApiError` as JSON."""

    media_type = "application/json"

    def __init__(self, error: ApiError) -> None:
        super().__init__(as_json(error.body), error.status, headers=error.headers)


class Guard:
    """ASGI middleware: refuses foreign hosts and origins, wrong keys, big or slow bodies, and new work once
    `stopping()` is true.

    A key may come as `Authorization: Bearer KEY`, or as the password of HTTP's basic scheme, which a browser
    asks its user for.
    """

    def __init__(
        self, app: ASGIApp, *, settings: ServeSettings, stopping: Callable[[], bool], report: Report,
        refused: Refused,
    ) -> None:  # fmt: skip
        self.app, self.settings, self.stopping = app, settings, stopping
        self.report, self.refused = report, refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # a server's start and end; web sockets are off
            await self.app(scope, receive, send)
            return
        start_s, status = time.perf_counter(), 0

        async def counted(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            self._check(scope, Headers(scope=scope))
            await self.app(scope, _Body(receive, self.settings), counted)
        except ApiError as error:
            self.refused(error)
            if not status:  # or a page's own handler has answered
                await ErrorResponse(error)(scope, receive, counted)
        finally:
            self.report(scope, status or 500, time.perf_counter() - start_s)

    def _check(self, scope: Scope, headers: Headers) -> None:
        self._check_source(headers)
        if scope["path"] == OPEN:
            return
        if self.settings.keys and not self.settings.keys.hold(_presented(headers)):
            raise ApiError(
                401, "no valid API key; send it as: Authorization: Bearer KEY", kind="authentication_error",
                code="invalid_api_key", headers={"WWW-Authenticate": 'Basic realm="malmoi"'},
            )  # fmt: skip
        if self.stopping():
            raise ApiError(
                503, "the server is stopping; try again later", kind="stopping_error",
                headers={"Retry-After": "5", "Connection": "close"},
            )  # fmt: skip
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > MOST_DIGITS or int(length) > self.settings.max_body_bytes:
            raise _too_large(self.settings.max_body_bytes)

    def _check_source(self, headers: Headers) -> None:
        """A page of another site must not reach a server on localhost through its visitor's browser: neither
        by a name of its own that leads here (DNS rebinding), nor by a request across sites."""
        host = headers.get("host", "")
        if is_loopback(self.settings.host) and not is_loopback(_name(host)):
            raise ApiError(
                403, f"this server is for localhost, not for {host[:100]!r}", kind="permission_error"
            )
        origin = headers.get("origin")
        allowed = self.settings.cors_origins
        if origin is None or origin in allowed or "*" in allowed:
            return
        if origin.partition("://")[2] != host:  # scheme://host, and nothing else
            raise ApiError(
                403, f"pages of {origin[:100]!r} may not use this server; allow them with `cors_origin`",
                kind="permission_error",
            )  # fmt: skip


class _Body:
    """`receive` with a limit of bytes and of time for the whole body."""

    def __init__(self, receive: Receive, settings: ServeSettings) -> None:
        self._receive, self._settings = receive, settings
        self._left, self._done = settings.max_body_bytes, False
        self._until = asyncio.get_running_loop().time() + settings.body_timeout_s

    async def __call__(self) -> Message:
        if self._done:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            wait_s = self._settings.body_timeout_s
            raise ApiError(
                408, f"the request's body did not come within {wait_s:g} s", kind="timeout_error"
            ) from None
        self._left -= len(message.get("body", b""))
        self._done = not message.get("more_body", False)
        if self._left < 0:
            raise _too_large(self._settings.max_body_bytes)
        return message


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"the request's body is over {limit:,} bytes; send less", code="request_too_large")


def _name(host: str) -> str:
    """A Host header without its port; '' where it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _presented(headers: Headers) -> str:
    """The key that a request shows, or ''."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""


def as_json(value: Any) -> bytes:
    """Compact JSON; text stays readable, and half a character is escaped."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")  # \udc80 is how JSON escapes it, too
