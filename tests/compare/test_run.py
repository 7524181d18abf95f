"""Comparisons of fakes: what is measured, what fails, what is resumed, what is refused."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import shutil
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from malmoi.compare import runner as run
from malmoi.compare.comparison import Comparison
from malmoi.compare.runner import run_comparison
from malmoi.compare.settings import ComparisonSettings, load_material, sample
from malmoi.compare.worker import MethodJob, attempt
from malmoi.core.errors import UserError
from malmoi.core.nouns import Example
from malmoi.methods.folder import load_method
from malmoi.serve.page.reports import Run, table_of
from malmoi.show.comparison_report import show_comparison, write_comparison
from malmoi.tasks.base import Task
from malmoi.util.threads import CoreTimes
from tests.compare.fakes import Interrupted, Words, write_reviews


def test_each_method_runs_in_its_own_process(
    settings: ComparisonSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "WORKER", ("-m", "tests.compare.fake_worker"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    settings = settings.model_copy(update={"methods": {"words": {}, "killed": {}}})
    said: list[str] = []
    found = run_comparison(settings, tmp_path / "out", said.append)
    words, killed = found.rows
    assert killed.error == "its process was killed (SIGKILL, most often for want of memory)"
    assert words.costs["train_peak_bytes"] > 50e6
    assert words.costs["predict_peak_bytes"] > 50e6
    assert any(line.startswith("words: learned ") for line in said)
    assert found.verdict.winner is words


def test_everything_is_measured(compared: Comparison) -> None:
    rows = {row.name: row for row in compared.rows}
    words, slow, usual, raises = (rows[name] for name in ("words", "slow", "usual", "raises"))
    assert compared.rows[-1] is raises
    assert raises.error == "RuntimeError: the loss is <not> a number at step 7"
    for row in (words, slow, usual):
        assert set(row.costs) == {
            "train_seconds", "train_cpu_seconds", "train_peak_bytes", "disk_bytes", "latency_p50_s",
            "latency_p95_s", "predictions_per_s", "predict_cpu_seconds_per_1000", "predict_peak_bytes",
            "cost_per_1000",
        }  # fmt: skip
        assert all(value > 0 for value in row.costs.values())
        assert row.costs["latency_p50_s"] <= row.costs["latency_p95_s"]
        assert row.cost == pytest.approx(1000 / row.costs["predictions_per_s"] / 3)
        assert row.metrics["accuracy"].interval is not None
    assert slow.costs["latency_p50_s"] >= 0.002
    assert words.metrics["accuracy"].value > usual.metrics["accuracy"].value
    assert compared.verdict.winner is words
    assert "Failed: raises" in compared.advice
    assert compared.verdict.against_best["usual"].significant


def test_long_predicting_says_how_far_it_is(compared: Comparison, tmp_path: Path) -> None:
    shutil.copytree(compared.out, tmp_path / "out")
    total = len(compared.material.test)
    said = {
        every_s: lines_of_predicting(MethodJob(tmp_path / "out", "slow", every_s=every_s))
        for every_s in (0, 99)
    }
    assert said[99] == [f"measuring on {total} examples"]
    assert said[0][0] == said[99][0]
    counts = [re.fullmatch(rf"(\d+) of {total} predictions, .+ left", line) for line in said[0][1:]]
    assert [int(found[1]) for found in counts if found] == list(range(10, total, 10))


def lines_of_predicting(job: MethodJob) -> list[str]:
    lines: list[str] = []
    attempt(job, "predict", lines.append)
    return lines


def test_the_winner_is_ready_to_use(compared: Comparison) -> None:
    winner = load_method(compared.winner_folder)
    assert winner.predict(["a lovely 의자"]).values == ["positive"]
    assert not (compared.winner_folder / "result.json").exists()


def test_the_curve_has_nested_parts(compared: Comparison) -> None:
    assert set(compared.curve) == {"words", "slow", "usual"}
    sizes = [size for size, _ in compared.curve["words"]]
    whole = len(compared.material.parts["train"])
    assert sizes == [round(0.1 * whole), round(0.3 * whole), whole]
    examples = [Example(str(number), "x") for number in range(50)]
    small, large = sample(examples, 5, 3), sample(examples, 15, 3)
    assert set(small) < set(large)
    assert large == sorted(large, key=lambda example: int(example.input))


def test_the_results_are_json(compared: Comparison) -> None:
    found = json.loads((compared.out / "results.json").read_text(encoding="utf-8"))
    assert found["winner"] == "words"
    assert found["advice"] == compared.advice
    assert found["methods"]["raises"]["error"].startswith("RuntimeError")
    assert found["sizes"] == {"train": 700, "valid": 100, "test": 100}
    assert len(found["methods"]["words"]["predictions"]) == 100
    low, high = found["methods"]["words"]["metrics"]["accuracy"]["interval"]
    assert low < found["methods"]["words"]["metrics"]["accuracy"]["value"] < high
    assert set(found["versions"]) >= {"malmoi", "python", "torch"}
    assert found["front"] == [row.name for row in compared.verdict.front]
    assert found["same_cost"] == 1.5
    assert found["hashes"] == compared.material.hashes()
    assert found["lead_of_the_best"]["usual"]["p"] < 0.05


def test_the_terminal_shows_every_method(compared: Comparison) -> None:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(show_comparison(compared))
    text = console.export_text()
    assert all(name in text for name in ("words", "slow", "usual", "failed: RuntimeError", "원"))
    assert compared.advice[:40] in text


@pytest.mark.parametrize(("others", "marked"), [(0.1, False), (0.9, True)])
def test_what_is_timed_beside_other_programs_is_marked(
    others: float, marked: bool, settings: ComparisonSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(100)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(
        CoreTimes, "now", lambda: CoreTimes(now := next(clock), used_s=(1.5 + others) * now, own_s=1.5 * now)
    )
    said: list[str] = []
    found = run_comparison(settings, tmp_path / "out", said.append, isolated=False)
    write_comparison(found)
    console = Console(width=160, record=True, file=StringIO())
    console.print(show_comparison(found))
    report = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for text in (console.export_text(), report, "\n".join(said), table_of(Run("one", tmp_path / "out"))):
        assert ("timed while other programs kept 0.9 cores busy" in text or "ms*" in text) is marked
    assert all(("busy_cores" in row.costs) is marked for row in found.rows)
    assert all(bool(row.note) is marked for row in found.rows)


def test_what_was_not_read_is_noted(
    settings: ComparisonSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what it learned from and of what it is measured on; of the cores' time, too, where there is room."""

    def cut_note(_: Words, inputs: Sequence[str], *targets: Sequence[str]) -> str:
        return f"{len(inputs)} {'learned ' * len(targets)}texts cut at 7 words"

    monkeypatch.setattr(Words, "cut_note", cut_note)
    said: list[str] = []
    settings = settings.model_copy(update={"methods": {"words": {}}})
    found = run_comparison(settings, tmp_path / "out", said.append, isolated=False)
    write_comparison(found)
    train, test = (len(found.material.parts[name]) for name in ("train", "test"))
    first = f"of what it learned from, {train} learned texts cut at 7 words"
    note = f"{first}; {test} texts cut at 7 words"
    assert found.rows[0].note == note
    assert {f"words: {first}", f"words: {test} texts cut at 7 words"} <= {*said}
    report = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert note in report
    assert "<small>cores " in report
    shown = {}
    for width in (80, 160):
        console = Console(width=width, record=True, file=StringIO())
        console.print(show_comparison(found, width))
        shown[width] = "its cores" in console.export_text()
    assert shown == {80: False, 160: True}
    card = (found.winner_folder / "README.md").read_text(encoding="utf-8")
    assert "of all cores together" in card


