"""What clients send: OpenAI's requests, checked. What changes the output and is not supported is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from malmoi.core.errors import UserError
from malmoi.core.nouns import Message
from malmoi.engine.constraints import Grammar, json_object, json_schema
from malmoi.engine.request import BIAS, MOST_SEEDS, RANGES, TOP_P, Range, Sampling
from malmoi.engine.session import as_messages
from malmoi.serve.settings import ApiError

MOST_ALTERNATIVES = 20  # logprobs of other tokens
MOST_STOPS = 16
MOST_STOP_CHARS = 1000  # of one of them
MOST_BIASES = 1024  # tokens in logit_bias, each of which costs every step
MOST_SCHEMA_CHARS = 50_000  # of a JSON schema, which takes long to compile
MOST_MESSAGES = 10_000  # and parts of one
MOST_TOKENS = 1_000_000  # to make a text of
MOST_SHOWN = 100  # characters of what a client has sent, in an error
# What would change the reply, with the values beside null and empty that do not.
REFUSED: Mapping[str, tuple[Any, ...]] = {
    "tools": (), "tool_choice": ("none", "auto"), "functions": (), "function_call": ("none", "auto"),
    "modalities": (["text"],), "audio": (), "web_search_options": (), "reasoning_effort": ("none",),
    "verbosity": ("medium",), "suffix": (), "best_of": (1,), "prompt_logprobs": (), "echo": (False,),
    "min_tokens": (0,), "max_new_tokens": (), "ignore_eos": (False,), "stop_token_ids": (), "bad_words": (),
    "typical_p": (1,), "length_penalty": (1,), "use_beam_search": (False,), "num_beams": (1,),
    "guided_json": (), "guided_regex": (), "guided_choice": (), "guided_grammar": (),
    "structured_outputs": (), "logits_processors": (), "chat_template": (), "chat_template_kwargs": (),
    "continue_final_message": (False,), "add_generation_prompt": (True,), "skip_special_tokens": (True,),
    "truncate_prompt_tokens": (),
}  # fmt: skip
_BRANCH = re.compile(r"^(str|int|float|bool|dict|list|function|constrained|lax|json)(\[.*|-.*)?$|^\w+\[.*")


Number = Annotated[int, Field(ge=-(2**31), lt=2**31)]  # what any whole number but a seed fits into

FEW = Field(max_length=MOST_MESSAGES, fail_fast=True)  # listing a million errors would take long


def _within(allowed: Range, most: float | None = None) -> Any:
    """The engine's range of an option; most: OpenAI's limit, where it is lower, and for negative numbers."""
    least = allowed.least if most is None else max(allowed.least, -most)
    return Field(ge=least, le=allowed.most if most is None else most)


class Body(BaseModel):
    """A request's body: typed strictly, unknown fields kept apart."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    def ignored(self, prefix: str = "") -> list[str]:
        """Unknown fields that change nothing. Raises ApiError for one that would."""
        given = {name: value for name, value in (self.model_extra or {}).items() if value is not None}
        for name, value in given.items():
            if name in REFUSED and value not in ("", [], {}) and value not in REFUSED[name]:
                raise ApiError(400, f"{prefix}{name!r} is not supported; leave it out", param=prefix + name)
        return [prefix + name for name in given if name not in REFUSED]


class StreamOptions(Body):
    """include_usage: a last chunk with the counts of tokens."""

    include_usage: bool | None = None


class SchemaFormat(Body):
    """A JSON schema that the reply follows; `strict` or not, it is always enforced."""

    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """type: text, json_object or json_schema."""

    type: str
    json_schema: SchemaFormat | None = None

    def grammar(self) -> Grammar | None:
        """What the reply may be. Raises ApiError for an unknown type or a schema that cannot be used."""
        if self.json_schema and len(json.dumps(self.json_schema.schema_)) > MOST_SCHEMA_CHARS:
            message = f"the JSON schema is over {MOST_SCHEMA_CHARS:,} characters; give a smaller one"
            raise ApiError(400, message, param="response_format")
        try:
            match self.type:
                case "text":
                    return None
                case "json_object":
                    return json_object()
                case "json_schema" if self.json_schema and self.json_schema.schema_ is not None:
                    return json_schema(self.json_schema.schema_)
        except UserError as error:
            raise ApiError(400, str(error), param="response_format") from None
        known = 'text, json_object, or json_schema with {"json_schema": {"schema": ...}}'
        raise ApiError(
            400,
            f"response_format of type {self.type[:MOST_SHOWN]!r}; known: {known}",
            param="response_format",
        )


