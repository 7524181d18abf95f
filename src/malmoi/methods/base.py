"""What a method is: something that learns a task from examples, predicts, and is saved as a folder.

A method's folder has the shape of every model folder: `config.json` with a `model_type` of our own,
`model.safetensors`, a card, and whatever files the method adds. No pickle.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

from numpy.typing import NDArray

from malmoi.core.config import StrictModel
from malmoi.core.nouns import Done, Example, Examples, FitReport, Json, Predictions, Work
from malmoi.inside.sources import ReadText, Source
from malmoi.metrics.confidence import LEAST, TINY, Calibration
from malmoi.tasks.base import Task
from malmoi.tasks.kinds import Kind, Relation
from malmoi.text.tokenizer import TOKENIZER_FILE, Tokenizer
from malmoi.util.units import counted

if TYPE_CHECKING:
    from torch import nn

Family = Literal["traditional", "recurrent", "transformer", "prompted", "fine-tuned", "remote", "cascade"]
FAMILIES: tuple[Family, ...] = get_args(Family)


@dataclass(slots=True)
class Parts:
    """A fitted method as it lies on disk: JSON, tensors, files of their own (name -> content), and methods
    that it is made of, in folders of their own (name -> method)."""

    config: Json = field(default_factory=dict)
    tensors: dict[str, NDArray[Any]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    methods: dict[str, Method] = field(default_factory=dict)

    def with_tokenizer(self, tokenizer: Tokenizer) -> Self:
        """These parts and the tokenizer's file."""
        self.files[TOKENIZER_FILE] = tokenizer.to_json().encode()
        self.config |= {"tokenizer": tokenizer.config} if tokenizer.config else {}
        return self

    def tokenizer(self) -> Tokenizer:
        """That of `with_tokenizer`. Raises UserError, KeyError."""
        return Tokenizer.from_json(self.files[TOKENIZER_FILE].decode(), self.config.get("tokenizer"))


def cut_words(count: int, texts: Sequence[Any], most: str) -> str:
    """What `Method.cut_note` says where `count` of some texts were cut."""
    return f"{count:,} of {counted(len(texts), 'text')} cut at {most}" if count else ""


def unsure(probabilities: Iterable[float]) -> float:
    """1 less the margin between the two largest."""
    first, second, *_ = sorted((*probabilities, 0.0, 0.0), reverse=True)
    return 1.0 - (first - second)


def unsure_of_set(probabilities: Iterable[float]) -> float:
    """The same for the label of a set that is nearest to one half."""
    return max((1.0 - abs(2 * one - 1) for one in probabilities), default=0.0)


