"""A chat model behind any OpenAI-compatible address: many questions at once, retried, paid for, remembered.

The key comes from the environment and goes into the request's header only: never into a file, a log or an
error. Answers lie in a cache folder under a hash of all that they depend on, so that nothing is paid twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import time
from collections import Counter, deque
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator, model_validator

from malmoi.core.config import StrictModel
from malmoi.core.errors import UserError
from malmoi.core.nouns import Message
from malmoi.util.files import cache_folder, write_json

if TYPE_CHECKING:
    from openai import AsyncOpenAI

IN_A_ROW = 20  # failures of the endpoint after which it is taken for dead
OVERHEAD = 16  # tokens of a turn's markers, at most
PARTS = 1_000_000  # what prices are for


class EndpointOptions(StrictModel):
    """Where to ask and how.

    base_url: for example https://api.openai.com/v1 or http://localhost:8000/v1. key_env: the environment
    variable that holds the key; a server of one's own may need none. concurrency: requests at once.
    timeout_s: of one attempt. retries: after a time-out, a lost connection, HTTP 429 or 5xx, or an answer of
    the wrong form. price_in, price_out: of a million tokens, in `currency`. spend_limit: what one process
    may spend at most. cache: a folder. extra: further fields of a request; null leaves a usual one out.
    """

    base_url: str
    model: Annotated[str, Field(min_length=1)]
    key_env: str = "OPENAI_API_KEY"
    temperature: NonNegativeFloat = 0.0
    seed: int = 0
    extra: dict[str, Any] = Field(default_factory=dict)
    concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    timeout_s: PositiveFloat = 60.0
    retries: Annotated[int, Field(ge=0, le=20)] = 3
    max_new_tokens: PositiveInt | None = None  # None: as many as the task usually needs
    price_in: NonNegativeFloat | None = None
    price_out: NonNegativeFloat | None = None
    currency: str = ""
    spend_limit: PositiveFloat | None = None
    cache: str | None = None  # None: in the user's cache folder

    free: ClassVar = frozenset({
        "key_env", "concurrency", "timeout_s", "retries", "cache",
        "price_in", "price_out", "currency", "spend_limit",
    })  # fmt: skip

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, url: str) -> str:
        if not re.fullmatch(r"https?://[^\s@?#]+", url):
            raise ValueError("must be an address like https://host/v1, without a name, password or query")
        return url.rstrip("/")

    @field_validator("key_env")
    @classmethod
    def _name_of_a_variable(cls, name: str) -> str:
        if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):  # a key, most likely: it is not repeated here
            raise ValueError("must be the name of an environment variable that holds the key, not the key")
        return name

    @field_validator("extra")
    @classmethod
    def _ours_stay(cls, extra: dict[str, Any]) -> dict[str, Any]:
        if taken := extra.keys() & {"model", "messages", "stream", "n"}:
            raise ValueError(f"cannot set {', '.join(sorted(taken))}")
        return extra

    @model_validator(mode="after")
    def _prices_together(self) -> Self:
        if (self.price_in is None) != (self.price_out is None):
            raise ValueError("price_in and price_out belong together")
        if self.price_in is None and (self.spend_limit is not None or self.currency):
            raise ValueError("spend_limit and currency need price_in and price_out")
        if self.spend_limit is not None and not self.reply_limit(1):
            raise ValueError("spend_limit needs replies with an end; give extra max_completion_tokens")
        return self

    def reply_limit(self, max_new_tokens: int) -> int:
        """The tokens that a reply may have at most by what is sent, `extra` included; 0: no limit is sent."""
        sent = {"max_tokens": max_new_tokens} | self.extra
        limits = [sent.get(name) for name in ("max_tokens", "max_completion_tokens")]
        return max((limit for limit in limits if isinstance(limit, int)), default=0)

    @property
    def priced(self) -> bool:
        """Whether it is known what tokens cost."""
        return self.price_in is not None

    def price(self, tokens_in: float, tokens_out: float) -> float:
        """Of these tokens, in `currency`; 0 where it is not known."""
        return (tokens_in * (self.price_in or 0) + tokens_out * (self.price_out or 0)) / PARTS


@dataclass(frozen=True, slots=True)
class RemoteReply:
    """What the model answered: "" for a refusal. seconds: from the question on, with all attempts.

    Where a server tells no tokens, they are counted as the bytes, which are at least as many.
    """

    text: str
    finish: str
    tokens_in: int
    tokens_out: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no reply. lasting: it is not this question's fault, so others will fare as badly."""

    reason: str
    lasting: bool = True


