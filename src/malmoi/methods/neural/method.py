"""One neural method for every task: its name says the backbone, the task's kind head, loss and decoding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import torch
from pydantic import create_model
from torch import nn

from malmoi.core.config import StrictModel
from malmoi.core.errors import UserError
from malmoi.core.nouns import Budget, Example, Json, Say, silent
from malmoi.core.tensors import Loss, mean
from malmoi.data.batches import Buckets, within
from malmoi.data.readers import read_documents
from malmoi.hub.weights import arrays_of, set_parameters
from malmoi.inside.sources import Source
from malmoi.learn.fit import fit, planned_steps
from malmoi.methods.base import Method, Parts
from malmoi.methods.neural.continuations import ContinuationForm
from malmoi.methods.neural.form import PART_TOKENS, Backbone, EncoderForm, EncoderOptions, Form
from malmoi.methods.neural.labels import LabelForm
from malmoi.methods.neural.spans import SpanForm
from malmoi.methods.neural.tags import TagForm
from malmoi.methods.neural.texts import TextForm
from malmoi.models.heads import MaskedLanguageModel
from malmoi.models.recurrent import computed_in
from malmoi.tasks.base import Task
from malmoi.tasks.kinds import CONTINUATION, LABEL, SPAN, TAGS, TEXT, Kind
from malmoi.util.hardware import pick_device, training_dtype
from malmoi.util.seeds import mixed
from malmoi.util.units import counted

FORMS: dict[Kind, type[Form[Any, Any]]] = {
    LABEL: LabelForm,
    TAGS: TagForm,
    SPAN: SpanForm,
    TEXT: TextForm,
    CONTINUATION: ContinuationForm,
}
MOST_CHOSEN_BY = 2000  # validation examples looked at during a fit
MOST_CHOSEN_TOKENS = 65_536  # and tokens, where the loss is looked at: more would take longer than learning
FEW_STEPS = 25  # below that a fit says that its budget was too small
WARM_UP_SHARE = 0.3  # of a time budget, where there is unlabelled text
HIDDEN_SHARE = 0.15  # of the tokens in masked-token pre-training (Devlin et al. 2019)

Row = TypeVar("Row")


class Neural(Method):
    """A network fitted to a task. See `malmoi.methods.neural.form:Form` for what differs between kinds."""

    backbone: ClassVar[Backbone]
    forms: ClassVar[dict[Kind, type[Form[Any, Any]]]] = FORMS
    settled: ClassVar[Json] = {}  # what would be options, but has one value here
    kinds = frozenset(FORMS)

    def __init__(self, task: Task[Any, Any], options: Json | None = None) -> None:
        super().__init__(task, options)
        self.form = self.forms[task.kind](self.options, self.backbone, task)
        self.model: Any = nn.Identity()  # the form's, after `fit` or `restore`

    @classmethod
    def options_for(cls, task: Task[Any, Any]) -> type[StrictModel]:
        """The form's options, with the defaults that suit the backbone; without those that are settled."""
        form = cls.forms[task.kind]
        base = form.Options
        fields: dict[str, Any] = {
            name: (base.model_fields[name].rebuild_annotation(), value)
            for name, value in form.defaults.get(cls.family, {}).items()
        }
        fields |= {name: (ClassVar[Any], it) for name, it in cls.settled.items() if name in base.model_fields}
        return create_model(base.__name__, __base__=base, **fields)

    def fit(
        self,
        train: Sequence[Example[Any, Any]],
        valid: Sequence[Example[Any, Any]],
        budget: Budget = Budget(),
        say: Say = silent,
    ) -> Self:
        if not train or not valid:
            raise UserError(f"{self.name} needs examples to learn from and some to stop by; give more data")
        options: Any = self.options
        budget = budget.begin()
        self.form.learn(train)
        torch.manual_seed(options.seed)
        self._build()
        dtype = training_dtype(options.dtype, self.form.device, self.form.width)
        if isinstance(options, EncoderOptions) and options.unlabelled:
            assert isinstance(self.form, EncoderForm)
            self._warm_up(self.form, options, budget, dtype, say)
        self._learn(train, valid[:MOST_CHOSEN_BY], budget, dtype, say)
        self.report["parameters"] = sum(parameter.numel() for parameter in self.model.parameters())
        return self

    def _learn(
        self, train: Sequence[Example[Any, Any]], valid: Sequence[Example[Any, Any]], budget: Budget,
        dtype: str, say: Say,
    ) -> None:  # fmt: skip
        """Fit the model that is built."""
        options: Any = self.options
        problem = _Fitting(self.form, self.model, train, valid, options, dtype)
        if budget.seconds is not None and budget.steps is None:
            say("trying how long a step takes")
        self.report["steps"] = steps = planned_steps(problem, options, budget)
        how = computed_in(self.model, dtype)
        say(f"{counted(steps, 'step')} of {counted(options.batch, 'example')}, {how}")
        if steps < min(FEW_STEPS, planned_steps(problem, options, Budget())):
            self.report["note"] = f"the budget paid for {counted(steps, 'step')} only; give it more time"
        self.report |= {"dtype": dtype, "fit": fit(problem, options, steps, say).as_json()}

    def _warm_up(
        self, form: EncoderForm[Any, Any], options: EncoderOptions, budget: Budget, dtype: str, say: Say
    ) -> None:
        """Masked-token pre-training of the encoder, for a share of the budget."""
        assert options.unlabelled is not None
        texts = list(read_documents(Path(options.unlabelled)))
        masked = MaskedLanguageModel(self.model.encoder)
        problem = _WarmingUp(form, masked, texts, options, dtype)
        share = None if budget.seconds is None else budget.seconds * WARM_UP_SHARE
        spec = options.model_copy(update={"epochs": options.warm_up_epochs})
        steps = planned_steps(problem, spec, Budget(share, budget.warm_up_steps))
        self.report["warm_up_steps"] = steps
        fit(problem, spec, steps, say)

    def to(self, device: str) -> Self:
        self.form.device = torch.device(device)
        self.model = self.model.to(device)
        return self

    def _build(self) -> None:
        self.model = self.form.build()
        self.to(str(pick_device()))

    def predict(self, inputs: Sequence[Any]) -> list[Any | None]:
        return self.form.predict(self.model, inputs) if inputs else []

    def probabilities(self, inputs: Sequence[Any]) -> list[dict[str, float]] | None:
        if not isinstance(self.form, LabelForm):
            return None
        return self.form.probabilities(self.model, inputs) if inputs else []

    def log_likelihood(self, inputs: Sequence[Any], targets: Sequence[str]) -> list[float] | None:
        if not isinstance(self.form, TextForm | ContinuationForm):
            return None
        return self.form.log_likelihood(self.model, inputs, targets) if inputs else []

    def insides(self, value: Any) -> tuple[Source, ...]:
        return self.form.insides(self.model, value)

    @property
    def network(self) -> nn.Module:
        return self.model

    def parts(self) -> Parts:
        parts = self.form.parts()
        return Parts(parts.config, arrays_of(self.model), parts.files)

    def restore(self, parts: Parts) -> None:
        self.form.restore(parts)
        self._build()
        set_parameters(self.model, parts.tensors)
        self.model.eval()


