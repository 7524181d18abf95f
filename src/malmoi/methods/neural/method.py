"""One neural method for every task: its name says the backbone, the task's kind head, loss and decoding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from pydantic import create_model
from torch import nn

from malmoi.core.config import StrictModel
from malmoi.core.errors import UserError
from malmoi.core.nouns import Examples, FitReport, Json, Predictions, Work, with_note
from malmoi.core.tensors import Loss, mean
from malmoi.data.readers import read_documents
from malmoi.hub.weights import arrays_of, set_parameters
from malmoi.inside.sources import Source
from malmoi.learn.objectives.examples import Chosen, LabelledRows, fit, identity
from malmoi.methods.base import Method, Parts
from malmoi.methods.neural.continuations import ContinuationForm
from malmoi.methods.neural.form import Backbone, EncoderForm, EncoderOptions, Form
from malmoi.methods.neural.labels import LabelForm, LabelSetForm
from malmoi.methods.neural.spans import SpanForm
from malmoi.methods.neural.tags import TagForm
from malmoi.methods.neural.texts import TextForm
from malmoi.models.cells import cell_named, computed_in
from malmoi.models.heads import MaskedLanguageModel
from malmoi.tasks.base import Task
from malmoi.tasks.kinds import CONTINUATION, LABEL, LABELS, SPAN, TAGS, TEXT, Kind
from malmoi.util.hardware import pick_device, training_dtype
from malmoi.util.units import counted

FORMS: dict[Kind, type[Form[Any, Any]]] = {
    LABEL: LabelForm,
    LABELS: LabelSetForm,
    TAGS: TagForm,
    SPAN: SpanForm,
    TEXT: TextForm,
    CONTINUATION: ContinuationForm,
}
MOST_CHOSEN_BY = 2000  # validation examples looked at during a fit
MOST_CHOSEN_TOKENS = 65_536  # and tokens, where the loss is looked at: more would take longer than learning
WARM_UP_SHARE = 0.3  # of a time budget, where there is unlabelled text
HIDDEN_SHARE = 0.15  # of the tokens in masked-token pre-training (Devlin et al. 2019)


class Neural(Method):
    """A network fitted to a task. See `malmoi.methods.neural.form:Form` for what differs between kinds."""

    backbone: ClassVar[Backbone]
    forms: ClassVar[dict[Kind, type[Form[Any, Any]]]] = FORMS
    settled: ClassVar[Json] = {}  # what would be options, but has one value here
    kinds = frozenset(FORMS)
    portion = 256

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

    def fit(self, train: Examples, valid: Examples, work: Work = Work()) -> FitReport:
        if not train or not valid:
            raise UserError(f"{self.name} needs examples to learn from and some to stop by; give more data")
        options: Any = self.options
        work = work.begin()
        self.form.learn(train)
        torch.manual_seed(options.seed)
        self._build()
        dtype = training_dtype(options.dtype, self.form.device, self.form.width)
        asked, facts = identity(self.options, train, valid), {}
        if isinstance(options, EncoderOptions) and options.unlabelled:
            assert isinstance(self.form, EncoderForm)
            facts["warm_up_steps"] = self._warm_up(self.form, options, dtype, work, asked)
        facts |= self._learn(train, valid[:MOST_CHOSEN_BY], dtype, work, asked)
        if not facts.get("learned_from", {}).get("valid"):
            self.calibrate(valid[:MOST_CHOSEN_BY])
        facts.setdefault("learned_from", {"train": len(train), "valid": 0})
        return FitReport(facts | {"parameters": sum(one.numel() for one in self.model.parameters())})

    def _learn(self, train: Examples, valid: Examples, dtype: str, work: Work, asked: Json) -> Json:
        """Fit the model that is built."""
        options: Any = self.options
        objective = _Labelled(self.form, self.model, train, valid, options)
        words = f"{counted(options.batch, 'example')}, {computed_in(self.model, dtype)}"
        found = fit(self.model, objective, options, dtype, work, words, asked)
        note = found.pop("note")
        if isinstance(self.form, LabelSetForm):
            self.form.settled(self.model, valid)
        return with_note({"steps": found["steps"], "dtype": dtype, "fit": found}, note)

    def _warm_up(
        self, form: EncoderForm[Any, Any], options: EncoderOptions, dtype: str, work: Work, asked: Json
    ) -> int:
        """Masked-token pre-training of the encoder, for a share of the budget; how many steps."""
        assert options.unlabelled is not None
        texts = list(read_documents(Path(options.unlabelled)))
        masked = MaskedLanguageModel(self.model.encoder)
        spec = options.model_copy(update={"epochs": options.warm_up_epochs})
        return fit(
            masked, _Unlabelled(form, masked, texts, spec), spec, dtype, work.share(WARM_UP_SHARE, "warm-up"),
            asked=asked,
        )["steps"]  # fmt: skip

    def to(self, device: str) -> Self:
        self.form.device = torch.device(device)
        self.model = self.model.to(device)
        return self

    def _build(self) -> None:
        self.model = self.form.build()
        self.to(str(pick_device()))

    def predict(self, inputs: Sequence[Any]) -> Predictions:
        return Predictions(self.form.predict(self.model, inputs) if inputs else [])

    def cut_note(self, inputs: Sequence[Any], targets: Sequence[Any] = ()) -> str:
        return self.form.cut_note(inputs, targets)

    def raw_probabilities(self, inputs: Sequence[Any]) -> list[dict[str, float]] | None:
        if not isinstance(self.form, LabelForm):
            return None
        return self.form.probabilities(self.model, inputs) if inputs else []

    def sureness(self, inputs: Sequence[Any], answers: Sequence[Any]) -> list[float] | None:
        if self.task.kind.is_set:
            return super().sureness(inputs, answers)
        return self.form.sureness(self.model, inputs, answers) if inputs else []

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


class RecurrentMethod(Neural):
    """Networks that read one position after the other, and so have no heads; one method for each cell."""

    family = "recurrent"
    settled: ClassVar[Json] = {"heads": 1}

    @classmethod
    def named(cls, name: str) -> type[Method]:
        return _of_cell(name)


@cache
def _of_cell(name: str) -> type[RecurrentMethod]:
    return type(
        name, (RecurrentMethod,), {"name": name, "backbone": name, "__doc__": cell_named(name).__doc__}
    )


class TransformerMethod(Neural):
    """Attention in place of recurrence (Vaswani et al. 2017)."""

    name, family, backbone = "transformer", "transformer", "transformer"


class _Labelled(LabelledRows[nn.Module, Any]):
    """The labelled examples."""

    def __init__(
        self, form: Form[Any, Any], model: Any, train: Examples, valid: Examples, options: Any
    ) -> None:
        super().__init__(form.rows(train), form.length, options)
        self.form, self.model, self.valid = form, model, valid
        self.judged_by = form.task.metric if form.by_metric else "loss"
        self.valid_rows = [] if form.by_metric else self._few(form.rows(valid))

    def _few(self, rows: list[Any]) -> list[Any]:
        """The first rows of at most MOST_CHOSEN_TOKENS (one at least), the shortest first."""
        ends = accumulate(self.length(row) for row in rows)
        count = sum(end <= MOST_CHOSEN_TOKENS for end in ends)
        return sorted(rows[: max(1, count)], key=self.length)

    def loss(self, model: Any, part: Chosen) -> Loss:
        return self.form.loss(model, *part)

    def evaluate(
        self, loss: Callable[[Chosen], Loss], rows: int, limit: int | None = None
    ) -> dict[str, float]:
        """The task's metric, or the mean loss with nothing hidden; in fp32."""
        del loss, limit
        if self.form.by_metric:
            found = self.form.settled(self.model, self.valid)
            return {self.judged_by: self.form.task.statistics(found, self.valid)[self.judged_by].value}
        parts = [self.valid_rows[part] for part in self.within(self.valid_rows, rows)]
        return {"loss": mean(self.form.loss(self.model, part, None) for part in parts)}


class _Unlabelled(LabelledRows[nn.Module, Any]):
    """Texts without labels, with some of their tokens hidden."""

    def __init__(
        self, form: EncoderForm[Any, Any], model: MaskedLanguageModel, texts: Sequence[str], options: Any
    ) -> None:
        rows = form.plain_rows(texts)
        held_out = max(1, min(len(rows) // 20, 500))
        if len(rows) < 2:
            raise UserError(f"{options.unlabelled} holds too little text to warm up on; give more")
        super().__init__(rows[held_out:], form.length, options)
        self.form, self.model, self.valid = form, model, rows[:held_out]

    def loss(self, model: Any, part: Chosen) -> Loss:
        rows, random = part
        return self.form.masked_loss(model, rows, HIDDEN_SHARE, random)

    def evaluate(
        self, loss: Callable[[Chosen], Loss], rows: int, limit: int | None = None
    ) -> dict[str, float]:
        """The mean loss, in fp32."""
        del loss, limit
        parts, random = [self.valid[part] for part in self.within(self.valid, rows)], np.random.default_rng(0)
        return {"loss": mean(self.loss(self.model, (part, random)) for part in parts)}
