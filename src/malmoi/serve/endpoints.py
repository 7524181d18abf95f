"""What each path does: OpenAI's endpoints, tasks, tokens, health and metrics.

A new one is a function (here or in a file of its own) and a line in `malmoi.serve.api:ENDPOINTS`.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import Response

from malmoi.core.errors import UserError, nearest
from malmoi.methods.cascade import CHEAP, STRONG
from malmoi.methods.use import confident
from malmoi.serve.catalogue import Catalogue, Entry, LanguageEntry, TaskEntry, languages, tasks
from malmoi.serve.generation import (
    Generator,
    check_characters,
    conversation_ids,
    in_time,
    plan_chat,
    plan_completion,
    until_gone,
)
from malmoi.serve.guard import as_json
from malmoi.serve.metrics import CONTENT_TYPE, ServeMetrics
from malmoi.serve.protocol import (
    Body,
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    TaskBody,
    TokenizeBody,
    parsed,
)
from malmoi.serve.settings import ApiError, ServeSettings
from malmoi.serve.worker import Worker
from malmoi.tasks import TASKS

WARNING = "x-malmoi-warning"
INPUTS_A_CALL = 8  # of a task: others' tokens come in between
_PLAIN = re.compile(r"[\w.-]+", re.ASCII)  # a field's name that a header can hold as it is
B = TypeVar("B", bound=Body)


@dataclass(frozen=True, slots=True)
class Serving:
    """What an endpoint works with."""

    catalogue: Catalogue
    worker: Worker
    settings: ServeSettings
    metrics: ServeMetrics
    generator: Generator

    def language(self, name: str | None) -> LanguageEntry:
        """By name; the only one may be left unnamed."""
        found = languages(self.catalogue)
        if name is None and len(found) == 1:
            return found[0]
        if name is None:
            known = ", ".join(entry.name for entry in found) or "none here completes text"
            raise ApiError(400, f"say which model; known: {known}", param="model")
        entry = self.catalogue.get(name)
        if entry is None:
            raise _unknown_model(name, [entry.name for entry in found])
        if isinstance(entry, TaskEntry):
            message = f"{name} does {entry.task.name}; use /v1/tasks/{entry.task.name}"
            raise ApiError(400, message, param="model")
        return entry

    def task(self, task: str, name: str | None) -> TaskEntry:
        """By name, or the first model of the task."""
        found = [entry for entry in tasks(self.catalogue) if entry.task.name == task]
        if not found:
            names = {entry.task.name for entry in tasks(self.catalogue)}
            task = task[:100]
            fix = nearest(task, names) if names else "serve a fitted method's folder, too"
            raise ApiError(404, f"no model for task {task!r}; {fix}", code="task_not_found")
        if name is None:
            return found[0]
        entry = next((entry for entry in found if entry.name == name), None)
        if entry is None:
            raise _unknown_model(name, [entry.name for entry in found])
        return entry


Handler = Callable[[Serving, Request], Awaitable[Response]]  # raises ApiError, and what the worker reports


async def list_models(serving: Serving, request: Request) -> Response:
    """OpenAI's list, with what each model does."""
    del request
    return json_response(
        {"object": "list", "data": [_described(entry) for entry in serving.catalogue.values()]}
    )


async def describe_model(serving: Serving, request: Request) -> Response:
    """One of the list."""
    name = request.path_params["name"]
    if name not in serving.catalogue:
        raise _unknown_model(name, serving.catalogue)
    return json_response(_described(serving.catalogue[name]))


async def chat(serving: Serving, request: Request) -> Response:
    """The reply to a conversation."""
    body, headers = await read(ChatBody, request)
    entry = serving.language(body.model)
    plan = await asyncio.to_thread(plan_chat, entry, body, serving.settings)
    return await serving.generator.chat(request, plan, body, headers)


async def complete(serving: Serving, request: Request) -> Response:
    """How texts go on."""
    body, headers = await read(CompletionBody, request)
    entry = serving.language(body.model)
    plan = await asyncio.to_thread(plan_completion, entry, body, serving.settings)
    headers |= _warning(body.ignored(), await asyncio.to_thread(_specials_in, entry, body.texts))
    return await serving.generator.completion(request, plan, body, headers)