def test_it_goes_on_where_it_stopped(
    settings: ComparisonSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings.model_copy(update={"methods": {"words": {}, "interrupted": {}, "usual": {}}})
    out, said = tmp_path / "out", list[str]()
    with monkeypatch.context() as patch:
        patch.setattr(Interrupted, "planned", 123)
        with pytest.raises(KeyboardInterrupt):
            run_comparison(settings, out, isolated=False)
    assert (out / "methods" / "words" / "result.json").exists()
    monkeypatch.setattr(Interrupted, "armed", False)
    found = run_comparison(settings, out, said.append, isolated=False)
    assert "words: measured before" in said
    assert not any(row.error for row in found.rows)
    report = json.loads((out / "methods" / "interrupted" / "result.json").read_text())["report"]
    assert report["steps"] == 123  # what was calibrated before the interruption
    before = (out / "results.json").read_text(encoding="utf-8")
    run_comparison(settings, out, isolated=False)
    assert (out / "results.json").read_text(encoding="utf-8") == before


def test_a_deleted_method_is_trained_with_its_steps(
    settings: ComparisonSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Words, "planned", 77)
        run_comparison(settings, tmp_path / "out", isolated=False)
    shutil.rmtree(tmp_path / "out" / "methods" / "words")
    run_comparison(settings, tmp_path / "out", isolated=False)
    found = json.loads((tmp_path / "out" / "methods" / "words" / "result.json").read_text())
    assert found["report"]["steps"] == 77


def test_what_failed_is_tried_again(settings: ComparisonSettings, tmp_path: Path) -> None:
    settings = settings.model_copy(update={"methods": {"forgets": {}, "raises": {}}})
    said: list[str] = []
    for _ in range(2):
        found = run_comparison(settings, tmp_path / "out", said.append, isolated=False)
    assert sum(line.startswith("forgets: learned") for line in said) == 1  # its training had not failed
    assert said.count("raises: it begins well") == 2
    assert sum(line.startswith("forgets: failed: ") for line in said) == 2
    assert found.verdict.winner is None
    assert not found.winner_folder.exists()
    assert found.advice.startswith("No method can be compared by accuracy: forgets (")
    write_comparison(found)
    assert "failed: " in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_judging_may_change_in_a_used_folder(settings: ComparisonSettings, tmp_path: Path) -> None:
    out, said = tmp_path / "out", list[str]()
    run_comparison(settings, out, isolated=False)
    cheap = settings.model_copy(update={"good_enough": ("accuracy", 0.4), "price_per_hour": 2.0})
    found = run_comparison(cheap, out, said.append, isolated=False)
    assert said[-2:] == ["words: measured before", "usual: measured before"]
    assert "is shown to be good enough" in found.advice
    wanted = settings.model_copy(update={"good_enough": ("accuracy", 1.0)})
    assert run_comparison(wanted, out, isolated=False).advice.startswith("No method reaches")
    assert not (out / "winner").exists()


def test_groups_are_held_out_whole_and_widen_the_intervals(
    settings: ComparisonSettings, tmp_path: Path
) -> None:
    rows = [
        {"text": f"{label} soup number {n} of house {n % 12}", "label": label, "house": n % 12}
        for n in range(120) for label in ("good", "bad")
    ]  # fmt: skip
    settings.train.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    asked = settings.model_copy(update={"methods": {"words": {}}, "fields": {"group": "house"}})
    found = run_comparison(asked, tmp_path / "out", isolated=False)
    houses = {part: {one.group for one in found.material.parts[part]} for part in ("train", "test")}
    assert not houses["train"] & houses["test"]
    assert any("held out by whole groups" in note for note in found.material.notes)
    alone = run_comparison(
        settings.model_copy(update={"methods": {"words": {}}}), tmp_path / "alone", isolated=False
    )
    assert alone.material.groups_E is None
    assert any("of new ones figures are often lower" in note for note in alone.material.notes)
    sizes = [len(one.material.test) for one in (found, alone)]
    wide, narrow = (one.rows[0].metrics["accuracy"].interval or (0, 0) for one in (found, alone))
    assert wide[1] - wide[0] > 1.5 * (narrow[1] - narrow[0]) * (sizes[1] / sizes[0]) ** 0.5
    few = [row | {"house": row["house"] % 3} for row in rows]
    settings.train.write_text("\n".join(map(json.dumps, few)), encoding="utf-8")
    with pytest.raises(UserError, match="only 3 groups, too few to hold some out; give a file to test on"):
        run_comparison(asked, tmp_path / "few", isolated=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"seed": 1}, "other seed"), ({"budget_seconds": 5.0}, "other budget_seconds"),
     ({"methods": {"words": {"letters": 3}}}, "other options of words")],
)  # fmt: skip
def test_other_settings_need_another_folder(
    settings: ComparisonSettings, tmp_path: Path, change: dict, words: str
) -> None:
    run_comparison(settings, tmp_path / "out", isolated=False)
    with pytest.raises(UserError, match=f"{words}.*choose another `out`"):
        run_comparison(settings.model_copy(update=change), tmp_path / "out", isolated=False)