class GenerationBody(Body):
    """What both kinds of completion take."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[Number, Field(ge=0)] | None = None
    temperature: Annotated[float, _within(RANGES["temperature"], 2)] | None = None
    top_p: Annotated[float, _within(TOP_P)] | None = None
    top_k: Annotated[Number, Field(ge=-1)] | None = None
    min_p: Annotated[float, _within(RANGES["min_p"])] | None = None
    repetition_penalty: Annotated[float, _within(RANGES["repetition_penalty"])] | None = None
    presence_penalty: Annotated[float, _within(RANGES["presence_penalty"], 2)] | None = None
    frequency_penalty: Annotated[float, _within(RANGES["frequency_penalty"], 2)] | None = None
    logit_bias: dict[str, Annotated[float, _within(BIAS)]] | None = None
    seed: Annotated[int, Field(ge=-MOST_SEEDS // 2, lt=MOST_SEEDS)] | None = None
    stop: str | list[str | None] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    response_format: ResponseFormat | None = None
    user: str | None = None

    @field_validator("logit_bias", "stop", mode="before")
    @classmethod
    def _few(cls, value: Any, info: ValidationInfo) -> Any:
        most = MOST_BIASES if info.field_name == "logit_bias" else MOST_STOPS
        if isinstance(value, dict | list) and len(value) > most:
            raise ValueError(f"there are {len(value)}; give at most {most}")
        return value

    @field_validator("stop")
    @classmethod
    def _short_stops(cls, stop: str | list[str | None] | None) -> list[str]:
        stops = [stop] if isinstance(stop, str) else [one for one in stop or () if one is not None]
        if not all(0 < len(one) <= MOST_STOP_CHARS for one in stops):
            raise ValueError(f"give strings of 1 to {MOST_STOP_CHARS} characters, none of them empty")
        return stops

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends in a chunk with the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def alternatives(self) -> int | None:
        """How many other tokens' log-probabilities are wanted beside each; None: none, not its own either."""
        raise NotImplementedError

    def sampling(self, max_tokens: int, vocab_size: int) -> Sampling:
        """As the engine takes it. Raises ApiError for a value out of range."""
        bias = _bias(self.logit_bias or {}, vocab_size)
        optional = {"presence_penalty": self.presence_penalty, "frequency_penalty": self.frequency_penalty}
        values: dict[str, Any] = {name: value for name, value in optional.items() if value}
        if bias:
            values["logit_bias"] = tuple(bias.items())
        try:
            return Sampling(
                max_tokens=max_tokens,
                temperature=_given(self.temperature, 1.0),
                top_k=max(0, self.top_k or 0),
                top_p=max(_given(self.top_p, 1.0), 1e-9),  # 0 means the best token, as 1e-9 does
                min_p=self.min_p or 0.0,
                repetition_penalty=_given(self.repetition_penalty, 1.0),
                seed=None if self.seed is None else self.seed % MOST_SEEDS,
                stop=tuple(one for one in self.stop or () if one),
                n=self.n or 1,
                logprobs=self.alternatives() or 0,
                constraint=self.response_format.grammar() if self.response_format else None,
                **values,
            )
        except UserError as error:
            raise ApiError(400, str(error)) from None


class TextPart(Body):
    """A part of a message."""

    type: str
    text: str | None = None


class ChatMessage(Body):
    """One turn. content: a text, or parts of which all must be text."""

    role: str
    content: str | Annotated[list[TextPart], FEW] | None = None

    def text(self) -> str:
        """The whole content. Raises ApiError for a part that is no text."""
        if not isinstance(self.content, list):
            return self.content or ""
        for part in self.content:
            if part.type not in ("text", "input_text") or part.text is None:
                raise ApiError(
                    400,
                    f"a part of type {part.type[:MOST_SHOWN]!r} cannot be read; only text can",
                    param="messages",
                )
        return "\n".join(part.text or "" for part in self.content)


