"""A hosted language model as a method: asked in words, answers read back, with its price."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import NonNegativeInt

from malmoi.core.nouns import Examples, FitReport, Predictions, Work
from malmoi.engine.ask import known_labels
from malmoi.methods.base import Method, Parts
from malmoi.methods.llm.endpoint import Endpoint, EndpointOptions, Failure, RemoteReply
from malmoi.methods.llm.shots import How, Shots, read_shots, shots_files
from malmoi.tasks.kinds import EVERY_KIND


class Remote(Method):
    """Any OpenAI-compatible chat endpoint, zero-shot or with shots.

    Learns nothing but the labels and which examples to show. What is asked leaves this machine. The folder
    holds no key.
    """

    name, family = "remote", "remote"
    kinds = EVERY_KIND
    portion = 64
    free = EndpointOptions.free

    class Options(EndpointOptions):
        """shots: how many solved examples are shown. choose: which ones, see `malmoi.methods.llm.shots`."""

        shots: NonNegativeInt = 0
        choose: How = "random"

    def fit(self, train: Examples, valid: Examples, work: Work = Work()) -> FitReport:
        """See `Method.fit`; without examples the task must know its labels. No request is made."""
        del valid, work
        self.task = self.task.with_labels(known_labels(self.task, train))
        self._begin(train)
        return FitReport()

    def _begin(self, candidates: Examples) -> None:
        options = self.options
        self._shots = Shots(candidates, options.shots, options.choose, options.seed, self.task.key)
        self._endpoint = Endpoint(options, options.max_new_tokens or self.task.kind.reply_tokens)

    def predict(self, inputs: Sequence[Any]) -> Predictions:
        """See `Method.predict`; facts count requests, tokens, money and failures (which are None).

        Raises UserError as `malmoi.methods.llm.endpoint:Endpoint.ask`.
        """
        replies = self._endpoint.ask([self.task.prompt(value, self._shots.pick(value)) for value in inputs])
        found = [self._read(reply, value) for reply, value in zip(replies, inputs, strict=True)]
        facts = self._endpoint.report()
        return Predictions(found, facts.get("note", ""), facts)

    def _read(self, reply: RemoteReply | Failure, value: Any) -> Any | None:
        if isinstance(reply, Failure) or not reply.text.strip():
            return None
        found = self.task.parse(reply.text, value)
        return None if found is None else self.task.kind.usable(found, ())

    def costs(self) -> dict[str, float]:
        """See `Method.costs`."""
        return self._endpoint.costs()

    def parts(self) -> Parts:
        """See `Method.parts`."""
        return Parts({"labels": list(self.task.labels)}, files=shots_files(self.task, self._shots))

    def restore(self, parts: Parts) -> None:
        """See `Method.restore`."""
        self.task = self.task.with_labels(parts.config["labels"])
        self._begin(read_shots(self.task, parts.files))
