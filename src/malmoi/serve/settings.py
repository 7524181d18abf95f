"""What a server allows, who may use it, and the error that a client gets."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from malmoi.core.errors import UserError

LEAST_KEY = 16  # characters


class Keys:
    """API keys, kept as hashes only. Empty: everybody may."""

    def __init__(self, keys: tuple[str, ...] = ()) -> None:
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def hold(self, key: str) -> bool:
        """Whether it is one of the keys; takes the same time wherever they differ."""
        digest = _digest(key)
        return sum(hmac.compare_digest(digest, known) for known in self._digests) > 0

    @classmethod
    def read(cls, path: Path) -> Keys:
        """From a file with one key a line; # begins a comment. Raises UserError where there is none."""
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"the keys in {path} cannot be read ({error}); give a text file") from None
        keys = tuple(line for line in lines if line and not line.startswith("#"))
        if not keys:
            raise UserError(f"{path} holds no key; make one with: openssl rand -hex 32 > {path}")
        for key in keys:
            if len(key) < LEAST_KEY or not key.isascii() or " " in key:
                raise UserError(
                    f"{path} holds a key that is no word of {LEAST_KEY} plain letters or more; "
                    f"make one with: openssl rand -hex 32 > {path}"
                )
        return cls(keys)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def is_loopback(host: str) -> bool:
    """Whether an address reaches this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """Addresses, keys and limits. Raises UserError for a public address without a key.

    max_tokens: of one reply. max_prompts: prompts, or inputs of a task, in one request. max_prompt_chars: of
    a prompt or a conversation. max_prompt_tokens: the same where a model's context has no limit of its own.
    max_input_chars: of one input of a task, and of those that are predicted in one go. request_timeout_s:
    from a request's first byte to its answer's last. body_timeout_s: until a request's body is there.
    stop_timeout_s: how long what runs may take once the server is stopping. runs: folders whose reports
    the page shows.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    keys: Keys = field(default_factory=Keys, repr=False)
    cors_origins: tuple[str, ...] = ()
    max_body_bytes: int = 4 << 20
    max_tokens: int = 4096
    max_prompts: int = 256
    max_prompt_chars: int = 1_000_000
    max_prompt_tokens: int = 16_384
    max_input_chars: int = 20_000
    request_timeout_s: float = 600.0
    body_timeout_s: float = 30.0
    stop_timeout_s: float = 60.0
    runs: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if not is_loopback(self.host) and not self.keys:
            raise UserError(
                f"{self.host} can be reached from other machines, so a key is needed: openssl rand -hex 32 > "
                "KEYS, and add `api_key_file` KEYS (or leave `host` out)"
            )
        for origin in self.cors_origins:
            if origin != "*" and not origin.startswith(("http://", "https://")):
                raise UserError(f"{origin!r} is no origin; one looks like https://example.org, or is *")


class ApiError(Exception):
    """What a client did wrong, or the server cannot do now, as OpenAI's error object.

    kind: OpenAI's `type`. param: the field. code: OpenAI's code, where programs look for one.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind = status, message, kind
        self.param, self.code, self.headers = param, code, dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """{"error": {"message", "type", "param", "code"}}."""
        found = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": found}
