"""The loop behind every neural method: best weights, early stopping, budgets, replay."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from malmoi.core import nouns
from malmoi.core.errors import UserError
from malmoi.core.nouns import Budget, Work, silent
from malmoi.core.tensors import Loss
from malmoi.data.batches import Buckets, within
from malmoi.learn import trial
from malmoi.learn.objectives import examples
from malmoi.learn.objectives.examples import Chosen, FitPlan, FitSpec, LabelledRows, fit
from malmoi.learn.run_config import TuneSpec
from malmoi.learn.trial import Affordable, affordable_steps

SPEC = FitSpec(lr=0.05, warmup_steps=0, weight_decay=0.0, batch=16, epochs=10, evaluations=5)


class Line(LabelledRows[nn.Module, float]):
    """Learn y = 3 x; validation values may be dictated."""

    def __init__(
        self, values: list[float] | None = None, judged_by: str = "loss", spec: FitSpec = SPEC
    ) -> None:  # fmt: skip
        x_N = torch.randn(400, generator=torch.Generator().manual_seed(0)).tolist()
        super().__init__(x_N, lambda _: 1, spec)
        self.values, self.judged_by = values, judged_by
        torch.manual_seed(0)
        self.model = nn.Linear(1, 1)
        self.seen, self.kept = list[int](), list[float]()

    def part(self, step: int, start: int, stop: int, rank: int = 0) -> Chosen:
        self.seen.append(step)
        return super().part(step, start, stop, rank)

    def loss(self, model: nn.Module, part: Chosen) -> Loss:
        x_B1 = torch.tensor(part[0])[:, None]
        return Loss((model(x_B1) - 3 * x_B1).square().sum(), len(x_B1))

    def evaluate(self, loss: object, rows: int, limit: int | None = None) -> dict[str, float]:
        del loss, rows, limit
        weight = self.model.weight.item()  # type: ignore[operator]
        self.kept.append(weight)
        sign = -1 if self.judged_by == "loss" else 1
        return {self.judged_by: sign * (self.values.pop(0) if self.values else -abs(weight - 3))}


def fitted(
    line: Line, budget: Budget = Budget(), spec: FitSpec = SPEC, say: Callable[[str], None] = silent,
    words: str = "",
) -> dict[str, Any]:  # fmt: skip
    return fit(line.model, line, spec, "fp32", Work(budget, say), words)


@pytest.mark.parametrize(("judged_by", "shown"), [("loss", "valid loss 0.5000"), ("f1", "valid f1 -0.5000")])
def test_the_log_names_what_it_judges_by(judged_by: str, shown: str) -> None:
    said: list[str] = []
    found = fitted(Line([-0.5], judged_by), Budget(steps=1), say=said.append, words="16 examples")
    assert said[0] == "1 step of 16 examples"
    assert said[1].endswith(shown)
    assert found["judged_by"] == judged_by


def test_it_learns_and_reports() -> None:
    line = Line()
    found = fitted(line)
    assert found["steps"] == 250
    assert found["best"] > -0.2
    assert [step for step, _, _ in found["curve"]] == [50, 100, 150, 200, 250]
    assert not line.model.training


def test_the_best_weights_win() -> None:
    line = Line([1.0, 5.0, 2.0, 3.0, 4.0])
    found = fitted(line)
    assert found["best_step"] == 100
    assert line.model.weight.item() == line.kept[1]  # type: ignore[operator]


def test_patience_stops() -> None:
    line = Line([5.0, 1.0, 1.0, 1.0, 1.0])
    said: list[str] = []
    spec = SPEC.model_copy(update={"patience": 2})
    assert len(fitted(line, spec=spec, say=said.append)["curve"]) == 3
    assert len(line.seen) == 150
    assert said[-1] == "no better since step 50: stopped"


def test_a_repeated_fit_is_the_same_fit() -> None:
    first, second = Line(), Line()
    fitted(first, Budget(steps=60))
    fitted(second, Budget(seconds=0.01, steps=60))  # recorded steps win over the clock
    assert torch.equal(first.model.weight, second.model.weight)


def plan(**changes: object) -> FitPlan:
    known = SPEC.model_dump(exclude={"epochs"}) | {"micro_batch": 16, "dtype": "fp32"}
    return FitPlan.model_validate(known | changes)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_calibration_leaves_no_trace(optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line()
    before = line.model.weight.clone()  # type: ignore[operator]
    assert affordable_steps(line.model, line, plan(optimizer=optimizer), seconds=5.0).steps >= 1
    assert torch.equal(line.model.weight, before)
    monkeypatch.setattr(examples, "affordable_steps", lambda *_: Affordable(60))
    fitted(line, Budget(seconds=5.0))
    replayed = Line()
    fitted(replayed, Budget(steps=60))
    assert torch.equal(line.model.weight, replayed.model.weight)


@pytest.mark.parametrize(("step_s", "tried"), [(0.1, 6), (4.0, 3), (60.0, 2)])
def test_a_calibration_keeps_to_half_of_the_budget(
    step_s: float, tried: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Line()
    clock: Callable[[], float] = lambda: step_s * len(line.seen)  # noqa: E731
    monkeypatch.setattr(trial, "time", SimpleNamespace(perf_counter=clock))
    affordable_steps(line.model, line, plan(), seconds=20.0)
    assert len(line.seen) == tried


@given(
    step_s=st.integers(1, 20), evaluation_s=st.integers(0, 300), seconds=st.integers(100, 3000),
    eval_every=st.one_of(st.none(), st.integers(1, 200)),
)  # fmt: skip
def test_a_budget_pays_for_steps_and_the_evaluations_that_are_asked_for(
    step_s: int, evaluation_s: int, seconds: int, eval_every: int | None
) -> None:
    line, asked = Line(), {} if eval_every is None else {"eval_every": eval_every}
    spec = TuneSpec(batch=16, micro_batch=16, optimizer="adamw", dtype="fp32", **asked)
    with pytest.MonkeyPatch.context() as patch:
        clock: Callable[[], float] = lambda: step_s * len(line.seen) + evaluation_s * len(line.kept)  # noqa: E731
        patch.setattr(trial, "time", SimpleNamespace(perf_counter=clock))
        steps, _ = affordable_steps(line.model, line, spec, seconds=seconds)
        left_s = seconds - clock()

    def cost_s(count: int) -> float:
        evaluations = -(-count // eval_every) if eval_every else min(count, 5)
        return count * step_s + (evaluations + 1) * evaluation_s  # one for the card

    assert steps == 1 or cost_s(steps) <= left_s
    assert cost_s(steps + 1) > left_s


def test_the_time_of_a_budget_runs_from_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(nouns, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    waiting = Budget(10.0)
    begun, endless = Work(waiting).begin().budget, Work().begin().budget
    clock.now += 7
    assert (waiting.left_s, begun.left_s, endless.left_s) == (10.0, 3.0, None)


def test_a_diverging_fit_says_so() -> None:
    line = Line()
    with torch.no_grad():
        line.model.weight.fill_(float("nan"))  # type: ignore[operator]
    with pytest.raises(UserError, match="diverged"):
        fitted(line)


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=200),
    rows=st.integers(1, 40),
    seed=st.integers(0, 9),
)
def test_an_epoch_has_every_example_once(lengths: list[int], rows: int, seed: int) -> None:
    buckets = Buckets(lengths, rows, seed)
    steps = range(3 * buckets.steps_per_epoch)
    batches = [buckets.batch(step).tolist() for step in steps]
    for epoch in range(3):
        of_epoch = batches[epoch * buckets.steps_per_epoch : (epoch + 1) * buckets.steps_per_epoch]
        assert sorted(i for batch in of_epoch for i in batch) == list(range(len(lengths)))
    assert all(len(batch) <= rows for batch in batches)
    again = Buckets(lengths, rows, seed)
    assert again.batch(steps[-1]).tolist() == batches[-1]


@given(lengths=st.lists(st.integers(1, 50), min_size=1).map(sorted), most=st.integers(1, 300))
def test_parts_hold_every_row_within_the_limit(lengths: list[int], most: int) -> None:
    parts = within(lengths, most)
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(len(lengths)))
    for part in parts:
        rows = lengths[part]
        assert len(rows) == 1 or len(rows) * max(rows) <= most


def test_batches_hold_like_lengths() -> None:
    lengths = [1, 50] * 100
    mixed = sum(len({lengths[i] for i in Buckets(lengths, 10, 0).batch(step)}) > 1 for step in range(20))
    assert mixed <= 1
