"""What a running server tells Prometheus at /metrics. Each server has its own registry."""

from __future__ import annotations

import time
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE

from malmoi.engine.engine import Engine
from malmoi.engine.lookup import Guesses
from malmoi.engine.request import TokenEvent

__all__ = ["CONTENT_TYPE", "Meter", "ServeMetrics"]

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
SPEEDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
SHARES = (0.0625, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)


class ServeMetrics:
    """Counters of requests and tokens, and gauges that the worker's thread sets after each step."""

    def __init__(self, engines: Mapping[Engine, str]) -> None:
        """engines: with the names of their models."""
        self._names = dict(engines)
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "Requests answered.", "endpoint", "status")
        self.errors = self._counter("errors", "Requests that failed, by OpenAI's error type.", "kind")
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts.", "model")
        self.cached_tokens = self._counter(
            "cached_prompt_tokens", "Tokens of prompts that the prefix cache had.", "model"
        )
        self.tokens = self._counter("generated_tokens", "Tokens generated.", "model")
        self.guessed = self._counter("guessed_tokens", "Tokens that prompt lookup guessed.", "model")
        self.right = self._counter("guessed_right_tokens", "Those of them that were right.", "model")
        self.answers = self._counter("cascade_answers", "Answers of cascades, by the giver.", "model", "by")
        self._guesses = dict.fromkeys(engines, Guesses())  # that the counters have
        self.seconds = self._histogram("request_seconds", "Time of a whole request.", SECONDS, "endpoint")
        self.first_token = self._histogram(
            "time_to_first_token_seconds", "From a request to its first token.", SECONDS, "model"
        )
        self.speed = self._histogram(
            "tokens_per_second", "Tokens per second of one sample after its first token.", SPEEDS, "model"
        )
        self.occupancy = self._histogram(
            "batch_occupancy", "Share of an engine's rows that took a token in a step.", SHARES, "model"
        )
        self.rows = self._gauge("running_rows", "Samples that have not ended.", "model")
        self.cache = self._gauge("cache_bytes", "Memory of states (KV caches) and kept prefixes.", "model")
        self.waiting = self._gauge("waiting_requests", "Requests that wait for rows.", "model")

    def observe(self, engine: Engine, rows: int) -> None:
        """After a step: `rows` samples took a token. Called on the worker's thread."""
        name = self._names.get(engine)
        if name is not None:
            self.rows.labels(name).set(engine.num_running)
            self.cache.labels(name).set(engine.state_bytes)
            before, self._guesses[engine] = self._guesses[engine], engine.guesses
            self.guessed.labels(name).inc(engine.guesses.checked - before.checked)
            self.right.labels(name).inc(engine.guesses.right - before.right)
            if rows:
                self.occupancy.labels(name).observe(rows / engine.max_rows)

    def exposition(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, help: str, *labels: str) -> Counter:
        return Counter(f"malmoi_{name}", help, labels, registry=self.registry)

    def _gauge(self, name: str, help: str, *labels: str) -> Gauge:
        return Gauge(f"malmoi_{name}", help, labels, registry=self.registry)

    def _histogram(self, name: str, help: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"malmoi_{name}", help, labels, buckets=buckets, registry=self.registry)


class Meter:
    """Times and counts of one request's tokens; `usage` is OpenAI's object."""

    def __init__(self, metrics: ServeMetrics, model: str) -> None:
        self._metrics, self._model = metrics, model
        self._start_s = time.perf_counter()
        self._first_s: float | None = None
        self._samples: set[tuple[int, int]] = set()
        self._prompts: set[int] = set()
        self.prompt_tokens = self.tokens = self.cached_tokens = 0

    def read(self, prompt_tokens: int) -> None:
        """Count the tokens of the request's prompts."""
        self.prompt_tokens += prompt_tokens
        self._metrics.prompt_tokens.labels(self._model).inc(prompt_tokens)

    def take(self, prompt: int, event: TokenEvent) -> None:
        """An event of the prompt of this number."""
        if prompt not in self._prompts:
            self._prompts.add(prompt)
            self.cached_tokens += event.cached
        if event.id is None:  # an end without a token
            return
        if self._first_s is None:
            self._first_s = time.perf_counter()
            self._metrics.first_token.labels(self._model).observe(self._first_s - self._start_s)
        self._samples.add((prompt, event.index))
        self.tokens += 1

    def end(self) -> None:
        """No more tokens come."""
        self._metrics.tokens.labels(self._model).inc(self.tokens)
        self._metrics.cached_tokens.labels(self._model).inc(self.cached_tokens)
        later = self.tokens - len(self._samples)
        if self._first_s is not None and later > 0:
            seconds = max(time.perf_counter() - self._first_s, 1e-9)
            self._metrics.speed.labels(self._model).observe(later / seconds / len(self._samples))

    @property
    def usage(self) -> dict[str, object]:
        """Counts so far."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.tokens,
            "total_tokens": self.prompt_tokens + self.tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }
