"""The loop behind every neural method: best weights, early stopping, budgets, replay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from malmoi.core import nouns
from malmoi.core.errors import UserError
from malmoi.core.nouns import Budget
from malmoi.core.tensors import Loss
from malmoi.data.batches import Buckets, within
from malmoi.learn import fit as fit_module
from malmoi.learn.fit import FitReport, FitSpec, affordable_steps, fit, planned_steps

SPEC = FitSpec(lr=0.05, warmup_steps=0, weight_decay=0.0, epochs=10, evaluations=5)


@dataclass
class Line:
    """Learn y = 3 x; validation values may be dictated."""

    model: nn.Module = field(default_factory=lambda: nn.Linear(1, 1))
    values: list[float] | None = None
    steps_per_epoch: int = 25
    dtype: str = "fp32"
    judged_by: str = "loss"
    seen: list[int] = field(default_factory=list)

    def losses(self, step: int) -> Iterator[Loss]:
        self.seen.append(step)
        x_B1 = torch.randn(16, 1, generator=torch.Generator().manual_seed(step))
        for part in x_B1.chunk(2):
            yield Loss((self.model(part) - 3 * part).square().sum(), len(part))

    def validate(self) -> float:
        return self.values.pop(0) if self.values else -abs(self.model.weight.item() - 3)


def made(**options: object) -> Line:
    torch.manual_seed(0)
    return Line(**options)


def fitted(problem: Line, budget: Budget = Budget()) -> FitReport:
    return fit(problem, SPEC, planned_steps(problem, SPEC, budget))


@pytest.mark.parametrize(("judged_by", "shown"), [("loss", "valid loss 0.5000"), ("f1", "valid f1 -0.5000")])
def test_the_log_names_what_it_judges_by(judged_by: str, shown: str) -> None:
    said: list[str] = []
    report = fit(made(judged_by=judged_by, values=[-0.5]), SPEC, 1, said.append)
    assert said[0].endswith(shown)
    assert report.as_json()["judged_by"] == judged_by


def test_it_learns_and_reports() -> None:
    problem = made()
    report = fitted(problem)
    assert report.steps == 250
    assert report.best > -0.2
    assert [step for step, _, _ in report.curve] == [50, 100, 150, 200, 250]
    assert not problem.model.training


def test_the_best_weights_win() -> None:
    problem = made(values=[1.0, 5.0, 2.0, 3.0, 4.0])
    kept: list[float] = []
    validate = problem.validate
    problem.validate = lambda: (kept.append(problem.model.weight.item()), validate())[1]
    report = fitted(problem)
    assert report.best_step == 100
    assert problem.model.weight.item() == kept[1]


def test_patience_stops() -> None:
    problem = made(values=[5.0, 1.0, 1.0, 1.0, 1.0])
    report = fit(problem, SPEC.model_copy(update={"patience": 2}), 250)
    assert len(report.curve) == 3
    assert len(problem.seen) == 150


def test_a_repeated_fit_is_the_same_fit() -> None:
    first, second = made(), made()
    fitted(first, Budget(steps=60))
    fitted(second, Budget(seconds=0.01, steps=60))  # recorded steps win over the clock
    assert torch.equal(first.model.weight, second.model.weight)


def test_a_calibration_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = made()
    before = problem.model.weight.clone()
    assert affordable_steps(problem, SPEC, seconds=5.0) >= 1
    assert torch.equal(problem.model.weight, before)
    monkeypatch.setattr(fit_module, "affordable_steps", lambda *_: 60)
    fitted(problem, Budget(seconds=5.0))
    replayed = made()
    fitted(replayed, Budget(steps=60))
    assert torch.equal(problem.model.weight, replayed.model.weight)


@pytest.mark.parametrize(("step_s", "tried"), [(0.1, 6), (4.0, 3), (60.0, 2)])
def test_a_calibration_keeps_to_half_of_the_budget(
    step_s: float, tried: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = made()
    monkeypatch.setattr(fit_module, "time", SimpleNamespace(perf_counter=lambda: step_s * len(problem.seen)))
    affordable_steps(problem, SPEC, seconds=20.0)
    assert len(problem.seen) == tried


def test_the_time_of_a_budget_runs_from_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(nouns, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    waiting, begun, endless = Budget(10.0), Budget(10.0).begin(), Budget().begin()
    clock.now += 7
    assert (waiting.left_s, begun.left_s, endless.left_s) == (10.0, 3.0, None)


def test_a_diverging_fit_says_so() -> None:
    problem = made()
    with torch.no_grad():
        problem.model.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="diverged"):
        fitted(problem)


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
