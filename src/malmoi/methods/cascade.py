"""Two methods as one: the cheap one answers where it is sure, the strong one or a person gets the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field

from malmoi.core.config import StrictModel
from malmoi.core.errors import UserError
from malmoi.core.nouns import Examples, FitReport, Predictions, Work
from malmoi.methods.base import Method, Parts
from malmoi.methods.folder import load_method
from malmoi.metrics.confidence import LEAST
from malmoi.metrics.promise import Promise, fewest, promise
from malmoi.tasks.kinds import LABEL, SPAN, TAGS
from malmoi.util.units import counted

CHEAP, STRONG = "cheap", "strong"


class CascadeOptions(StrictModel):
    """cheap, strong: folders of fitted methods; without a strong one the rest is for a person. max_error: of
    the answers that the cheap one gives alone, the share that may be wrong, with 95% confidence."""

    cheap: str = ""
    strong: str = ""
    max_error: Annotated[float, Field(gt=0, lt=1)] = 0.05


class Cascade(Method):
    """The bound on the confidence is learned from labelled examples (see `malmoi.metrics.promise`)."""

    name, family, kinds = "cascade", "cascade", frozenset({LABEL, TAGS, SPAN})
    Options = CascadeOptions
    cheap: Method
    strong: Method | None = None
    bound: float

    def fit(self, train: Examples, valid: Examples, work: Work = Work()) -> FitReport:
        """Learn the bound, from examples that neither method has learned from.

        Raises UserError where the cheap method knows no confidence, and where the examples show no bound.
        """
        self._open()
        examples = [*train, *valid]
        work.say(f"asking {self.cheap.name} about {counted(len(examples), 'example')}")
        found = self.cheap.predict_with_confidence([one.input for one in examples])
        shown = self.learn_bound(found, examples)
        facts = {"learned_from": {"train": len(train), "valid": len(valid)}, "promise": asdict(shown)}
        return FitReport(facts)

    def learn_bound(self, found: Predictions, examples: Examples) -> Promise:
        """From what the cheap method says of these examples. Raises UserError, as `fit`."""
        if found.confidences is None or self.cheap.calibration is None:
            raise UserError(
                f"{self.cheap.name} does not know how sure it is; fit it again with at least {LEAST} "
                "examples held out"
            )
        right = [*map(self.task.is_right, found.values, examples)]
        most = self.options.max_error
        shown = promise(found.confidences, right, self.cheap.calibration.levels, most)
        if shown is None:
            raise UserError(
                f"{counted(len(examples), 'example')} do not show that at most {most:.1%} of the answers "
                f"that {self.cheap.name} is surest of are wrong ({fewest(most)} right ones in a row would); "
                "give more examples, or allow more errors"
            )
        self.bound = shown.confidence
        return shown

    def _open(self) -> None:
        if not hasattr(self, CHEAP):
            if not self.options.cheap:
                raise UserError("a cascade needs the folder of a fitted method: `cheap` DIR")
            self.cheap = load_method(Path(self.options.cheap))
        if self.strong is None and self.options.strong:
            self.strong = load_method(Path(self.options.strong))
        for method in filter(None, (self.cheap, self.strong)):
            if method.task.name != self.task.name:
                raise UserError(f"{method.name} was fitted to {method.task.name}, not to {self.task.name}")

    def predict(self, inputs: Sequence[Any]) -> Predictions:
        return replace(self.predict_with_confidence(inputs), confidences=None, probabilities=None)

    def predict_with_confidence(self, inputs: Sequence[Any]) -> Predictions:
        """With `passed_on`; what is left to a person is None, with the cheap method's confidence."""
        found = self.cheap.predict_with_confidence(inputs)
        assert found.confidences is not None
        passed_on = [sure < self.bound for sure in found.confidences]
        places = [at for at, passed in enumerate(passed_on) if passed]
        more = Predictions([None] * len(places))
        if self.strong and places:
            more = self.strong.predict_with_confidence([inputs[at] for at in places])
        columns = {
            name: _replaced(getattr(found, name), places, getattr(more, name))
            for name in ("values", "confidences", "probabilities")
        }
        note = "; ".join(filter(None, (found.note, more.note)))
        return replace(found, **columns, note=note, passed_on=passed_on)

    def raw_probabilities(self, inputs: Sequence[Any]) -> list[dict[str, float]] | None:
        return self.predict_with_confidence(inputs).probabilities

    def confidences(self, inputs: Sequence[Any], answers: Sequence[Any]) -> list[float] | None:
        del answers
        return self.predict_with_confidence(inputs).confidences

    def calibrate(self, held_out: Examples, shares: list[dict[str, float]] | None = None) -> None:
        """Both are calibrated already."""
        del held_out, shares

    def cut_note(self, inputs: Sequence[Any], targets: Sequence[Any] = ()) -> str:
        return self.cheap.cut_note(inputs, targets)

    def to(self, device: str) -> Self:
        for method in filter(None, (self.cheap, self.strong)):
            method.to(device)
        return self

    def parts(self) -> Parts:
        methods = {CHEAP: self.cheap} | ({STRONG: self.strong} if self.strong else {})
        return Parts({"confidence": self.bound}, methods=methods)

    def restore(self, parts: Parts) -> None:
        self.bound = parts.config["confidence"]
        self.cheap, self.strong = parts.methods[CHEAP], parts.methods.get(STRONG)


def _replaced(values: list[Any] | None, places: Sequence[int], more: list[Any] | None) -> list[Any] | None:
    """The values with others at these places, where there are others."""
    if values is None or more is None:
        return values
    found = [*values]
    for at, value in zip(places, more, strict=True):
        found[at] = value
    return found