def test_other_data_need_another_folder(settings: ComparisonSettings, tmp_path: Path) -> None:
    run_comparison(settings, tmp_path / "out", isolated=False)
    write_reviews(settings.train, 121)
    with pytest.raises(UserError, match="train data"):
        run_comparison(settings, tmp_path / "out", isolated=False)


def test_mistakes_are_said_before_training(settings: ComparisonSettings, tmp_path: Path) -> None:
    out, three = tmp_path / "out", tmp_path / "three.jsonl"
    rows = (
        {"text": f"{label} soup {n}", "label": label} for n in range(20) for label in ("good", "bad", "so")
    )
    three.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    for change, words in (
        ({"good_enough": ("acuracy", 0.9)}, "did you mean 'accuracy'"),
        ({"good_enough": ("accuracy", 90)}, r"accuracy=90: .* from 0 to 1; write 0\.9 or 90%"),
        ({"good_enough": ("accuracy", 200)}, "goes from 0 to 1$"),
        ({"good_enough": ("accuracy", -1.0)}, "goes from 0 to 1$"),
        ({"good_enough": ("macro_f1", math.nan)}, "goes from 0 to 1$"),
        ({"good_enough": ("accuracy", 0.9), "margin": 0.1}, "give one of them"),
        ({"fields": {"group": "author"}}, 'no "author" to group by'),
        ({"methods": {"wurds": {}}}, "no method 'wurds'"),
        ({"methods": {"words": {"leters": 3}}}, "leters"),
        ({"train": tmp_path / "missing.jsonl"}, "missing.jsonl"),
        ({"train": three, "methods": {"words": {}, "tfidf": {"ratios": True}}}, "ratios are for two labels"),
    ):
        with pytest.raises(UserError, match=words):
            run_comparison(settings.model_copy(update=change), out, isolated=False)
    assert not out.exists()
    with pytest.raises(UserError, match="something else"):
        run_comparison(settings, tmp_path, isolated=False)


def test_the_limit_draws_test_examples(settings: ComparisonSettings) -> None:
    whole = load_material(settings)
    limited = load_material(settings.model_copy(update={"test_limit": 5}))
    assert len(limited.test) == 5
    assert [example for example in whole.test if example in limited.test] == limited.test
    assert any("5 of 24 test examples" in note for note in limited.notes)
    assert isinstance(whole.task, Task)


def test_a_method_may_have_a_budget_of_its_own(settings: ComparisonSettings, tmp_path: Path) -> None:
    """The one with a moment leaves out what there is no time for; the other leaves out nothing."""
    asked = settings.model_copy(
        update={"methods": {"tfidf": {}, "tfidf:soon": {}}, "budgets": {"tfidf:soon": 1e-6}}
    )
    found = run_comparison(asked, tmp_path / "out", isolated=False)
    notes = {row.name: row.note for row in found.rows}
    assert "left no time for" in notes["tfidf:soon"]
    assert "left no time for" not in notes["tfidf"]
