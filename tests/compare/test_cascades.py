"""A cascade: who answers what, what it promises, and that its folder is one model."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
from typer.testing import CliRunner

from malmoi.cli.commands import app
from malmoi.compare.cascades import CascadeReport, build_cascade, promised
from malmoi.core.errors import UserError
from malmoi.core.nouns import Example
from malmoi.methods.cascade import Cascade
from malmoi.methods.folder import load_method, save_method
from malmoi.methods.registry import make_method
from malmoi.methods.use import LoadedMethod
from malmoi.serve.catalogue import open_catalogue
from malmoi.tasks import make_task
from tests.serve.running import running

TASK = make_task("classification")
WORDS = {"good": ("fine", "warm", "bright"), "bad": ("dull", "cold", "broken")}


def examples(count: int, seed: int) -> list[Example[str, str]]:
    """A third of the texts say nothing of their label."""
    random = Random(seed)
    found: list[Example[str, str]] = []
    while len(found) < count:
        label = random.choice(["good", "bad"])
        word = random.choice(WORDS[label]) if random.random() < 2 / 3 else "plain"
        found.append(Example(f"The {random.choice(['door', 'soup', 'road'])} {len(found)} was {word}", label))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sure method, one that is the same but knows the plain ones too, and labelled examples of others."""
    folder = tmp_path_factory.mktemp("cascade")
    for name, seed in (("cheap", 0), ("strong", 1)):
        method = make_method("tfidf", TASK)
        method.fit(examples(300, seed), examples(100, seed + 10))
        save_method(folder / name, method)
    rows = "".join(json.dumps(TASK.row(one)) + "\n" for one in examples(500, 20))
    (folder / "shown.jsonl").write_text(rows, encoding="utf-8")
    build(folder, folder / "both")
    return folder


def build(folder: Path, out: Path, most: float = 0.05, strong: str | None = "strong") -> CascadeReport:
    named = strong and str(folder / strong)
    return build_cascade(TASK, str(folder / "cheap"), named, folder / "shown.jsonl", out, most)


@pytest.fixture
def both(folder: Path) -> Cascade:
    found = load_method(folder / "both")
    assert isinstance(found, Cascade)
    return found


def test_the_cheap_one_answers_where_it_is_sure(both: Cascade) -> None:
    texts = ["The soup 1 was fine", "The road 7 was plain"]
    found = both.predict_with_confidence(texts)
    assert both.strong is not None
    assert found.passed_on == [False, True]
    assert found.values == [both.cheap.predict(texts).values[0], both.strong.predict(texts).values[1]]
    assert found.values == both.predict(texts).values


def test_what_it_reports_is_what_it_does(folder: Path, tmp_path: Path) -> None:
    report = build(folder, tmp_path / "again")
    shown = report.promise
    assert 0.5 < shown.answered / shown.count < 0.8
    assert shown.wrong / shown.answered <= shown.most
    assert report.both.right is not None
    assert "tfidf answers" in promised(report)
    assert "at most 5.0% of these answers are wrong" in promised(report)
    assert (tmp_path / "again" / "README.md").read_text(encoding="utf-8").count(promised(report)) == 1
    loose, strict = report.others[0.1], report.others[0.01]
    assert loose is not None
    assert strict is None or strict.answered <= loose.answered


def test_the_rest_may_be_left_to_a_person(folder: Path, tmp_path: Path) -> None:
    report = build(folder, tmp_path / "person", strong=None)
    assert report.names == ("tfidf", "a person")
    assert report.saved_s is None
    loaded = LoadedMethod(tmp_path / "person")
    assert loaded.predict(["The soup 1 was fine", "The road 7 was plain"]) == ["good", None]


@pytest.mark.parametrize(
    ("most", "strong", "words"),
    [
        (1e-6, "strong", "do not show that at most 0.0%"),
        (0.05, "shown.jsonl", "neither the folder of a method or a model"),
        (2.0, "strong", "max_error"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(
    folder: Path, tmp_path: Path, most: float, strong: str, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        build(folder, tmp_path / "none", most, strong)
    assert not (tmp_path / "none").exists()


def test_a_method_that_does_not_know_how_sure_it_is_is_refused(folder: Path, tmp_path: Path) -> None:
    method = make_method("tfidf", TASK)
    method.fit(examples(60, 3), ())
    save_method(tmp_path / "cheap", method)
    with pytest.raises(UserError, match="does not know how sure it is; fit it again"):
        build_cascade(TASK, str(tmp_path / "cheap"), None, folder / "shown.jsonl", tmp_path / "out", 0.05)


def test_it_is_served_as_one_and_counted(folder: Path) -> None:
    inputs = ["The soup 1 was fine", "The road 7 was plain", "The door 3 was dull"]
    with running(open_catalogue([folder / "both"])) as served:
        found = served.post("/v1/tasks/classification", {"inputs": inputs}).json()["predictions"]
        metrics = served.get("/metrics").text
        surer = served.post("/v1/tasks/classification", {"inputs": inputs, "min_confidence": 0.99}).json()
    assert [one["passed_on"] for one in found] == [False, True, False]
    assert found[0]["confidence"] == max(found[0]["probabilities"].values())
    assert surer["predictions"][1]["prediction"] is None
    counts = [line for line in metrics.splitlines() if line.startswith("malmoi_cascade_answers_total{")]
    assert sorted(line.rpartition(" ")[2] for line in counts) == ["1.0", "2.0"]


def test_the_command_says_what_it_promises(folder: Path, tmp_path: Path) -> None:
    options = [
        "--cheap",
        folder / "cheap",
        "--data",
        folder / "shown.jsonl",
        "--out",
        tmp_path / "c",
        "--json",
    ]
    found = CliRunner().invoke(app, ["cascade", "classification", *map(str, options)])
    shown = json.loads(found.stdout)
    assert shown["share_answered"] == pytest.approx(shown["promise"]["answered"] / 500)