class Recurrent(Neural):
    """Networks that read one position after the other, and so have no heads."""

    family = "recurrent"
    settled: ClassVar[Json] = {"heads": 1}


class RNN(Recurrent):
    """Elman networks (Elman 1990)."""

    name = backbone = "rnn"


class GRU(Recurrent):
    """Gated recurrent units (Cho et al. 2014)."""

    name = backbone = "gru"


class LSTM(Recurrent):
    """Long short-term memory (Hochreiter & Schmidhuber 1997)."""

    name = backbone = "lstm"


class TransformerMethod(Neural):
    """Attention in place of recurrence (Vaswani et al. 2017)."""

    name, family, backbone = "transformer", "transformer", "transformer"


class _Rows(ABC, Generic[Row]):
    """Batches of rows for `malmoi.learn.fit:fit`."""

    model: Any
    judged_by = "loss"

    def __init__(self, form: Form[Row, Any], rows: list[Row], options: Any, dtype: str) -> None:
        self.form, self.rows_of, self.options, self.dtype = form, rows, options, dtype
        self.buckets = Buckets([form.length(row) for row in rows], options.batch, options.seed)
        self.steps_per_epoch = self.buckets.steps_per_epoch

    @abstractmethod
    def loss_of(self, rows: Sequence[Row], random: np.random.Generator | None) -> Loss:
        """What the rows teach, summed; random: draws what is hidden while learning."""

    def losses(self, step: int) -> Iterator[Loss]:
        rows = [self.rows_of[i] for i in self.buckets.batch(step)]
        random = np.random.default_rng(mixed(self.options.seed, step))
        for part in self._parts(rows):
            with torch.autocast(self.form.device.type, torch.bfloat16, enabled=self.dtype == "bf16"):
                loss = self.loss_of(rows[part], random)
            yield loss

    def value_of(self, rows: Sequence[Row], random: np.random.Generator | None) -> float:
        """The mean loss, turned so that higher is better."""
        return -mean(self.loss_of(rows[part], random) for part in self._parts(rows))

    def _parts(self, rows: Sequence[Row]) -> list[slice]:
        """As many rows at once as go through the model."""
        return within([self.form.length(row) for row in rows], PART_TOKENS)


