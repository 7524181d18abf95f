"""Chat and translation from memory: what followed the most similar turn, or stood beside the nearest source.

Shape letters: N inputs, M remembered inputs, F features.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from itertools import zip_longest
from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt
from scipy import sparse

from malmoi.core.config import StrictModel
from malmoi.core.errors import UserError
from malmoi.core.nouns import Examples, FitReport, Json, Message, Predictions, Work
from malmoi.methods.base import Method, Parts
from malmoi.methods.traditional.choice import TimeKeeper, quality
from malmoi.methods.traditional.vectors import LIBRARIES, NgramView, Vectors
from malmoi.tasks.base import Task
from malmoi.tasks.kinds import TEXT

CHUNK_INPUTS = 32
CHOICE_INPUTS = 300
MAX_FEATURES = 200_000  # of a view
VIEWS = ((NgramView("word", 1, 2), NgramView("char_wb", 1, 4)), (NgramView("char_wb", 1, 4),))
DISCOUNTS = (0.3, 0.0, 0.6)
NEIGHBOURS = (1, 64)
TENSORS = ("indptr", "indices", "data")

Heard = Sequence[str]  # the texts of one input, the latest first


class _Setting(NamedTuple):
    views: tuple[NgramView, ...]
    discount: float
    neighbours: int


class RetrievalOptions(StrictModel):
    """max_inputs: how many inputs of training are remembered."""

    max_inputs: PositiveInt = 50_000


class ChatRetrievalOptions(RetrievalOptions):
    """turns: how many messages back. neighbours: see `Retrieval` (None: try 1 and 64)."""

    turns: Annotated[int, Field(ge=1, le=8)] = 3
    neighbours: PositiveInt | None = None


class Retrieval(Method):
    """The target of the remembered input with the highest TF-IDF cosine: a reply, or a translation memory.

    A conversation's row is that of its last message plus `discount` times that of the one before it, and so
    on for `turns` messages. Of several neighbours that reply counts which is most like all of theirs (the
    consensus of Devlin et al. 2015; translations have too few n-grams of the sources for it). Views, discount
    and the number of neighbours are chosen on valid, which is remembered only after it has judged.
    """

    name, family, kinds = "retrieval", "traditional", frozenset({TEXT})
    only = frozenset({"reply", "parallel"})
    libraries = LIBRARIES

    _inputs_FM: Any

    @classmethod
    def options_for(cls, task: Task[Any, Any]) -> type[StrictModel]:
        """See `Method.options_for`."""
        return ChatRetrievalOptions if task.relation == "reply" else RetrievalOptions

    def fit(self, train: Examples, valid: Examples, work: Work = Work()) -> FitReport:
        """See `Method.fit`. Raises UserError where there is nothing to remember."""
        if not train:
            raise UserError(f"there is no {self.task.name} to learn from; give at least one example")
        keeper, some = TimeKeeper.of(work), valid[:CHOICE_INPUTS]
        discounts = (
            DISCOUNTS if any(len(texts) > 1 for texts in self._heard(inputs_of(train))) else DISCOUNTS[:1]
        )
        fields = {"views": VIEWS, "discount": discounts, "neighbours": self._numbers_of_neighbours()}
        setting = _Setting(**{name: values[0] for name, values in fields.items()})
        if some:
            remember = self._memory(train)

            def value(setting: _Setting) -> float:
                remember(setting)
                return quality(self.task, self.predict(inputs_of(some)).values, some)

            setting = keeper.best(setting, fields, value)
        self._memory([*train, *valid])(setting)
        facts = {"remembered": len(self._targets), "setting": setting._asdict()}
        return FitReport(facts | keeper.facts(train, valid))

    def _memory(self, examples: Examples) -> Callable[[_Setting], None]:
        """What remembers the examples, as a setting says."""
        kept = examples[: self.options.max_inputs]
        heard = self._heard(inputs_of(kept))

        @cache
        def known(views: tuple[NgramView, ...]) -> tuple[Vectors, list[Any]]:
            vectors = Vectors(views, MAX_FEATURES).fit([latest for latest, *_ in heard])
            return vectors, _by_age(vectors, heard)

        def remember(setting: _Setting) -> None:
            self._targets = [example.target for example in kept]
            self._vectors, by_age = known(setting.views)
            self._discount, self._neighbours = setting.discount, setting.neighbours
            self._inputs_FM = sparse.csr_array(self._together(by_age).T)  # by feature: few are in a text

        return remember

    def _numbers_of_neighbours(self) -> tuple[int, ...]:
        if not isinstance(self.options, ChatRetrievalOptions):
            return NEIGHBOURS[:1]
        return (self.options.neighbours,) if self.options.neighbours else NEIGHBOURS

    def _heard(self, inputs: Sequence[str | Sequence[Message]]) -> list[Heard]:
        return [
            [it] if isinstance(it, str) else [message.content for message in it[::-1]][: self.options.turns]
            for it in inputs
        ]

    def _together(self, by_age: Sequence[Any]) -> Any:
        """rows_NF of length one (an input without known words: zero)."""
        rows_NF: Any = sum(self._discount**age * rows_NF for age, rows_NF in enumerate(by_age))
        return _of_length_one(rows_NF)

    def predict(self, inputs: Sequence[str | Sequence[Message]]) -> Predictions:
        """See `Method.predict`; of equally near inputs the first one's target, without a likeness none."""
        targets: list[Any | None] = []
        for start in range(0, len(inputs), CHUNK_INPUTS):
            heard = self._heard(inputs[start : start + CHUNK_INPUTS])
            rows_NF = self._together(_by_age(self._vectors, heard))
            targets += [self._answer(cosines_M) for cosines_M in (rows_NF @ self._inputs_FM).toarray()]
        return Predictions(targets)

    def _answer(self, cosines_M: NDArray[np.float32]) -> str | None:
        first = int(cosines_M.argmax())
        if cosines_M[first] <= 0:
            return None
        if self._neighbours == 1 or len(cosines_M) == 1:
            return self._targets[first]
        count = min(self._neighbours, len(cosines_M))
        nearest = sorted(np.argpartition(-cosines_M, count - 1)[:count], key=lambda m: (-cosines_M[m], m))
        targets = [self._targets[m] for m in nearest]
        rows_KF = _of_length_one(self._vectors.rows(targets))
        return targets[int((rows_KF @ (rows_KF.T @ cosines_M[nearest])).argmax())]

    def parts(self) -> Parts:
        """See `Method.parts`."""
        lines = "".join(json.dumps(target, ensure_ascii=False) + "\n" for target in self._targets)
        config: Json = {"discount": self._discount, "neighbours": self._neighbours}
        tensors = {name: getattr(self._inputs_FM, name) for name in TENSORS}
        parts = Parts(config, tensors, {"targets.jsonl": lines.encode()})
        self._vectors.save(parts)
        return parts

    def restore(self, parts: Parts) -> None:
        """See `Method.restore`."""
        self._vectors = Vectors.restore(parts)
        self._discount, self._neighbours = parts.config["discount"], parts.config["neighbours"]
        self._targets = [json.loads(line) for line in parts.files["targets.jsonl"].splitlines()]
        indptr, indices, data = (parts.tensors[name] for name in TENSORS)
        shape = (len(indptr) - 1, len(self._targets))
        self._inputs_FM = sparse.csr_array((data, indices, indptr), shape=shape)


def inputs_of(examples: Examples) -> list[Any]:
    """What goes in."""
    return [example.input for example in examples]


def _by_age(vectors: Vectors, inputs: Sequence[Heard]) -> list[Any]:
    """rows_NF of the latest texts, of those before them, and so on."""
    return [vectors.rows(texts) for texts in zip_longest(*inputs, fillvalue="")]


def _of_length_one(rows_NF: Any) -> Any:
    lengths_N = np.sqrt(rows_NF.multiply(rows_NF).sum(axis=1))
    return sparse.diags_array(1 / np.maximum(np.asarray(lengths_N).ravel(), 1e-9)) @ rows_NF
