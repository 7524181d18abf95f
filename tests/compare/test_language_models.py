"""Language models as columns of a comparison: variants of a method, the few-shot curve, from the terminal."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from malmoi.compare.comparison import Comparison
from malmoi.compare.runner import run_comparison
from malmoi.compare.settings import ComparisonSettings, parse_shots
from malmoi.core.errors import UserError
from malmoi.methods.folder import load_report
from malmoi.show.comparison_report import show_comparison, write_comparison
from tests.cli import test_cli
from tests.cli.test_cli import Run, fails
from tests.compare.fakes import write_reviews
from tests.methods.tiny import write_model

run = test_cli.run
FAST = {"epochs": 0.2, "evaluations": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A foundation model, a chat model, and reviews in two languages."""
    folder = tmp_path_factory.mktemp("language")
    write_model(folder / "lm")
    write_model(folder / "chat", chat=True)
    write_reviews(folder / "reviews.jsonl")
    return folder


def settings_for(folder: Path, **change: object) -> ComparisonSettings:
    lm, chat = str(folder / "lm"), str(folder / "chat")
    methods = {
        "tfidf": {}, "prompted": {"model": lm, "calibrate": False},
        "prompted:one": {"model": chat, "shots": 1},
        "finetuned": {"model": lm} | FAST,
    }  # fmt: skip
    return ComparisonSettings(
        task="classification", train=folder / "reviews.jsonl", methods=methods, measure_seconds=0.001,
        test_limit=8, shots_curve=(0, 1, 4),
    ).model_copy(update=change)  # fmt: skip


@pytest.fixture(scope="module")
def found(folder: Path) -> Comparison:
    return run_comparison(settings_for(folder), folder / "out", isolated=False)


def test_every_variant_is_a_row(found: Comparison) -> None:
    rows = {row.name: row for row in found.rows}
    assert {name: row.family for name, row in rows.items()} == {
        "tfidf": "traditional", "prompted": "prompted", "prompted:one": "prompted", "finetuned": "fine-tuned",
    }  # fmt: skip
    assert not any(row.error for row in found.rows)
    facts = load_report(found.out / "methods" / "prompted-one").facts
    assert (facts["chat"], facts["shots"]) == (True, 1)
    assert rows["prompted:one"].costs["disk_bytes"] > 100_000  # with its model, which lies elsewhere
    assert rows["finetuned"].costs["disk_bytes"] > 100_000


def test_the_curve_is_of_the_prompted_methods(found: Comparison) -> None:
    assert set(found.shots_curve) == {"prompted", "prompted:one"}
    assert all([count for count, _ in points] == [0, 1, 4] for points in found.shots_curve.values())
    rows = {row.name: row for row in found.rows}
    assert found.shots_curve["prompted"][2][1] == rows["prompted"].metrics["accuracy"]  # not measured twice
    assert found.shots_curve["prompted:one"][1][1] == rows["prompted:one"].metrics["accuracy"]
    measured = {path.name for path in (found.out / "curve").iterdir()}
    assert measured == {
        "prompted-0-shots",
        "prompted-1-shots",
        "prompted-one-0-shots",
        "prompted-one-4-shots",
    }
    saved = json.loads((found.out / "results.json").read_text(encoding="utf-8"))
    value = saved["shots_curve"]["prompted"][0][1]
    assert value["interval"][0] <= value["value"] <= value["interval"][1]
    assert load_report(found.out / "curve" / "prompted-1-shots").facts["shots"] == 1
    assert saved["shots_notes"] == []  # all shots fit


def test_the_curve_is_shown(found: Comparison) -> None:
    write_comparison(found)
    page = (found.out / "report.html").read_text(encoding="utf-8")
    assert "With solved examples in the prompt" in page
    assert page.count("<svg") == 3  # the curve, quality against cost, how sure they are
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(show_comparison(found))
    text = console.export_text()
    assert re.search(r"accuracy with shots +0 +1 +4\n", text)
    assert re.search(r"prompted:one +\S+% +\S+% +\S+%", text)


def test_another_curve_goes_on_in_the_same_folder(found: Comparison, folder: Path) -> None:
    said: list[str] = []
    more = run_comparison(settings_for(folder, shots_curve=(0, 2)), found.out, said.append, isolated=False)
    assert "prompted-0-shots: measured before" in said
    assert "prompted-2-shots: done" in said
    assert [count for count, _ in more.shots_curve["prompted"]] == [0, 2]


def test_a_curve_needs_a_prompted_method(folder: Path) -> None:
    for settings in (settings_for(folder, methods={"tfidf": {}}),):
        with pytest.raises(UserError, match="`shots_curve` is of the prompted method, which is not compared"):
            run_comparison(settings, folder / "none", isolated=False)
    assert not (folder / "none").exists()
    assert parse_shots("4, 0,1,4") == (0, 1, 4)
    for wrong in ("", "1;2", "-1", "1.5", "two"):
        with pytest.raises(UserError, match="0,1,2,4,8"):
            parse_shots(wrong)


def test_a_missing_model_is_a_row_with_its_reason(folder: Path) -> None:
    methods = {"tfidf": {}, "prompted": {"model": str(folder / "nowhere")}}
    settings = settings_for(folder, methods=methods, shots_curve=(0, 1))
    found = run_comparison(settings, folder / "missing", isolated=False)
    assert "nowhere is not a folder" in found.rows[-1].error
    assert found.shots_curve == {}


def test_fitting_and_asking_from_the_terminal(run: Run, folder: Path) -> None:
    fit = ("fit", "classification", "--train", folder / "reviews.jsonl", "--out", folder / "asked")
    code, out, errors = run(*fit, "--method", "prompted", "--model", folder / "chat", "--set", "shots=1")
    assert code == 0, errors
    assert "a chat model, asked with 1 shot" in out
    code, out, _ = run("predict", folder / "asked", "따뜻한 의자")
    assert out.split()[0] in ("positive", "negative")


def test_wrong_commands_are_one_line(run: Run, folder: Path) -> None:
    data = ("--train", folder / "reviews.jsonl", "--out", folder / "wrong")
    fit, compare = ("fit", "classification", *data), ("compare", "classification", *data)
    fails(run(*fit, "--method", "prompted"), "give the folder of a language model: --model DIR")
    fails(run(*fit, "--method", "tfidf", "--model", folder / "lm"), "none of tfidf needs a language model")
    fails(run(*fit, "--method", "all", "--model", folder / "lm"), "no method 'all'")
    fails(run(*compare, "--methods", "tfidf", "--shots-curve", "0,1"), "give --model DIR")
    fails(run(*compare, "--shots-curve", "many"), "0,1,2,4,8")
    fails(run(*compare, "--methods", "prompted:a b"), "after the colon")
    assert not (folder / "wrong").exists()


def test_shots_that_do_not_fit_are_reported(folder: Path) -> None:
    write_model(folder / "short", context=160)
    methods = {"prompted": {"model": str(folder / "short"), "shots": 0, "calibrate": False}}
    settings = settings_for(folder, methods=methods, shots_curve=(0, 6))
    found = run_comparison(settings, folder / "cut", isolated=False)
    (note,) = found.shots_notes
    assert note.startswith("prompted with 6 shots: to fit into ")
    write_comparison(found)
    assert note in (folder / "cut" / "report.html").read_text(encoding="utf-8")