class _Fitting(_Rows[Any]):
    """The labelled examples."""

    def __init__(
        self, form: Form[Any, Any], model: Any, train: Sequence[Example[Any, Any]],
        valid: Sequence[Example[Any, Any]], options: Any, dtype: str,
    ) -> None:  # fmt: skip
        super().__init__(form, form.rows(train), options, dtype)
        self.model, self.valid = model, valid
        self.judged_by = form.task.primary if form.by_metric else "loss"
        self.valid_rows = [] if form.by_metric else self._few(form.rows(valid))

    def _few(self, rows: list[Any]) -> list[Any]:
        """The first rows of at most MOST_CHOSEN_TOKENS (one at least), the shortest first."""
        ends = accumulate(self.form.length(row) for row in rows)
        count = sum(end <= MOST_CHOSEN_TOKENS for end in ends)
        return sorted(rows[: max(1, count)], key=self.form.length)

    def loss_of(self, rows: Sequence[Any], random: np.random.Generator | None) -> Loss:
        return self.form.loss(self.model, rows, random)

    @torch.no_grad()
    def validate(self) -> float:
        if self.form.by_metric:
            found = self.form.predict(self.model, [example.input for example in self.valid])
            return self.form.task.statistics(found, self.valid)[self.form.task.primary].value
        return self.value_of(self.valid_rows, None)


class _WarmingUp(_Rows[Any]):
    """Texts without labels, with some of their tokens hidden."""

    def __init__(
        self, form: EncoderForm[Any, Any], model: Any, texts: Sequence[str], options: Any, dtype: str
    ) -> None:
        rows = form.plain_rows(texts)
        held_out = max(1, min(len(rows) // 20, 500))
        if len(rows) < 2:
            raise UserError(f"{options.unlabelled} holds too little text to warm up on; give more")
        super().__init__(form, rows[held_out:], options, dtype)
        self.encoder_form, self.model, self.valid = form, model, rows[:held_out]

    def loss_of(self, rows: Sequence[Any], random: np.random.Generator | None) -> Loss:
        assert random is not None
        return self.encoder_form.masked_loss(self.model, rows, HIDDEN_SHARE, random)

    @torch.no_grad()
    def validate(self) -> float:
        return self.value_of(self.valid, np.random.default_rng(0))