class Method(ABC):
    """One way to do a task. `options` are checked against `Options`; after `fit` or `restore` it predicts."""

    name: ClassVar[str]
    family: ClassVar[Family]
    kinds: ClassVar[frozenset[Kind]]
    only: ClassVar[frozenset[Relation]] = frozenset()  # empty: every task of these kinds
    needs_model: ClassVar[bool] = False  # whether its option `model` must name a language model's folder
    Options: ClassVar[type[StrictModel]] = StrictModel
    libraries: ClassVar[tuple[str, ...]] = ()  # that fitting alone needs, and that are slow to load
    portion: ClassVar[int | None] = None  # predictions between two counts, where they are slow; None: all
    free: ClassVar[frozenset[str]] = frozenset()  # options that change no prediction, so they may change
    calibration: Calibration | None = None  # what `calibrate` found

    def __init__(self, task: Task[Any, Any], options: Mapping[str, Any] | None = None) -> None:
        """`options` must be valid (see `malmoi.methods.registry:make_method`)."""
        self.task = task
        self.options: Any = self.options_for(task).model_validate(dict(options or {}))

    @classmethod
    def named(cls, name: str) -> type[Method]:
        """The class for a name in the table of methods, where one class stands for several."""
        del name
        return cls

    @classmethod
    def options_for(cls, task: Task[Any, Any]) -> type[StrictModel]:
        """The type of the options for this task."""
        del task
        return cls.Options

    @classmethod
    def suits(cls, task: Task[Any, Any]) -> bool:
        """Whether this method can do the task."""
        return task.kind in cls.kinds and (not cls.only or task.relation in cls.only)

    def check(self, train: Sequence[Example[Any, Any]]) -> None:
        """Before any work: raises UserError for options that do not suit these examples."""
        del train

    def load_libraries(self) -> None:
        """Load what `fit` needs, so that its time is not counted as that of the fit."""
        for name in self.libraries:
            import_module(name)

    @abstractmethod
    def fit(self, train: Examples, valid: Examples, work: Work = Work()) -> FitReport:
        """Learn from `train`; choose (when to stop, constants) by `valid`. A function of data and options.

        Once it has chosen it learns from `valid`, too, unless it stops by it; `learned_from` among the facts
        says how many examples of each. Within the budget of `work`: what there is no time for is left out,
        and the note says so. A network may exceed it by a fifth, and whatever does the least it can do.
        Raises UserError where the data cannot be learned from (one label only, no examples).
        """

    @abstractmethod
    def predict(self, inputs: Sequence[Any]) -> Predictions:
        """One prediction for each input, whatever stands beside it."""

    def cut_note(self, inputs: Sequence[Any], targets: Sequence[Any] = ()) -> str:
        """How many of the inputs are read only in part, and how much of them, as a line for people; or ''.

        targets: what it learned to answer to them, where they are what it learned from.
        """
        del inputs, targets
        return ""

    def predict_counting(self, inputs: Sequence[Any], done: Done) -> Predictions:
        """`predict`, and `done` hears how many there are so far, where that takes long."""
        found, values, at_once = Predictions([]), list[Any](), self.portion or max(1, len(inputs))
        for start in range(0, len(inputs), at_once):
            found = self.predict(inputs[start : start + at_once])
            values += found.values
            done(len(values))
        return replace(found, values=values)

    def to(self, device: str) -> Self:
        """Move to a device ("cpu", "cuda:1") what can use one."""
        del device
        return self

    def probabilities(self, inputs: Sequence[Any]) -> list[dict[str, float]] | None:
        """Where the task is to choose labels: each one's probability. Where one is chosen they add up to one,
        and are calibrated; of a set of labels each is by itself. None: the method has none."""
        found = self.raw_probabilities(inputs)
        if found is None or not self.calibration or not self.task.kind.is_choice:
            return found
        return [*map(self.calibration.shares, found)]

    def raw_probabilities(self, inputs: Sequence[Any]) -> list[dict[str, float]] | None:
        """The same, as the model has them."""
        del inputs
        return None

    def predict_with_confidence(self, inputs: Sequence[Any]) -> Predictions:
        """`predict`, with the answers' `confidences` and, of labels, the probabilities."""
        if (shares := self.probabilities(inputs)) is not None and self.task.kind.is_choice:
            best = [max(one.items(), key=lambda item: item[1]) for one in shares]
            values, confidences = [label for label, _ in best], [share for _, share in best]
            return Predictions([*values], confidences=confidences, probabilities=shares)
        found = self.predict(inputs)
        sure = self.confidences(inputs, found.values)
        return replace(found, confidences=sure, probabilities=shares)

    def confidences(self, inputs: Sequence[Any], answers: Sequence[Any]) -> list[float] | None:
        """How probable it is that each of its own answers is right, as a whole.

        Calibrated, where something was held out for that. If not, those of labels are the model's own, and
        other answers have none. None: it knows none.
        """
        if self.task.kind.is_choice:
            shares = self.probabilities(inputs)
            return None if shares is None else [max(one.values()) for one in shares]
        calibration = self.calibration
        scores = None if calibration is None else self.sureness(inputs, answers)
        if calibration is None or scores is None:
            return None
        pairs = zip(answers, scores, strict=True)
        return [0.0 if answer is None else calibration.probability(score) for answer, score in pairs]

    def sureness(self, inputs: Sequence[Any], answers: Sequence[Any]) -> list[float] | None:
        """Unless a label is chosen: the logarithm of the probability of each of its own answers, as the model
        has it; of no answer any number. None: the method has no such thing."""
        if not self.task.kind.is_set or (shares := self.raw_probabilities(inputs)) is None:
            return None
        pairs = zip(shares, answers, strict=True)
        return [
            sum(math.log(max(share if label in answer else 1 - share, TINY)) for label, share in one.items())
            for one, answer in pairs
        ]

    def calibrate(self, held_out: Examples, shares: list[dict[str, float]] | None = None) -> None:
        """Learn from examples that it has not learned from how often it is right when it is how sure.

        `fit` calls it once it has chosen, before it learns from the held-out examples as well. shares: their
        raw probabilities, where they are known and one label is chosen.
        """
        self.calibration = None
        if len(held_out) < LEAST:
            return
        inputs = [example.input for example in held_out]
        if self.task.kind.is_choice and (shares := shares or self.raw_probabilities(inputs)) is not None:
            self.calibration = Calibration.of_labels(shares, [example.target for example in held_out])
            return
        answers = self.predict(inputs).values
        if (scores := self.sureness(inputs, answers)) is None:
            return
        triples = zip(answers, scores, held_out, strict=True)
        given = [(score, self.task.is_right(it, one)) for it, score, one in triples if it is not None]
        if len(given) >= LEAST:
            self.calibration = Calibration.of_scores(*zip(*given, strict=True))

    def unsureness(self, inputs: Sequence[Any]) -> list[float] | None:
        """Of each input 1 less the margin between its two most probable labels, 0 (sure) to 1 (Scheffer et
        al. 2001, Active hidden Markov models for information extraction); of a set of labels, of the label
        that is nearest to one half. None: it has no probabilities."""
        found, measure = self.probabilities(inputs), unsure_of_set if self.task.kind.is_set else unsure
        return None if found is None else [measure(one.values()) for one in found]

    def log_likelihood(self, inputs: Sequence[Any], targets: Sequence[str]) -> list[float] | None:
        """For targets that are text: each one's log-probability (nats), and that it ends there.

        A `continuation` goes on, so its end is not counted. None: the method has none.
        """
        del inputs, targets
        return None

    def insides(self, value: Any) -> tuple[Source, ...]:
        """What can be looked into once it has read an input: the text of it first."""
        return (ReadText.of(value),)

    @property
    def network(self) -> nn.Module | None:
        """What predicts, where that is one network."""
        return None

    def costs(self) -> dict[str, float]:
        """What is better known of the predictions so far than a stopwatch tells, by the names of a report.

        latency_p50_s, latency_p95_s, predictions_per_s; disk_bytes of what lies outside of its folder, too;
        price_per_1000, in money, where others are paid.
        """
        return {}

    @abstractmethod
    def parts(self) -> Parts:
        """Everything that `restore` needs, less task and options."""

    @abstractmethod
    def restore(self, parts: Parts) -> None:
        """The inverse of `parts`: predictions are the same afterwards. Raises UserError, KeyError."""
