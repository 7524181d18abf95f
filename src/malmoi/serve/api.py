"""The app: the endpoints behind the guard, errors as JSON, counts. The page is `malmoi.serve.web`."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Literal

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Scope

from malmoi.serve import endpoints
from malmoi.serve.catalogue import Catalogue, languages
from malmoi.serve.endpoints import WARNING, Handler, Serving
from malmoi.serve.generation import ClientGone, Generator, as_api_error
from malmoi.serve.guard import ErrorResponse, Guard, Report
from malmoi.serve.metrics import ServeMetrics
from malmoi.serve.settings import ApiError, ServeSettings
from malmoi.serve.worker import REPORTED, Worker
from malmoi.util.version import VERSION

ENDPOINTS: dict[str, tuple[Literal["GET", "POST"], Handler]] = {
    "/v1/models": ("GET", endpoints.list_models),
    "/v1/models/{name:path}": ("GET", endpoints.describe_model),
    "/v1/chat/completions": ("POST", endpoints.chat),
    "/v1/completions": ("POST", endpoints.complete),
    "/v1/tasks": ("GET", endpoints.list_tasks),
    "/v1/tasks/{task}": ("POST", endpoints.predict),
    "/tokenize": ("POST", endpoints.tokenize),
    "/detokenize": ("POST", endpoints.detokenize),
    "/health": ("GET", endpoints.health),
    "/metrics": ("GET", endpoints.show_metrics),
}
_ERRORS = (ApiError, *REPORTED, HTTPException, ClientDisconnect, ClientGone, Exception)


def create_app(catalogue: Catalogue, worker: Worker, settings: ServeSettings) -> FastAPI:
    """The whole interface over models that `worker` runs. `app.state.metrics` holds what /metrics tells."""
    app = FastAPI(title="malmoi", version=VERSION, docs_url=None, redoc_url=None, openapi_url=None)
    metrics = ServeMetrics({entry.engine: entry.name for entry in languages(catalogue)})
    app.state.metrics, worker.observe = metrics, metrics.observe
    serving = Serving(catalogue, worker, settings, metrics, Generator(worker, metrics, settings))
    for path, (method, handler) in ENDPOINTS.items():
        app.add_route(path, partial(handler, serving), methods=[method])
    for kind in _ERRORS:
        app.add_exception_handler(kind, _on_error(metrics))
    app.add_middleware(
        Guard, settings=settings, stopping=lambda: worker.stopping,
        report=_reporter(metrics, list(ENDPOINTS)),
        refused=lambda error: metrics.errors.labels(error.kind).inc(),
    )  # fmt: skip
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=settings.cors_origins, allow_methods=["GET", "POST"],
            allow_headers=["*"], expose_headers=[WARNING],
        )  # fmt: skip
    return app


# --- errors and counts


def _on_error(metrics: ServeMetrics) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def respond(request: Request, error: Exception) -> Response:
        if isinstance(error, ClientDisconnect | ClientGone):
            metrics.errors.labels("client_gone").inc()
            return Response(status_code=499)  # nobody reads it
        if isinstance(error, HTTPException):
            message = f"{request.method} {request.url.path}: {error.detail}"
            error = ApiError(error.status_code, message, headers=error.headers)
        found = as_api_error(error)
        metrics.errors.labels(found.kind).inc()
        return ErrorResponse(found)

    return respond


def _reporter(metrics: ServeMetrics, paths: Sequence[str]) -> Report:
    """Counts under the path that a route was made with; "other": the page's files, what is not there."""
    known = [(path, re.compile(re.sub(r"\{[^}]*\}", ".+", path))) for path in paths]

    def report(scope: Scope, status: int, seconds: float) -> None:
        endpoint = next((path for path, form in known if form.fullmatch(scope["path"])), "other")
        metrics.requests.labels(endpoint, status).inc()
        metrics.seconds.labels(endpoint).observe(seconds)

    return report