class _WrongForm(ValueError):
    """An answer that is no chat completion."""


class Endpoint:
    """Asks and remembers; all figures are over what this object has asked. max_new_tokens: of each reply."""

    def __init__(self, options: EndpointOptions, max_new_tokens: int) -> None:
        self.options, self.max_new_tokens = options, max_new_tokens
        self.reply_limit = options.reply_limit(max_new_tokens)
        self.cache = Path(options.cache).expanduser() if options.cache else cache_folder("remote")
        self._outcomes: dict[str, RemoteReply | Failure] = {}  # by key, of this and earlier calls
        self._sent = self._cached = self._failed_in_a_row = 0
        self._spent = self._reserved = 0.0

    def ask(self, conversations: Sequence[Sequence[Message]]) -> list[RemoteReply | Failure]:
        """The outcome of each, in order; equal conversations are asked once.

        Raises UserError where the key or the model is refused, where spend_limit is reached, where every
        request fails or the last IN_A_ROW did; what was answered before is in the cache.
        """
        bodies = [self._body(messages) for messages in conversations]
        keys = [self._key(body) for body in bodies]
        open_ = {key: body for key, body in zip(keys, bodies, strict=True) if not self._known(key)}
        if open_:
            _run(self._ask_all(open_))
            self._raise_when_all_failed([self._outcomes[key] for key in open_])
        return [self._outcomes[key] for key in keys]

    def _body(self, messages: Sequence[Message]) -> dict[str, Any]:
        options = self.options
        body = {
            "model": options.model, "messages": [asdict(message) for message in messages],
            "max_tokens": self.max_new_tokens, "temperature": options.temperature, "seed": options.seed,
        }  # fmt: skip
        return {name: value for name, value in (body | options.extra).items() if value is not None}

    def _key(self, body: dict[str, Any]) -> str:
        text = json.dumps([self.options.base_url, body], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _known(self, key: str) -> bool:
        """Whether there is a reply already, here or in the cache."""
        if isinstance(self._outcomes.get(key), RemoteReply):
            return True
        try:
            reply = RemoteReply(**json.loads(self._file(key).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):  # none, or a damaged one
            return False
        self._outcomes[key] = reply
        self._cached += 1
        return True

    def _file(self, key: str) -> Path:
        return self.cache / key[:2] / f"{key}.json"

    # ---- asking

    async def _ask_all(self, bodies: dict[str, dict[str, Any]]) -> None:
        # here and not above: what does not ask a server shall not hold the client in its measured memory
        import openai

        queue = deque(bodies.items())

        async def work(client: AsyncOpenAI) -> None:
            while queue and self._affords(queue[0][1]):
                key, body = queue.popleft()
                with self._reservation(body):
                    outcome = await self._ask(client, body)
                    self._keep(key, outcome)

        options = self.options
        async with openai.AsyncOpenAI(
            api_key=_api_key(options.key_env) or "none", base_url=options.base_url,
            timeout=options.timeout_s, max_retries=options.retries,
        ) as client:  # fmt: skip
            await asyncio.gather(*(work(client) for _ in range(min(options.concurrency, len(bodies)))))
        if queue:
            raise UserError(self._over_the_limit(len(queue)))

    def _affords(self, body: dict[str, Any]) -> bool:
        """Whether a request fits into what may be spent, beside those under way."""
        limit = self.options.spend_limit
        return limit is None or self._spent + self._reserved + self._most(body) <= limit

    @contextmanager
    def _reservation(self, body: dict[str, Any]) -> Iterator[None]:
        most = self._most(body)
        self._reserved += most
        try:
            yield
        finally:
            self._reserved -= most

    def _most(self, body: dict[str, Any]) -> float:
        """What a request can cost at most."""
        return self.options.price(_most_tokens(body), self.reply_limit)

    def _over_the_limit(self, num_left: int) -> str:
        spent = f"{self._spent:.4g} {self.options.currency}".strip()
        return (
            f"spend_limit {self.options.spend_limit:g} is reached: {spent} spent on {self._sent:,} requests, "
            f"{num_left:,} are left; the answers are kept, so a higher limit goes on from here"
        )

    async def _ask(self, client: AsyncOpenAI, body: dict[str, Any]) -> RemoteReply | Failure:
        """One question with all its attempts, in bounded time. UserError for a refused key or model."""
        import openai

        options, start_s = self.options, time.perf_counter()
        fatal = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)
        try:
            async with asyncio.timeout(2 * options.timeout_s * (options.retries + 1)):
                found = await self._attempts(client, body)
        except fatal as error:
            raise UserError(self._refused(error.status_code, _message(error))) from None
        except (openai.APITimeoutError, TimeoutError):
            return Failure(f"no answer within {options.timeout_s:g} s")
        except openai.APIStatusError as error:
            lasting = error.status_code == 429 or error.status_code >= 500
            return Failure(self._plain(f"HTTP {error.status_code} ({_message(error)})"), lasting)
        except openai.APIConnectionError as error:
            return Failure(self._plain(f"the connection failed ({error.__cause__ or error})"))
        except _WrongForm as error:
            return Failure(str(error))
        except ValueError as error:  # a text that cannot be sent
            return Failure(self._plain(f"{type(error).__name__}: {error}"), lasting=False)
        return self._reply(found, body, time.perf_counter() - start_s)

    async def _attempts(self, client: AsyncOpenAI, body: dict[str, Any]) -> dict[str, Any]:
        """The client tries again by itself; an answer of the wrong form is asked for again here."""
        for attempt in range(self.options.retries + 1):
            raw = await client.chat.completions.with_raw_response.create(
                model=body["model"], messages=body["messages"], extra_body=body
            )
            try:
                return _completion(raw.http_response.content)
            except _WrongForm:
                if attempt == self.options.retries:
                    raise
            await asyncio.sleep(min(8.0, 0.25 * 2**attempt))
        raise AssertionError("unreachable")

    def _reply(self, found: dict[str, Any], body: dict[str, Any], seconds: float) -> RemoteReply:
        choice, usage = found["choices"][0], found.get("usage")
        text = choice["message"].get("content") or ""
        count = usage.get if isinstance(usage, dict) else lambda _: None
        tokens = count("prompt_tokens"), count("completion_tokens")
        tokens_in = tokens[0] if isinstance(tokens[0], int) else _most_tokens(body)
        tokens_out = tokens[1] if isinstance(tokens[1], int) else len(text.encode())
        return RemoteReply(
            self._hidden(text), str(choice.get("finish_reason")), tokens_in, tokens_out, seconds
        )

    def _keep(self, key: str, outcome: RemoteReply | Failure) -> None:
        """Remember an outcome. Raises UserError where the endpoint seems to be dead."""
        self._outcomes[key] = outcome
        self._sent += 1
        if isinstance(outcome, RemoteReply):
            self._failed_in_a_row = 0
            self._spent += self.options.price(outcome.tokens_in, outcome.tokens_out)
            write_json(self._file(key), asdict(outcome))
        elif outcome.lasting:
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= IN_A_ROW:
                raise UserError(
                    f"{self.options.base_url}: {IN_A_ROW} requests in a row failed, the last: "
                    f"{outcome.reason}; the answers before are kept, run it again when the server works"
                )

    def _raise_when_all_failed(self, asked: Sequence[RemoteReply | Failure]) -> None:
        """One question may be at fault itself, so that alone is no reason, unless the endpoint is."""
        failures = [one for one in self._outcomes.values() if isinstance(one, Failure)]
        if len(failures) == len(self._outcomes) and (len(asked) > 1 or failures[-1].lasting):
            how_many = f"all {len(failures)} requests" if len(failures) > 1 else "the request"
            raise UserError(f"{self.options.base_url}: {how_many} failed: {_reasons(failures)}")

    # ---- telling

    def _refused(self, status: int, message: str) -> str:
        options = self.options
        if status == 404:
            fix = f"no model {options.model!r} there, or a wrong address; see base_url and model"
        elif _api_key(options.key_env):
            fix = f"the key in {options.key_env} is refused; set a valid one"
        else:
            fix = f"it wants a key; put one into the environment variable {options.key_env}"
        return self._plain(f"{options.base_url}: {fix} (HTTP {status}: {message}")[:400] + ")"

    def _plain(self, text: str) -> str:
        return self._hidden(" ".join(text.split()))[:300]

    def _hidden(self, text: str) -> str:
        """The text without the key, should a server repeat it."""
        key = _api_key(self.options.key_env)
        return text.replace(key, "[key]") if len(key) > 5 else text

    def report(self) -> dict[str, Any]:
        """What was asked, got and paid, JSON; `note`: one line about what went wrong, where something did."""
        replies = self._replies()
        tokens = {name: sum(getattr(one, name) for one in replies) for name in ("tokens_in", "tokens_out")}
        found: dict[str, Any] = {"requests": self._sent, "cached": self._cached, **tokens}
        if self.options.priced:
            found |= {"spent": self._spent, "currency": self.options.currency}
        return found | ({"note": note} if (note := self._note(replies)) else {})

    def _note(self, replies: Sequence[RemoteReply]) -> str:
        failures = [one for one in self._outcomes.values() if isinstance(one, Failure)]
        num_empty = sum(not one.text.strip() for one in replies)
        num_cut = sum(one.finish == "length" for one in replies)
        total = f"of {len(self._outcomes):,}"
        where = f" at {self.reply_limit} tokens" if self.reply_limit else ""
        parts = [
            f"{len(failures):,} {total} requests failed: {_reasons(failures)}" if failures else "",
            f"{num_empty:,} {total} replies are empty or a refusal" if num_empty else "",
            f"{num_cut:,} {total} replies were cut{where}" if num_cut else "",
        ]
        return "; ".join(filter(None, parts))

    def costs(self) -> dict[str, float]:
        """Seconds of a reply, replies per second at once, and the price of 1,000 where prices are known."""
        replies = self._replies()
        if not replies:
            return {}
        seconds = np.array([one.seconds for one in replies])
        p50, p95 = np.percentile(seconds, (50, 95))
        per_s = self.options.concurrency / max(1e-9, float(seconds.mean()))
        found = {"latency_p50_s": float(p50), "latency_p95_s": float(p95), "predictions_per_s": per_s}
        if self.options.priced:
            price = sum(self.options.price(one.tokens_in, one.tokens_out) for one in replies)
            found["price_per_1000"] = 1000 * price / len(replies)
        return found

    def _replies(self) -> list[RemoteReply]:
        return [one for one in self._outcomes.values() if isinstance(one, RemoteReply)]


def _api_key(variable: str) -> str:
    """The key, "" for none. Raises UserError, without showing it, for one that no header can carry."""
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"the key in {variable} has letters that no key has; set it again")
    return key


