"""Methods that depend on their seed: several runs, of which one is kept, and how sure the verdict then is."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from malmoi.compare.runner import run_comparison
from malmoi.compare.settings import ComparisonSettings
from malmoi.core.nouns import Examples, FitReport, Work
from malmoi.methods.folder import load_method
from malmoi.methods.registry import METHODS
from malmoi.metrics.statistics import RESAMPLES, Resampled, Statistic, difference, mean
from malmoi.show.comparison_report import show_comparison, write_comparison
from tests.compare.fakes import Words


class Lucky(Words):
    """Forgets some of what it learned, by its seed; validation likes seed 2 best."""

    class Options(Words.Options):
        """As a network has it."""

        seed: int = 0

    name = "lucky"
    family = "recurrent"
    failing: int | None = None

    def fit(self, train: Examples, valid: Examples, work: Work = Work()) -> FitReport:
        seed = self.options.seed
        if seed == self.failing:
            raise RuntimeError("the loss is not a number")
        report = super().fit(train, valid, work)
        kept = random.Random(seed).sample(sorted(self.votes), len(self.votes) // 2)
        self.votes = {word: self.votes[word] for word in kept}
        return FitReport(report.facts | {"fit": {"best": 1 - abs(seed - 2) / 10}})


@pytest.fixture
def lucky(settings: ComparisonSettings, monkeypatch: pytest.MonkeyPatch) -> ComparisonSettings:
    monkeypatch.setitem(METHODS, "lucky", Lucky)
    return settings.model_copy(update={"methods": {"lucky": {}, "words": {}}, "seeds": 4})


def test_each_seed_is_a_run_and_the_best_one_to_choose_by_is_kept(
    lucky: ComparisonSettings, tmp_path: Path
) -> None:
    said: list[str] = []
    found = run_comparison(lucky, tmp_path / "out", said.append, isolated=False)
    write_comparison(found)
    rows = {row.name: row for row in found.rows}
    assert (rows["lucky"].seeds, rows["words"].seeds) == (4, 0)
    assert sum(line.startswith("words: learned") for line in said) == 1
    measured = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))["methods"]
    runs = measured["lucky"]["seeds"]
    assert [one["run"] for one in runs] == [2, 0, 1, 3]
    values = [one["metrics"]["accuracy"] for one in runs]
    assert len(set(values)) > 1
    metric = rows["lucky"].metrics["accuracy"]
    assert metric.value == pytest.approx(sum(values) / 4)
    assert metric.interval is not None
    assert "seeds" not in measured["words"]
    place = tmp_path / "out" / "methods" / "lucky"
    assert load_method(place).options.seed == 2
    assert json.loads((place / "result.json").read_text())["predictions"] == measured["lucky"]["predictions"]
    console = Console(width=200, record=True, file=StringIO())
    console.print(show_comparison(found))
    report = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for text in (console.export_text(), report):
        assert f"the mean of 4 seeds, from {min(values):.1%} to {max(values):.1%}" in text
        assert "the run kept is number 3, the best on the examples to choose by" in text
    assert "trained with 4 seeds each" in report


def test_the_interval_holds_the_chance_of_the_seed(lucky: ComparisonSettings, tmp_path: Path) -> None:
    several = run_comparison(lucky, tmp_path / "out", isolated=False)
    once = run_comparison(lucky.model_copy(update={"seeds": 1}), tmp_path / "once", isolated=False)
    wide, narrow = (
        next(row for row in found.rows if row.name == "lucky").metrics["accuracy"]
        for found in (several, once)
    )
    assert wide.interval is not None
    assert narrow.interval is not None
    assert wide.interval[1] - wide.interval[0] > narrow.interval[1] - narrow.interval[0]
    write_comparison(once)
    assert "not that of its seed" in (tmp_path / "once" / "report.html").read_text(encoding="utf-8")


def test_more_and_fewer_seeds_go_on_from_what_there_is(lucky: ComparisonSettings, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def compared(seeds: int) -> tuple[float, int, list[str]]:
        said: list[str] = []
        found = run_comparison(lucky.model_copy(update={"seeds": seeds}), out, said.append, isolated=False)
        seed = load_method(out / "methods" / "lucky").options.seed
        fitted = [line.partition(":")[0] for line in said if "learned" in line]
        return found.rows[-1].metrics["accuracy"].value, seed, fitted

    one = compared(1)
    assert one[1:] == (0, ["lucky", "words"])
    three = compared(3)
    assert three[1:] == (2, ["lucky+1", "lucky+2"])
    assert compared(4)[1:] == (2, ["lucky+3"])
    assert compared(1) == (one[0], 0, [])
    assert compared(3) == (three[0], 2, [])


def test_seeds_that_change_nothing_are_said(lucky: ComparisonSettings, tmp_path: Path) -> None:
    said: list[str] = []
    asked = lucky.model_copy(update={"methods": {"words": {}}})
    run_comparison(asked, tmp_path / "out", said.append, isolated=False)
    assert "`seeds` 4: none of these methods depends on its seed" in said


def test_a_seed_that_fails_is_said_and_left_out(
    lucky: ComparisonSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lucky, "failing", 2)
    found = run_comparison(lucky, tmp_path / "out", isolated=False)
    row = next(row for row in found.rows if row.name == "lucky")
    assert row.spread.startswith("the mean of 3 seeds")
    assert "one failed: RuntimeError: the loss is not a number" in row.spread
    assert load_method(tmp_path / "out" / "methods" / "lucky").options.seed == 1
    monkeypatch.setattr(Lucky, "failing", 0)
    found = run_comparison(lucky, tmp_path / "again", isolated=False)
    assert "not a number" in next(row for row in found.rows if row.name == "lucky").error


def seeded(random: np.random.Generator, hard_E: np.ndarray, runs: int, stream: int) -> Statistic:
    """A network that is right in 80% of all examples, by its seed in more or fewer of them."""

    def run(limit: float) -> Statistic:
        own_E = random.random(len(hard_E))
        at_E = np.where(random.random(len(hard_E)) < 0.5, hard_E, own_E)
        return mean((at_E < limit).astype(float))

    found = [run(float(limit)) for limit in 0.8 + 0.05 * random.standard_normal(runs)]
    return replace(found[0], others=tuple(found[1:]), stream=stream)


@pytest.mark.parametrize(("runs", "most"), [(1, None), (2, 0.05), (3, 0.05), (5, 0.05)])
def test_a_method_is_seldom_better_than_itself_with_other_seeds(runs: int, most: float | None) -> None:
    claimed, comparisons = 0, 100
    for number in range(comparisons):
        random = np.random.default_rng((number, runs))
        hard_E = random.random(150)
        one, other = (Resampled.of(seeded(random, hard_E, runs, stream)) for stream in (1, 2))
        claimed += difference(one, other).significant
    if most is None:  # the chance of the test examples alone explains too little
        assert claimed > 0.15 * comparisons
    else:
        assert claimed <= most * comparisons


def test_seeds_that_are_equal_bring_no_chance() -> None:
    right = mean((np.arange(50) < 40).astype(float))
    equal = replace(right, others=(right, right), stream=7)
    assert equal.metric().interval == pytest.approx(right.metric().interval)
    apart = replace(right, others=(mean((np.arange(50) < 30).astype(float)),), stream=7)
    worst_R = apart.resampled("worst")
    assert len(worst_R) == RESAMPLES
    assert 0 <= worst_R.min() <= worst_R.max() <= 1
