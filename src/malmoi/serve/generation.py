"""From a checked request to tokens and back: prompts and limits, the worker's stream, JSON or events."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from malmoi.core.errors import UserError
from malmoi.core.nouns import Json
from malmoi.engine.request import Sampling, TokenEvent
from malmoi.engine.score import token_logprobs
from malmoi.engine.session import REPLY_TOKENS
from malmoi.serve.catalogue import LanguageEntry
from malmoi.serve.guard import as_json
from malmoi.serve.metrics import Meter, ServeMetrics
from malmoi.serve.protocol import ChatBody, CompletionBody, GenerationBody
from malmoi.serve.replies import ChatShape, CompletionShape, Known, Sample, Shape
from malmoi.serve.settings import ApiError, ServeSettings
from malmoi.serve.worker import REPORTED, Busy, Failed, Stopping, Stream, Worker
from malmoi.text.chat import ChatFormat

T = TypeVar("T")
TOO_LONG = "context_length_exceeded"  # OpenAI's code
DEFAULT_TOKENS = 16  # of /v1/completions, as OpenAI's
CHUNKS_PER_S = 50  # of all streams together: while one is written, the engine's thread has to wait
LONGEST_PAUSE_S = 0.05  # between two chunks of a stream, so that the eye does not see it
GRACE_S = 5.0  # after the time limit, to tell a client that reads slowly


class ClientGone(Exception):
    """The client has closed the connection."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a request comes to. max_tokens 0: nothing is generated, `params` holds for one token."""

    entry: LanguageEntry
    prompts: list[list[int]]
    max_tokens: int
    params: Sampling


def plan_chat(entry: LanguageEntry, body: ChatBody, settings: ServeSettings) -> Plan:
    """Raises ApiError for a model without a chat template, turns out of order, or too many tokens."""
    if entry.form is None:
        raise ApiError(
            400, f"{entry.name} has no chat template, so it only completes text; use /v1/completions",
            param="model",
        )  # fmt: skip
    ids = conversation_ids(entry.form, body, settings)
    _check_length(entry, ids, "messages", settings)
    limit = _limit(entry, len(ids), body.wanted_tokens, settings)
    return Plan(entry, [ids], limit, body.sampling(limit, entry.engine.tokenizer.vocab_size))


def plan_completion(entry: LanguageEntry, body: CompletionBody, settings: ServeSettings) -> Plan:
    """Raises ApiError for a prompt that is empty or too long, too many of them, or too many tokens."""
    if len(body.prompt) > settings.max_prompts:
        raise ApiError(
            400, f"{len(body.prompt)} prompts; give at most {settings.max_prompts} at once", param="prompt"
        )
    prompts = [_prompt_ids(entry, prompt, settings) for prompt in body.prompt]
    wanted = DEFAULT_TOKENS if body.max_tokens is None else body.max_tokens
    if wanted:
        wanted = _limit(entry, max(map(len, prompts)), wanted, settings)
    return Plan(entry, prompts, wanted, body.sampling(max(1, wanted), entry.engine.tokenizer.vocab_size))


def conversation_ids(form: ChatFormat, body: ChatBody, settings: ServeSettings) -> list[int]:
    """The ids up to where the reply begins. Raises ApiError for turns out of order, or too much to read."""
    turns = body.turns()
    check_characters((turn.content for turn in turns), "messages", settings)
    try:
        return form.prompt_ids(turns)
    except UserError as error:
        raise ApiError(400, str(error), param="messages") from None


def check_characters(texts: Iterable[str], param: str, settings: ServeSettings) -> None:
    """Before they are cut into tokens. Raises ApiError where there are too many."""
    count, most = sum(map(len, texts)), settings.max_prompt_chars
    if count > most:
        raise ApiError(
            400, f"{count:,} characters; this server reads at most {most:,} of them, shorten the text",
            param=param, code=TOO_LONG,
        )  # fmt: skip


def _prompt_ids(entry: LanguageEntry, prompt: str | list[int], settings: ServeSettings) -> list[int]:
    """A text as `Engine.encode_prompt` reads it, ids as they are."""
    if isinstance(prompt, str):
        check_characters([prompt], "prompt", settings)
    try:
        ids = entry.engine.encode_prompt(prompt) if isinstance(prompt, str) else prompt
    except UserError as error:
        raise ApiError(400, str(error), param="prompt") from None
    if max(ids) >= entry.engine.scorer.vocab_size:
        last = entry.engine.scorer.vocab_size - 1
        raise ApiError(400, f"the prompt has an id outside 0..{last}", param="prompt")
    _check_length(entry, ids, "prompt", settings)
    return ids