async def list_tasks(serving: Serving, request: Request) -> Response:
    """Which tasks there are, and the models for each."""
    del request
    found: dict[str, list[str]] = {}
    for entry in tasks(serving.catalogue):
        found.setdefault(entry.task.name, []).append(entry.name)
    data = [
        {"id": name, "object": "task", "kind": TASKS[name].kind.name, "models": models}
        for name, models in found.items()
    ]
    return json_response({"object": "list", "data": data})


async def predict(serving: Serving, request: Request) -> Response:
    """Predictions for one input or many."""
    body, headers = await read(TaskBody, request)
    entry = serving.task(request.path_params["task"], body.model)
    parts = await asyncio.to_thread(_parts, entry, body, serving.settings)
    async with in_time(asyncio.get_running_loop().time() + serving.settings.request_timeout_s):
        call = partial(_predict, least=body.min_confidence)
        found = [*chain(*await until_gone(request, serving.worker.calls(call, parts)))]
    for passed_on in (one["passed_on"] for one in found if "passed_on" in one):
        serving.metrics.answers.labels(entry.name, STRONG if passed_on else CHEAP).inc()
    return json_response(
        {
            "object": "task.predictions", "task": entry.task.name, "model": entry.name,
            "method": entry.method.method.name,
            "predictions": [one | {"index": at} for at, one in enumerate(found)],
        },
        headers,
    )  # fmt: skip


async def tokenize(serving: Serving, request: Request) -> Response:
    """The ids that a prompt or a conversation becomes."""
    body, headers = await read(TokenizeBody, request)
    entry = serving.language(body.model)
    return json_response(await asyncio.to_thread(_tokens, entry, body, serving.settings), headers)


async def detokenize(serving: Serving, request: Request) -> Response:
    """The text of ids; specials are left out."""
    body, headers = await read(DetokenizeBody, request)
    tokenizer = serving.language(body.model).engine.tokenizer
    if max(body.tokens, default=0) >= tokenizer.vocab_size:
        message = f"there is an id outside 0..{tokenizer.vocab_size - 1}; use the model's own tokenizer"
        raise ApiError(400, message, param="tokens")
    return json_response({"prompt": await asyncio.to_thread(tokenizer.decode, body.tokens)}, headers)


async def health(serving: Serving, request: Request) -> Response:
    """200 while the server takes requests, 503 once it stops."""
    del request
    stopping = serving.worker.stopping
    return json_response({"status": "stopping" if stopping else "ok"}, status=503 if stopping else 200)


async def show_metrics(serving: Serving, request: Request) -> Response:
    """Prometheus' text."""
    del request
    for entry in languages(serving.catalogue):
        serving.metrics.waiting.labels(entry.name).set(serving.worker.waiting(entry.engine))
    return Response(serving.metrics.exposition(), media_type=CONTENT_TYPE)


def _specials_in(entry: LanguageEntry, texts: Sequence[str]) -> list[str]:
    """The names of special tokens that stand in texts, where they are plain text."""
    names = sorted(entry.engine.tokenizer.special_texts)
    return [name for name in names if any(name in text for text in texts)]


def _described(entry: Entry) -> dict[str, Any]:
    found: dict[str, Any] = {
        "id": entry.name, "object": "model", "created": entry.created, "owned_by": "malmoi"
    }  # fmt: skip
    if isinstance(entry, TaskEntry):
        return found | {"task": entry.task.name, "method": entry.method.method.name}
    return found | {"chat": entry.form is not None, "max_model_len": entry.engine.scorer.context}


def _unknown_model(name: str, known: Sequence[str] | Catalogue) -> ApiError:
    name = name[:100]
    fix = nearest(name, known) if known else "none is there"
    return ApiError(404, f"unknown model {name!r}; {fix}", param="model", code="model_not_found")


async def read(kind: type[B], request: Request) -> tuple[B, dict[str, str]]:
    """A request's body, and a header that names what of it has no effect. Raises ApiError."""
    return await asyncio.to_thread(_checked, kind, await request.body())


def _checked(kind: type[B], content: bytes) -> tuple[B, dict[str, str]]:
    body = parsed(kind, content)
    return body, _warning(body.ignored())


