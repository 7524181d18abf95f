"""Requests that nobody should send: valid ones with parts replaced, and bytes that are no JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from random import Random
from typing import Any

DEEP = 100_000
DIGITS = 5_000  # more than Python turns into an int
TEXTS = [
    "", " ", "\x00", "a\x00b", "\ud800", "\udfff\ud800", "e" + "\u0301" * 500, "e\u0301" * 500,
    "\u0301" * 3000, "\u1100\u1161\u11a8" * 300, "\u202eevil\u202c", "אבג שלום", "👩\u200d👩\u200d👧",
    "\ufdd0", "\uffff", "\U0010ffff", "\ufeff", "<|user|>", "<|end|>", "\r\nX-Forged: 1", "\x1b[31m",
    "é" * 300, "a" * 5000, "\n" * 2000, "거위" * 500, "%s%n{0}{input}", "__class__", "nan", "\u2028",
    "ß" * 200,
]  # fmt: skip
INTS = [
    0, 1, -1, 2, 3, 127, 255, 2**31 - 1, 2**31, -(2**31), 2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64,
    -(2**63), -(2**63) - 1, 10**30,
]  # fmt: skip
LITERALS = [
    "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e-999", "-0.0", "1e-300", "1e300", "0.5", "1.0",
    "9" * DIGITS, "9" * 4300, "9" * 400, "-" + "9" * DIGITS, "0." + "1" * DIGITS, "1E400", "01", "+1", "0x10",
    "nul", "[" * 300 + "]" * 300,
]  # fmt: skip
FIELDS = [
    "model", "messages", "prompt", "stop", "n", "seed", "logit_bias", "response_format", "stream_options",
    "temperature", "max_tokens", "max_completion_tokens", "logprobs", "top_logprobs", "echo", "stream",
    "input", "inputs", "tokens", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty",
    "frequency_penalty", "user", "add_special_tokens", "tools", "suffix", "role", "content", "name", "type",
    "text", "question", "context", "json_schema", "schema", "include_usage", "metadata",
]  # fmt: skip
SCHEMAS: list[dict[str, Any]] = [
    {"type": "object"}, {"type": "string", "maxLength": 3}, {"enum": ["a", "b"]}, {"$ref": "#"}, {"type": 3},
    {"type": "string", "pattern": "(a+)+$"}, {"type": "string", "pattern": "["}, {"const": "e\u0301" * 50},
    {"type": "integer", "minimum": 10**30}, {"type": "array", "items": {"$ref": "#"}}, {"not": {}}, {},
    {"allOf": [{"type": "string"}, {"type": "integer"}]}, {"type": "string", "minLength": 10**9},
    {"type": "array", "minItems": 2**40}, {"type": "object", "properties": {"": {"type": "null"}}},
    {"anyOf": []},
]  # fmt: skip


HUGE = [
    b"[" * DEEP, b"[" * DEEP + b"]" * DEEP, b'{"a":' * DEEP, b'{"x":' * DEEP + b"1" + b"}" * DEEP,
    *(f'{{"{name}":{"9" * DIGITS}}}'.encode() for name in ("n", "unknown", "input", "prompt")),
    *(f'{{"{name}":{"[" * DEEP}{"]" * DEEP}}}'.encode() for name in ("messages", "unknown", "input")),
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Literal:
    """A piece of JSON, or of what is none, as it is."""

    text: str


@dataclass(frozen=True, slots=True)
class Pairs:
    """An object whose names may come twice."""

    pairs: tuple[tuple[str, Any], ...]


class Bodies:
    """Draws requests, the same ones for the same seed. models: names; tasks: by which paths are made."""

    def __init__(self, seed: int, models: list[str], tasks: list[str]) -> None:
        self._random, self._models, self._tasks = Random(seed), models, tasks

    def draw(self) -> tuple[str, bytes]:
        """A path and a body."""
        path, body = self._valid()
        for _ in range(self._random.choice((0, 1, 1, 1, 2, 3))):
            self._change(body)
        return path, self._bytes(body)

    def _valid(self) -> tuple[str, dict[str, Any]]:
        pick = self._random.choice
        model, text = pick(self._models), pick(("안녕", "the goose", "그리고 he said so. 거위가 왔다."))
        messages = [{"role": "user", "content": text}]
        match pick(("chat", "chat", "completion", "completion", "task", "task", "tokenize", "detokenize")):
            case "chat":
                return "/v1/chat/completions", self._sampled({"model": model, "messages": messages})
            case "completion":
                prompt = pick((text, [text, text], [3, 4, 5], [[8, 9], [10]]))
                return "/v1/completions", self._sampled({"model": model, "prompt": prompt})
            case "task":
                task = pick((*self._tasks, "unknown", ""))
                value = pick(
                    (text, {"question": "Who?", "context": text}, {"text": text}, {"messages": messages})
                )
                field = pick(("input", "inputs"))
                return f"/v1/tasks/{task}", {field: [value] * 3 if field == "inputs" else value}
            case "tokenize":
                return "/tokenize", {"model": model, **pick(({"prompt": text}, {"messages": messages}))}
            case _:
                return "/detokenize", {"model": model, "tokens": [8, 9, 300]}

    def _sampled(self, body: dict[str, Any]) -> dict[str, Any]:
        """With a few fields that are right."""
        pick = self._random.choice
        schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": pick(SCHEMAS)}}
        known = {
            "temperature": pick((0, 0.7, 2)), "top_k": 5, "top_p": 0.5, "min_p": 0.1, "n": pick((1, 2)),
            "seed": 7, "stop": pick(("a", ["a", "거"])), "logit_bias": {"9": 5}, "repetition_penalty": 1.2,
            "frequency_penalty": 1, "stream": pick((True, False)), "stream_options": {"include_usage": True},
            "response_format": pick((schema, {"type": "json_object"})), "echo": True,
            "logprobs": pick((True, 3)), "max_tokens": pick((1, 4)),
        }  # fmt: skip
        return body | {name: known[name] for name in self._random.sample(list(known), k=3)}

    def _change(self, body: dict[str, Any]) -> None:
        """Put a strange value somewhere, or a field that nobody knows."""
        place: Any = body
        while self._random.random() < 0.5:
            inside = [one for one in _parts(place) if isinstance(one, dict | list) and one]
            if not inside:
                break
            place = self._random.choice(inside)
        if isinstance(place, list):
            at = self._random.randrange(len(place))
            place[at] = self._other(place[at])
        else:
            own = list(place) or FIELDS
            names = self._random.choice((own, own, FIELDS, TEXTS[:8], [self._text()]))
            name = self._random.choice(names)
            place[name] = self._other(place.get(name))

    def _other(self, value: Any) -> Any:
        """A strange value, half of the time of the same type."""
        match value if self._random.random() < 0.5 else None:
            case str():
                return self._text() + self._random.choice(("", "", value))
            case int() | float():
                return self._random.choice([*INTS, *map(Literal, LITERALS)])
            case _:
                return self._value()

    def _value(self, depth: int = 0) -> Any:
        random = self._random
        inside = [self._value(depth + 1) for _ in range(random.randrange(4))] if depth < 3 else []
        names = random.choices((*FIELDS, *TEXTS), k=len(inside))
        values = [
            *(self._text() for _ in range(3)), random.choice(INTS), random.randint(-(2**80), 2**80),
            Literal(random.choice(LITERALS)), inside, dict(zip(names, inside, strict=True)),
            Pairs(tuple((names[0], one) for one in inside)), random.choice((None, True, False, "", [], {})),
        ]  # fmt: skip
        return random.choice(values)

    def _text(self) -> str:
        random = self._random
        if random.random() < 0.7:
            return random.choice(TEXTS)
        blocks = (0x20, 0x300, 0x590, 0xAC00, 0x1F300, 0xD7F0, 0xE000, 0x1100)
        start = random.choice(blocks)
        return "".join(chr(start + random.randrange(0x70)) for _ in range(random.choice((1, 3, 60, 600))))

    def _bytes(self, body: dict[str, Any]) -> bytes:
        random = self._random
        text = written(body, ascii_only=random.random() < 0.5)
        content = text.encode("utf-8", "surrogatepass")
        if random.random() < 0.9:
            return content
        at = random.randrange(len(content) + 1)
        return random.choice(
            [
                content[:at], content[:at] + b"\xff" + content[at:], b"\xef\xbb\xbf" + content, content * 2,
                text.encode("utf-16", "surrogatepass"), content.replace(b'"', b"'"), random.randbytes(60),
                b"", b"null", b"[]", *HUGE,
            ]
        )  # fmt: skip


def written(value: Any, *, ascii_only: bool = True) -> str:
    """JSON, with literals as they are and names as often as they are given."""
    match value:
        case Literal():
            return value.text
        case dict():
            return written(Pairs(tuple(value.items())), ascii_only=ascii_only)
        case Pairs():
            inside = (
                f"{json.dumps(name, ensure_ascii=ascii_only)}:{written(one, ascii_only=ascii_only)}"
                for name, one in value.pairs
            )
            return f"{{{','.join(inside)}}}"
        case list():
            return f"[{','.join(written(one, ascii_only=ascii_only) for one in value)}]"
        case _:
            return json.dumps(value, ensure_ascii=ascii_only)


def _parts(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else list(value)
