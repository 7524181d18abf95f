"""What a browser may do with the page: a content-security policy, and few paths.

Gradio serves uploads, proxies and an open programming interface beside what our page needs; only what it
needs passes. Every script of the page gets a fresh nonce, so text that slips into the page cannot run. Keys,
hosts and sizes are the business of the guard that stands before the whole server.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PAGE = "/page"
_NEEDED = re.compile(
    r"/?|/(config|theme\.css)/?|/(static|assets|svelte|reports)/.+"
    r"|/gradio_api/(info|app_id|startup-events|queue/join|queue/data|cancel|reset|heartbeat/\w+)/?"
)
_SCRIPT = re.compile(rb"<script(?=[\s>])")
_MANIFEST = re.compile(rb"<link rel=\"manifest\"[^>]*>")  # of an installable app, which this is not
_POLICY = (
    "default-src 'self'; script-src 'self' 'nonce-{nonce}'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; frame-src 'self'; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
_POLICY_OF_FILES = "default-src 'none'; frame-ancestors 'none'"


class PagePolicy:
    """Middleware for all paths below `PAGE`; others pass untouched."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        path = scope.get("path", "")
        if scope["type"] != "http" or not (path == PAGE or path.startswith(f"{PAGE}/")):
            await self._app(scope, receive, send)
        elif not _NEEDED.fullmatch(path.removeprefix(PAGE)):
            await PlainTextResponse("not found", 404)(scope, receive, send)
        elif path == f"{PAGE}/" and scope["method"] == "GET":
            await self._document(scope, receive, send)
        else:
            await self._app(scope, receive, _hardened(send))

    async def _document(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The page itself: read whole, with a nonce in each of its scripts."""
        plain = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
        start: MutableMapping[str, Any] = {}
        body = bytearray()

        async def hold(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            else:
                body.extend(message.get("body", b""))

        await self._app({**scope, "headers": plain}, receive, hold)
        nonce = secrets.token_urlsafe(16)
        text = _SCRIPT.sub(f'<script nonce="{nonce}"'.encode(), _MANIFEST.sub(b"", bytes(body)))
        headers = MutableHeaders(raw=list(start["headers"]))
        headers["content-length"] = str(len(text))
        headers["cache-control"] = "no-store"
        _harden(headers, _POLICY.format(nonce=nonce))
        await send({**start, "headers": headers.raw})
        await send({"type": "http.response.body", "body": text})


def _hardened(send: Send) -> Send:
    """A `send` that gives every answer the policy of a plain file, unless it has its own."""

    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=list(message["headers"]))
            _harden(headers, headers.get("content-security-policy", _POLICY_OF_FILES))
            message = {**message, "headers": headers.raw}
        await send(message)

    return with_headers


def _harden(headers: MutableHeaders, policy: str) -> None:
    headers["content-security-policy"] = policy
    headers["x-content-type-options"] = "nosniff"
    headers["referrer-policy"] = "same-origin"