def _check_length(entry: LanguageEntry, ids: list[int], param: str, settings: ServeSettings) -> None:
    context = entry.engine.scorer.context
    most = settings.max_prompt_tokens if context is None else context
    if len(ids) > most:
        what = "prompt" if param == "prompt" else "conversation"
        limit = f"{entry.name} reads at most" if context is None else f"the context of {entry.name} is"
        raise ApiError(
            400, f"the {what} is {len(ids)} tokens, but {limit} {most} tokens; shorten it by "
            f"{len(ids) - most}",
            param=param, code=TOO_LONG,
        )  # fmt: skip


def _limit(entry: LanguageEntry, prompt: int, wanted: int | None, settings: ServeSettings) -> int:
    """How many tokens a reply may take; what goes beyond the context ends with finish_reason "length"."""
    context = entry.engine.scorer.context
    if wanted is None:
        wanted = min(REPLY_TOKENS if context is None else context - prompt, settings.max_tokens)
    if wanted > settings.max_tokens:
        raise ApiError(
            400, f"{wanted} tokens are asked for; this server gives at most {settings.max_tokens}",
            param="max_tokens",
        )  # fmt: skip
    return max(1, wanted)


class Generator:
    """Runs plans with the worker and answers in OpenAI's shapes."""

    def __init__(self, worker: Worker, metrics: ServeMetrics, settings: ServeSettings) -> None:
        self.worker, self.metrics, self.settings = worker, metrics, settings
        self._streams = 0  # that are being sent

    async def chat(self, request: Request, plan: Plan, body: ChatBody, headers: dict[str, str]) -> Response:
        """The answer of /v1/chat/completions."""
        until, wanted = self._until(), body.alternatives() is not None
        shape = ChatShape(plan.entry.name, plan.entry.engine.tokenizer, plan.params.n, wanted)
        return await self._answer(request, plan, body, shape, headers, until)

    async def completion(
        self, request: Request, plan: Plan, body: CompletionBody, headers: dict[str, str]
    ) -> Response:
        """The answer of /v1/completions."""
        until, wanted = self._until(), body.alternatives()
        async with in_time(until):
            echoes = await until_gone(request, self._echoes(plan, body, wanted)) if body.echo else None
        shape = CompletionShape(
            plan.entry.name, plan.entry.engine.tokenizer, plan.params.n, wanted is not None, echoes
        )
        return await self._answer(request, plan, body, shape, headers, until)

    def _until(self) -> float:
        """When a request that begins now must have ended, by the event loop's clock."""
        return asyncio.get_running_loop().time() + self.settings.request_timeout_s

    async def _echoes(
        self, plan: Plan, body: CompletionBody, top: int | None
    ) -> list[tuple[str, list[Known]]]:
        """Each prompt's text and, where they are wanted, its tokens as the model finds them."""
        tokenizer = plan.entry.engine.tokenizer
        own = [ids[isinstance(prompt, str) :] for prompt, ids in zip(body.prompt, plan.prompts, strict=True)]
        texts = [tokenizer.decode(ids) for ids in own]
        if top is None:
            return [(text, []) for text in texts]
        engine = plan.entry.engine
        scored = await self.worker.calls(token_logprobs, [(engine, ids, top) for ids in plan.prompts])
        found: list[tuple[str, list[Known]]] = []
        for text, ids, rest, logprobs in zip(texts, plan.prompts, own, scored, strict=True):
            known: list[Known] = [(ids[0], None, ())]
            known += [(id, *one) for id, one in zip(ids[1:], logprobs, strict=True)]
            found.append((text, known[len(ids) - len(rest) :]))
        return found

    async def _answer(
        self, request: Request, plan: Plan, body: GenerationBody, shape: Shape, headers: dict[str, str],
        until: float,
    ) -> Response:  # fmt: skip
        meter = Meter(self.metrics, plan.entry.name)
        events = _Timed(self._stream(plan), until, meter)
        meter.read(sum(map(len, plan.prompts)))
        if body.stream:
            try:
                first = await until_gone(request, events.take())  # or an error with its own status
            except BaseException:
                events.close()
                raise
            pieces = self._pieces(first, events, shape, len(plan.prompts), body.include_usage)
            return EventStream(
                pieces, events, headers, self.settings.request_timeout_s + GRACE_S, self.metrics
            )
        samples = await until_gone(request, _collect(events, shape, len(plan.prompts)))
        return Response(as_json(shape.whole(samples, meter.usage)), 200, headers, "application/json")

    async def _pieces(
        self, first: list[tuple[int, TokenEvent]], events: _Timed, shape: Shape, prompts: int, usage: bool
    ) -> AsyncIterator[bytes]:
        """Server-sent events. An error that comes once the first is out is an event, too."""
        self._streams += 1
        try:
            loop = asyncio.get_running_loop()
            choices = [*shape.opening(prompts), *shape.pieces(first)]
            while not events.ended:
                if choices:
                    yield _chunks(shape, choices)
                pause_s = min(LONGEST_PAUSE_S, self._streams / CHUNKS_PER_S)
                choices = shape.pieces(await events.take(loop.time() + pause_s))
        except (ApiError, *REPORTED) as error:
            error = as_api_error(error)
            self.metrics.errors.labels(error.kind).inc()
            events.reported = True
            yield _event(error.body)
            return
        finally:
            self._streams -= 1
        events.reported = True
        counted = _event(shape.chunk([], events.meter.usage)) if usage else b""
        yield _chunks(shape, choices) + counted + b"data: [DONE]\n\n"  # at once: every writing costs

    def _stream(self, plan: Plan) -> Stream | _Ended:
        if plan.max_tokens == 0:
            return _Ended(len(plan.prompts), plan.params.n)
        return self.worker.stream_batch(plan.entry.engine, plan.prompts, plan.params)