def _run(work: Coroutine[Any, Any, None]) -> None:
    """asyncio.run, also where a loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def _completion(content: bytes) -> dict[str, Any]:
    """The answer's JSON. Raises _WrongForm for anything but a chat completion with a message."""
    try:
        found = json.loads(content)
        message = found["choices"][0]["message"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise _WrongForm("the answer is no chat completion") from None
    if not isinstance(message, dict) or not isinstance(message.get("content"), str | None):
        raise _WrongForm("the answer has no message of text")
    return found


def _message(error: Any) -> str:
    """What the server says about an error, or at least its type."""
    found = error.body
    for name in ("error", "message"):
        found = found.get(name, found) if isinstance(found, dict) else found
    return " ".join(str(found or error.message).split())[:200]


def _most_tokens(body: dict[str, Any]) -> int:
    """Of the prompt, at most: no tokenizer in use makes more tokens than bytes."""
    return sum(len(str(one["content"]).encode(errors="replace")) + OVERHEAD for one in body["messages"])


def _reasons(failures: Iterable[Failure]) -> str:
    """The most frequent reasons, each with its number."""
    counts = Counter(failure.reason for failure in failures).most_common(3)
    return ", ".join(f"{reason} ({count}x)" if count > 1 else reason for reason, count in counts)