def _parts(entry: TaskEntry, body: TaskBody, settings: ServeSettings) -> list[tuple[TaskEntry, list[Any]]]:
    """The inputs by calls: as many and as long as leave no call to take much longer than one input may."""
    parts: list[tuple[TaskEntry, list[Any]]] = []
    left = 0
    for at, value in enumerate(body.values(settings.max_prompts)):
        count = _characters(value)
        if count > settings.max_input_chars:
            message = f"{count:,} characters; an input has at most {settings.max_input_chars:,}, shorten it"
            raise ApiError(400, message, param=f"inputs.{at}")
        if not parts or count > left or len(parts[-1][1]) == INPUTS_A_CALL:
            parts.append((entry, []))
            left = settings.max_input_chars
        parts[-1][1].append(_input(entry, at, value))
        left -= count
    return parts


def _characters(value: Any) -> int:
    """Of all texts in a JSON value."""
    match value:
        case str():
            return len(value)
        case dict():
            return sum(len(name) + _characters(one) for name, one in value.items())
        case list():
            return sum(map(_characters, value))
        case _:
            return 0


def _input(entry: TaskEntry, at: int, value: Any) -> Any:
    try:
        return entry.task.input_from(value)
    except ValueError as error:  # UserError, BadRow
        raise ApiError(400, str(error), param=f"inputs.{at}") from None


def _predict(entry: TaskEntry, inputs: Sequence[Any], least: float | None) -> list[dict[str, Any]]:
    """Runs on the worker's thread."""
    try:
        found = confident(entry.method.method, inputs, least)
    except UserError as error:  # it has none
        raise ApiError(400, str(error), param="min_confidence") from None
    rows = [
        {"prediction": entry.task.to_json(answer, value)}
        for answer, value in zip(found.values, inputs, strict=True)
    ]
    more = {
        "probabilities": found.probabilities, "confidence": found.confidences, "passed_on": found.passed_on
    }  # fmt: skip
    for name, values in more.items():
        rows = (
            [row | {name: it} for row, it in zip(rows, values, strict=True)] if values is not None else rows
        )
    return rows


def _tokens(entry: LanguageEntry, body: TokenizeBody, settings: ServeSettings) -> dict[str, Any]:
    ids, tokenizer = _ids(entry, body, settings), entry.engine.tokenizer
    return {
        "count": len(ids), "max_model_len": entry.engine.scorer.context, "tokens": ids,
        "token_strs": [tokenizer.token_text(id) for id in ids],
    }  # fmt: skip


def _ids(entry: LanguageEntry, body: TokenizeBody, settings: ServeSettings) -> list[int]:
    if (body.prompt is None) == (body.messages is None):
        raise ApiError(400, 'give either "prompt" or "messages"', param="prompt")
    if body.prompt is not None:
        check_characters([body.prompt], "prompt", settings)
        ids = entry.engine.tokenizer.encode(body.prompt)
        return entry.engine.encode_prompt(body.prompt) if ids and body.add_special_tokens else ids
    if entry.form is None:
        raise ApiError(400, f"{entry.name} has no chat template; give a prompt", param="messages")
    return conversation_ids(entry.form, ChatBody(messages=body.messages or []), settings)


def json_response(value: Any, headers: dict[str, str] | None = None, status: int = 200) -> Response:
    """A reply in JSON."""
    return Response(as_json(value), status, headers, "application/json")


def _warning(ignored: Sequence[str], specials: Sequence[str] = ()) -> dict[str, str]:
    """A header that names fields without effect, and special tokens' names that a prompt has as plain text.

    Any field can be given: an empty name would end the header in a blank, which HTTP forbids.
    """
    fields = (name if _PLAIN.fullmatch(name) else json.dumps(name[:100]) for name in ignored[:100])
    lines = [f"ignored: {', '.join(fields)[:500]}".rstrip()] if ignored else []
    if specials:
        named = ", ".join(map(json.dumps, specials))[:500]
        lines.append(f"read as plain text: {named}; send a conversation to /v1/chat/completions")
    return {WARNING: "; ".join(lines)} if lines else {}