class _Ended:
    """As a `Stream` of prompts that want no token."""

    def __init__(self, prompts: int, n: int) -> None:
        self._left = [
            (prompt, TokenEvent(prompt, index, None, "", 0.0, finished="length"))
            for prompt in range(prompts)
            for index in range(n)
        ]

    async def take(self, not_before: float = 0.0) -> list[tuple[int, TokenEvent]]:
        """All events; then none."""
        del not_before
        found, self._left = self._left, []
        return found

    @property
    def ended(self) -> bool:
        """Whether there is no more."""
        return not self._left

    def close(self) -> None:
        """There is nothing to give up."""


class _Timed:
    """A stream that is counted and ends at a time; `close` gives up the rest.

    reported: whether the client has heard how it ended.
    """

    def __init__(self, stream: Stream | _Ended, until: float, meter: Meter) -> None:
        self._stream, self._until, self.meter, self._closed = stream, until, meter, False
        self.reported = False

    async def take(self, not_before: float = 0.0) -> list[tuple[int, TokenEvent]]:
        """As `Stream.take`. Raises ApiError where the time is over."""
        try:
            async with in_time(self._until):
                found = await self._stream.take(not_before)
        except BaseException:
            self.close()
            raise
        for number, event in found:
            self.meter.take(number, event)
        return found

    @property
    def ended(self) -> bool:
        """Whether all that comes was taken."""
        return self._stream.ended

    def close(self) -> None:
        """Give up what has not ended."""
        if not self._closed:
            self._closed = True
            self._stream.close()
            self.meter.end()


class EventStream(StreamingResponse):
    """Server-sent events that end with their client, or with its patience."""

    media_type = "text/event-stream"

    def __init__(
        self, pieces: AsyncIterator[bytes], events: _Timed, headers: dict[str, str], timeout_s: float,
        metrics: ServeMetrics,
    ) -> None:  # fmt: skip
        super().__init__(pieces, 200, {"Cache-Control": "no-cache", **headers})
        self._events, self._timeout_s, self._metrics = events, timeout_s, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timeout_s):
                    await super().__call__(scope, receive, send)
        finally:
            self._events.close()
            if not self._events.reported:
                self._metrics.errors.labels("client_gone").inc()


async def _collect(events: _Timed, shape: Shape, prompts: int) -> list[Sample]:
    """All samples, in the order of prompt, then index."""
    samples = [Sample() for _ in range(prompts * shape.n)]
    try:
        found = await events.take()  # apart, for the time to the first token is measured
        while found:
            for number, event in found:
                samples[number * shape.n + event.index].add(shape.sample(event))
            found = await events.take(math.inf)
    finally:
        events.close()
    return samples


@contextlib.asynccontextmanager
async def in_time(until: float) -> AsyncIterator[None]:
    """Raises ApiError where what is done within lasts until then, by the event loop's clock."""
    try:
        async with asyncio.timeout_at(until):
            yield
    except TimeoutError:
        raise ApiError(504, "the request took too long; ask for less at once", kind="timeout_error") from None


async def until_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What the work returns or raises; ends it and raises ClientGone where the client goes away first."""
    tasks = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            return tasks[0].result()
        raise ClientGone
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def as_api_error(error: Exception) -> ApiError:
    """What a client is sent."""
    match error:
        case ApiError():
            return error
        case Busy():
            headers = {"Retry-After": str(error.retry_after_s)}
            return ApiError(
                429, str(error), kind="rate_limit_error", code="rate_limit_exceeded", headers=headers
            )
        case Stopping():
            return ApiError(503, str(error), kind="stopping_error", headers={"Retry-After": "5"})
        case UserError():
            return ApiError(400, str(error))
        case _:
            failed = error if isinstance(error, Failed) else Failed()
            return ApiError(500, str(failed), kind="server_error")


def _chunks(shape: Shape, choices: Sequence[Json]) -> bytes:
    return b"".join(_event(shape.chunk([choice])) for choice in choices)


def _event(value: Json) -> bytes:
    return b"data: " + as_json(value) + b"\n\n"
