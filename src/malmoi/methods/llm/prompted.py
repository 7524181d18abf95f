"""The prompted method: a language model as it is, asked with a few solved examples or none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt
from torch import nn

from malmoi.core.config import StrictModel
from malmoi.core.errors import UserError
from malmoi.core.nouns import Done, Examples, FitReport, Json, Predictions, Say, Work, silent, with_note
from malmoi.engine.ask import Asker, AskSettings, softmax
from malmoi.engine.engine import Engine
from malmoi.engine.loaded import open_model
from malmoi.hub.folder import model_path, model_with, stored_bytes, weights_hash
from malmoi.inside.sources import NextTokenModel, ReadText, Source
from malmoi.methods.base import Method, Parts
from malmoi.methods.llm.shots import How, Shots, read_shots, shots_files
from malmoi.methods.traditional.choice import TimeKeeper
from malmoi.tasks.base import Task
from malmoi.tasks.kinds import EVERY_KIND
from malmoi.util.progress import Progress, pause_s
from malmoi.util.units import counted

FOUNDATION_SHOTS = 4  # by default; a chat model knows what a question is
CALIBRATED_BY, COUNTED_OVER = 64, 200  # validation examples
REPLIES = 32  # of those that it calibrates by, where a reply is written for each
PORTION = 8  # of them between two looks at the clock


def _given(model: str) -> str:
    if not model:
        raise ValueError("give the folder of a language model: `model` DIR")
    return str(model_path(model))


ModelPath = Annotated[str, AfterValidator(_given), Field(validate_default=True)]


class PromptedOptions(StrictModel):
    """model: a language model's folder. shots: how many solved examples are shown (None: 4 to a foundation
    model, none to a chat model), chosen at random (the same for all) or similar to the input."""

    model: ModelPath = ""
    shots: NonNegativeInt | None = None
    choose: How = "random"
    seed: NonNegativeInt = 0


class PromptedLabelOptions(PromptedOptions):
    """calibrate: divide by what a label gets for an input without content; None: if that helps in
    validation."""

    calibrate: bool | None = None


class PromptedReplyOptions(PromptedOptions):
    """max_new_tokens: of a reply; None: a little more than long answers in training take."""

    max_new_tokens: PositiveInt | None = None


class Settled(StrictModel):
    """What fitting settles. model: its absolute path; weights: their SHA-256."""

    model: str
    weights: str
    ask: AskSettings
    shots: int
    calibrate: bool = False


class LanguageMethod(Method):
    """A method that has its `asker` after `fit` or `restore`.

    contextual: whether label probabilities are held against those of questions about nothing.
    """

    kinds = EVERY_KIND
    needs_model = True
    ReplyOptions: ClassVar[type[StrictModel]]  # instead of Options, where the task is not to choose a label
    contextual = False
    asker: Asker

    @classmethod
    def options_for(cls, task: Task[Any, Any]) -> type[StrictModel]:
        return cls.Options if task.kind.is_choice else cls.ReplyOptions

    def to(self, device: str) -> Self:
        if self.network is not None:
            self.network.to(device)
        return self

    def predict(self, inputs: Sequence[Any]) -> Predictions:
        return self.predict_counting(inputs, silent)

    def predict_counting(self, inputs: Sequence[Any], done: Done) -> Predictions:
        if not self.task.kind.is_choice:
            return Predictions(self.asker.answers(inputs, done))
        found = self.asker.label_probabilities(inputs, calibrate=self.contextual, done=done)
        return Predictions([max(one, key=one.__getitem__) for one in found])

    def cut_note(self, inputs: Sequence[Any], targets: Sequence[Any] = ()) -> str:
        return "" if targets else self.asker.cut_note(inputs)  # the fit has its own note of that

    def raw_probabilities(self, inputs: Sequence[Any]) -> list[dict[str, float]] | None:
        if not self.task.kind.is_choice:
            return None
        return self.asker.label_probabilities(inputs, calibrate=self.contextual)

    def sureness(self, inputs: Sequence[Any], answers: Sequence[Any]) -> list[float] | None:
        """Of a short answer the log-probability of the reply that says it."""
        if self.task.kind.is_text:
            return None
        given = [pair for pair in zip(inputs, answers, strict=True) if pair[1] is not None]
        replies = [self.task.answer(answer, value) for value, answer in given]
        found = iter(self.asker.log_likelihood([value for value, _ in given], replies))
        return [0.0 if answer is None else next(found) for answer in answers]

    def insides(self, value: Any) -> tuple[Source, ...]:
        text = ReadText.of(value, self.asker.tokenizer)
        return text, NextTokenModel(self.asker.scorer, self.asker.tokenizer, text.text)

    @property
    def network(self) -> nn.Module | None:
        return self.asker.scorer if isinstance(self.asker.scorer, nn.Module) else None

    def log_likelihood(self, inputs: Sequence[Any], targets: Sequence[str]) -> list[float] | None:
        if not self.task.kind.is_text:
            return None
        return self.asker.log_likelihood(inputs, targets)


class Prompted(LanguageMethod):
    """Asks a model that stays where it is: the folder of the method keeps its path and the shots."""

    name, family = "prompted", "prompted"
    Options, ReplyOptions = PromptedLabelOptions, PromptedReplyOptions
    settled: Settled
    shots: Shots[Any, Any]

    def fit(self, train: Examples, valid: Examples, work: Work = Work()) -> FitReport:
        """Choose the shots; see whether contextual calibration helps. Nothing is trained."""
        self.calibration = None
        keeper, folder = TimeKeeper.of(work), Path(self.options.model).resolve()
        engine = Engine.for_many(*open_model(folder))
        ask = AskSettings.as_it_is(self.task, train, engine, getattr(self.options, "max_new_tokens", None))
        settled = Settled(
            model=str(folder), weights=weights_hash(folder), ask=ask, shots=self._num_shots(ask)
        )
        self._settle(settled, engine, train)
        self.contextual, tried = self._calibration(valid[:CALIBRATED_BY], keeper, work.say)
        self.settled = settled.model_copy(update={"calibrate": self.contextual})
        if self.calibration is None and not self.task.kind.is_text and keeper.affords(0):
            self.calibrate([*keeper.some(valid[:REPLIES], 0.9, "examples to calibrate by")])
        facts = self._facts(valid or train, work.say)
        return FitReport(with_note(tried | facts, keeper.note))

    def _num_shots(self, ask: AskSettings) -> int:
        asked = self.options.shots
        if ask.goes_on and asked:
            raise UserError(f"{self.name}: a foundation model goes on with a text as it is; leave shots out")
        return asked if asked is not None else 0 if ask.template or ask.goes_on else FOUNDATION_SHOTS

    def _settle(self, settled: Settled, engine: Engine, examples: Examples) -> None:
        o = self.options
        self.settled, self.contextual = settled, settled.calibrate
        self.shots = Shots(examples, settled.shots, o.choose, o.seed, self.task.key)
        self.asker = Asker(engine, self.task, settled.ask, self.shots.pick)

    def _calibration(self, valid: Examples, keeper: TimeKeeper, say: Say) -> tuple[bool, Json]:
        """Whether to calibrate: as asked, else if more validation examples are right with it; how many."""
        if not self.task.kind.is_choice or self.options.calibrate is not None or not valid:
            return bool(getattr(self.options, "calibrate", False)), {}
        if not keeper.affords(0):
            keeper.left_out.append("seeing whether calibration helps")
            return False, {}
        done, seen, scores = Progress(len(valid), "validation example", say, pause_s()), [], []
        for part in keeper.portions(valid, PORTION, 0.8, "examples to calibrate by"):
            scores.append(self.asker.label_scores([example.input for example in part], done))
            seen += part
        targets, scores_NL = np.array([one.target for one in seen]), np.concatenate(scores)
        labels = np.array(self.settled.ask.labels)
        found = softmax(scores_NL), self.asker.calibrated([one.input for one in seen], scores_NL)
        plain, better = (float((labels[found_NL.argmax(1)] == targets).mean()) for found_NL in found)
        self.calibrate(seen, [dict(zip(labels, row, strict=True)) for row in found[better > plain].tolist()])
        return better > plain, {"calibration": {"examples": len(seen), "without": plain, "with": better}}

    def _facts(self, examples: Examples, say: Say) -> Json:
        """What was found, for the report."""
        settled, is_chat = self.settled, self.settled.ask.template is not None
        facts = {
            "model": settled.model, "chat": is_chat, "shots": settled.shots, "calibrated": settled.calibrate,
            "reply_tokens": settled.ask.reply_tokens,
        }  # fmt: skip
        say(f"a {'chat' if is_chat else 'foundation'} model, asked with {counted(settled.shots, 'shot')}")
        if note := self.asker.note([example.input for example in examples[:COUNTED_OVER]]):
            facts["note"] = note
        return facts

    def costs(self) -> dict[str, float]:
        """On disk it takes what its model takes."""
        return {"disk_bytes": stored_bytes(Path(self.settled.model))}

    def parts(self) -> Parts:
        return Parts(self.settled.model_dump(), files=shots_files(self.task, self.shots))

    def restore(self, parts: Parts) -> None:
        """Raises UserError where the model is gone, or is another one now."""
        settled = Settled.model_validate(parts.config)
        folder = model_with(settled.weights, (Path(settled.model), Path(self.options.model)))
        engine = Engine.for_many(*open_model(folder))
        settled = settled.model_copy(update={"model": str(folder.resolve())})
        self._settle(settled, engine, read_shots(self.task, parts.files))