class ChatBody(GenerationBody):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1), FEW]
    max_tokens: Annotated[Number, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[Number, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_ALTERNATIVES)] | None = None

    def alternatives(self) -> int | None:
        """Raises ApiError for `top_logprobs` alone."""
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
        return self.top_logprobs or 0 if self.logprobs else None

    def turns(self) -> list[Message]:
        """The messages; an empty one of the system is none. Raises ApiError for an unknown role."""
        known = {"developer": "system"}
        rows = [{"role": known.get(it.role, it.role), "content": it.text()} for it in self.messages]
        for at, row in enumerate(rows):
            if row["role"] not in ("system", "user", "assistant"):
                message = f"role {row['role'][:50]!r}; known: system, developer, user, assistant"
                raise ApiError(400, message, param=f"messages.{at}.role")
        try:
            return as_messages(rows)
        except UserError as error:
            raise ApiError(400, str(error), param="messages") from None

    def ignored(self, prefix: str = "") -> list[str]:
        """Those of the messages, too."""
        nested = [name for at, it in enumerate(self.messages) for name in it.ignored(f"messages.{at}.")]
        return [*super().ignored(prefix), *nested]

    @property
    def wanted_tokens(self) -> int | None:
        """The limit of the reply; the newer name goes first."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


class CompletionBody(GenerationBody):
    """POST /v1/completions. prompt: a text, ids, or a list of either."""

    prompt: Any
    logprobs: Annotated[int, Field(ge=0, le=MOST_ALTERNATIVES)] | None = None
    echo: bool | None = None

    @field_validator("prompt")
    @classmethod
    def _prompts(cls, prompt: Any) -> list[str | list[int]]:
        if isinstance(prompt, str) or (isinstance(prompt, list) and prompt and _is_id(prompt[0])):
            prompt = [prompt]
        right = isinstance(prompt, list) and all(
            isinstance(one, str) or (isinstance(one, list) and one and all(map(_is_id, one)))
            for one in prompt
        )
        if not right or not prompt:
            raise ValueError("give a text, a list of texts, a list of token ids, or a list of such lists")
        return prompt

    @property
    def texts(self) -> list[str]:
        """The prompts that are texts."""
        return [prompt for prompt in self.prompt if isinstance(prompt, str)]

    def alternatives(self) -> int | None:
        """OpenAI's `logprobs` of this endpoint."""
        return self.logprobs


class TaskBody(Body):
    """POST /v1/tasks/{task}. One `input` or a list of `inputs`, each a text or an object.

    min_confidence: null instead of an answer that is less probably right.
    """

    model: str | None = None
    min_confidence: float | None = Field(None, ge=0, le=1)
    input: Any = None
    inputs: list[Any] | None = None

    def values(self, limit: int) -> list[Any]:
        """The inputs. Raises ApiError where there is none or there are too many."""
        if (self.input is None) == (self.inputs is None):
            raise ApiError(400, 'give either "input" or a list "inputs"', param="inputs")
        values = [self.input] if self.inputs is None else self.inputs
        if len(values) > limit or not values:
            raise ApiError(400, f"{len(values)} inputs; give from 1 to {limit} at once", param="inputs")
        return values


class TokenizeBody(Body):
    """POST /tokenize. A text, or messages as a chat's prompt holds them.

    add_special_tokens: with the token before a text, as /v1/completions reads it.
    """

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1), FEW] | None = None
    add_special_tokens: bool = True


class DetokenizeBody(Body):
    """POST /detokenize."""

    model: str | None = None
    tokens: Annotated[list[Annotated[Number, Field(ge=0)]], Field(max_length=MOST_TOKENS, fail_fast=True)]


B = TypeVar("B", bound=Body)


def parsed(kind: type[B], body: bytes) -> B:
    """A checked body. Raises ApiError (400) with the first thing that is wrong."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        parts = [str(part)[:MOST_SHOWN] for part in first["loc"]]
        place = ".".join(part for part in parts if not _BRANCH.match(part))
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "missing":
            message = "this field is missing"
        raise ApiError(400, f"{place}: {message}" if place else message, param=place or None) from None


def _given(value: float | None, default: float) -> float:
    return default if value is None else value


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _bias(bias: Mapping[str, float], vocab_size: int) -> dict[int, float]:
    for id in bias:
        if not id.isascii() or not id.isdecimal() or len(id) > 9 or int(id) >= vocab_size:
            message = f"logit_bias has the key {id[:50]!r}; a key is a token's id from 0 to {vocab_size - 1}"
            raise ApiError(400, message, param="logit_bias")
    return {int(id): value for id, value in bias.items()}
