"""A teacher labels, a student learns, both are measured; on the sample world, without a network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from malmoi.cli.words import app
from malmoi.compare.distill import Distilled, DistillSettings, distill
from malmoi.core.errors import UserError
from malmoi.methods.folder import load_method, save_method
from malmoi.methods.registry import make_method
from malmoi.show.comparison_report import write_comparison
from malmoi.tasks import TASKS, make_task
from malmoi.world import documents
from tests.methods.chat_server import ChatServer, error, serving
from tests.methods.tiny import fitted_to, write_model

Rows = list[dict[str, Any]]
INPUTS = {"classification": "text", "multi-label": "text", "ner": "text", "summarization": "document"}


@lru_cache
def world(task: str) -> Rows:
    made, count = make_task(task), 900 if task == "classification" else 160
    return [row for document in documents(count) for row in made.samples(document)]


def rows(task: str, count: int, start: int = 0) -> Rows:
    """Half of them Korean."""
    return world(task)[start : start + count]


def write(path: Path, found: Rows) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found), encoding="utf-8")
    return path


def read(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def teacher(folder: Path, task: str, method: str, count: int = 80) -> Path:
    made = make_task(task)
    examples = made.load(write(folder / "known.jsonl", rows(task, count)))
    save_method(folder / "teacher", fitted_to(make_method(method, made), examples[:-10], examples[-10:]))
    return folder / "teacher"


def unlabelled(folder: Path, task: str, count: int = 60, start: int = 100) -> Path:
    found = [{INPUTS[task]: row[INPUTS[task]]} for row in rows(task, count, start)]
    return write(folder / "raw.jsonl", found)


def run(folder: Path, task: str, student: str, **settings: Any) -> Distilled:
    given = {"unlabelled": folder / "raw.jsonl", "task": task, "student": student, "measure_seconds": 0.01}
    given |= settings
    return distill(DistillSettings(**given), folder / "out", isolated=False)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taught")
    teacher(folder, "classification", "tfidf")
    return folder


@pytest.fixture
def reviews(tmp_path: Path, taught: Path) -> Path:
    """A folder with a teacher and unlabelled reviews, English and Korean."""
    shutil.copytree(taught, tmp_path, dirs_exist_ok=True)
    unlabelled(tmp_path, "classification")
    return tmp_path


def test_a_small_model_learns_what_a_larger_one_says(reviews: Path) -> None:
    test = write(reviews / "test.jsonl", rows("classification", 36, 160))
    found = run(reviews, "classification", "lexicon", teacher=str(reviews / "teacher"), test=test)
    task, method = make_task("classification"), load_method(reviews / "teacher")
    labels = read(reviews / "out" / "labelled.jsonl")
    assert len(labels) == found.num_labelled == 60
    assert [row["label"] for row in labels] == method.predict([row["text"] for row in labels]).values
    assert len(task.load(reviews / "out" / "labelled.jsonl")) == 60
    table = {row.name: row for row in found.comparison.rows}
    assert set(table) == {"tfidf:teacher", "lexicon"}
    assert found.comparison.material.test == task.load(test)
    assert table["tfidf:teacher"].costs["train_seconds"] == 0
    assert table["tfidf:teacher"].predictions == method.predict([row["text"] for row in read(test)]).values
    share = table["lexicon"].metrics["accuracy"].value / table["tfidf:teacher"].metrics["accuracy"].value
    assert found.sentence.startswith(f"lexicon keeps {share:.1%} [")
    assert "of the accuracy of tfidf:teacher" in found.sentence
    assert "36 examples labelled by people" in found.sentence
    for word in ("faster", "of memory instead of", "predictions cost"):
        assert word in found.sentence or (word == "faster" and "slower" in found.sentence)
    write_comparison(found.comparison)
    page = (reviews / "out" / "comparison" / "report.html").read_text(encoding="utf-8")
    assert found.sentence[:40] in page
    assert "labelled by the teacher: 60 of 60 inputs" in page
    student = load_method(found.student)
    assert student.name == "lexicon"
    assert student.predict([row["text"] for row in read(test)]).values == table["lexicon"].predictions


def test_without_people_it_is_agreement_and_says_so(reviews: Path) -> None:
    found = run(reviews, "classification", "lexicon", teacher=str(reviews / "teacher"))
    assert "lexicon agrees with tfidf:teacher by accuracy" in found.sentence
    assert "people have labelled none" in found.sentence
    old = next(row for row in found.comparison.rows if row.name == "tfidf:teacher")
    assert old.metrics["accuracy"].value == 1


def test_people_and_teacher_together(reviews: Path) -> None:
    people = rows("classification", 40, 90)  # the last thirty are among the unlabelled
    train = write(reviews / "train.jsonl", people)
    found = run(reviews, "classification", "lexicon", teacher=str(reviews / "teacher"), train=train)
    parts = found.comparison.material.parts
    assert sum(map(len, parts.values())) == 40 + 30
    texts = {row["text"] for row in people}
    assert {example.input for example in parts["test"]} < texts
    assert "labelled by people" in found.sentence
    assert not texts & {row["text"] for row in read(reviews / "out" / "labelled.jsonl")}
    assert any("labelled by people already: 30 inputs" in note for note in found.comparison.material.notes)


def test_only_what_the_teacher_is_sure_of_is_kept(reviews: Path) -> None:
    texts = [row["text"] for row in read(reviews / "raw.jsonl")]
    shares = load_method(reviews / "teacher").probabilities(texts) or ()
    middle = sorted(max(share.values()) for share in shares)[20]
    given = {"teacher": str(reviews / "teacher"), "keep_above": middle}
    found = run(reviews, "classification", "lexicon", **given)
    assert found.num_labelled == 39
    assert any(note.startswith("left out: 21 inputs") for note in found.comparison.material.notes)


def test_entities_from_one_tagger_to_another(tmp_path: Path) -> None:
    teacher(tmp_path, "ner", "crf", 40)
    unlabelled(tmp_path, "ner", 40)
    test = write(tmp_path / "test.jsonl", rows("ner", 20, 140))
    found = run(tmp_path, "ner", "crf", teacher=str(tmp_path / "teacher"), test=test)
    assert {row.name for row in found.comparison.rows} == {"crf:teacher", "crf"}
    assert "of the entity f1 of crf:teacher" in found.sentence
    assert read(tmp_path / "out" / "labelled.jsonl")[0]["entities"][0]["text"]


def test_it_goes_on_where_it_stopped(reviews: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = str(reviews / "teacher")
    first = run(reviews, "classification", "lexicon", teacher=name)
    answers = reviews / "out" / "answers.jsonl"
    whole = answers.read_bytes()
    answers.write_bytes(whole[: len(whole) // 2])  # as if it had been killed in the middle of a line
    asked: list[int] = []
    plain = type(load_method(reviews / "teacher")).probabilities
    monkeypatch.setattr(
        "malmoi.compare.distill._labels",
        lambda method, values: asked.append(len(values)) or _labels(plain, method, values),
    )
    assert run(reviews, "classification", "lexicon", teacher=name).sentence == first.sentence
    assert answers.read_bytes() == whole
    assert 0 < sum(asked) < 60


def _labels(probabilities: Any, method: Any, values: Any) -> Rows:
    best = [max(share.items(), key=lambda item: item[1]) for share in probabilities(method, values)]
    return [{"answer": label, "sure": share} for label, share in best]


# ---- a teacher that is asked in words


def remote(server: ChatServer, folder: Path, **more: Any) -> dict[str, Any]:
    options = {"base_url": server.url, "model": "m", "cache": str(folder / "cache"), "retries": 0}
    return {"teacher": "remote", "teacher_options": options | more}


def sentiment(text: str, number: int) -> str:
    del number
    return next(row["label"] for row in world("classification") if row["text"] in text)


LABELS = ("mixed", "negative", "positive")


def test_a_remote_teacher(tmp_path: Path) -> None:
    unlabelled(tmp_path, "classification", 40)
    test = write(tmp_path / "test.jsonl", rows("classification", 20, 160))
    with serving(sentiment) as server:
        options = remote(server, tmp_path, price_in=1.0, price_out=1.0, currency="USD")
        given = {"labels": LABELS, "test": test} | options
        found = run(tmp_path, "classification", "lexicon", **given)
        assert len(server.requests) == 60  # each input and each test input once
        table = {row.name: row for row in found.comparison.rows}
        assert table["remote:teacher"].metrics["accuracy"].value == 1
        assert "those of the teacher are paid with " in found.sentence
        assert "USD" in found.sentence
        again = run(tmp_path, "classification", "lexicon", **given)
        assert again.sentence == found.sentence
        assert len(server.requests) == 60


def test_money_against_money(tmp_path: Path) -> None:
    unlabelled(tmp_path, "classification", 40)
    with serving(sentiment) as server:
        options = remote(server, tmp_path, price_in=1000.0, price_out=1000.0, currency="USD")
        found = run(tmp_path, "classification", "lexicon", labels=LABELS, **options,
                    price_per_hour=1.0, currency="USD")  # fmt: skip
        table = {row.name: row for row in found.comparison.rows}
        assert table["remote:teacher"].cost == table["remote:teacher"].costs["price_per_1000"]
        assert table["lexicon"].cost < table["remote:teacher"].cost
        costs, num_requests = table["remote:teacher"].costs, len(server.requests)
        options["teacher_options"] |= {"price_in": 2000.0, "price_out": 2000.0, "concurrency": 2}
        found = run(tmp_path, "classification", "lexicon", labels=LABELS, **options,
                    price_per_hour=1.0, currency="USD")  # fmt: skip
        again = next(row.costs for row in found.comparison.rows if row.name == "remote:teacher")
        assert again["price_per_1000"] == pytest.approx(2 * costs["price_per_1000"])
        assert again["predictions_per_s"] == pytest.approx(costs["predictions_per_s"] / 4)
        assert len(server.requests) == num_requests  # answers are the same, so none is paid again
        with pytest.raises(UserError, match=r"remote:teacher.* in USD.* in 원"):
            run(tmp_path, "classification", "lexicon", labels=LABELS, **options,
                price_per_hour=1.0, currency="원")  # fmt: skip


def test_a_higher_limit_goes_on(tmp_path: Path) -> None:
    unlabelled(tmp_path, "classification", 40)
    with serving(sentiment) as server:
        prices = {"price_in": 100.0, "price_out": 100.0}
        given = {"labels": LABELS}
        with pytest.raises(UserError, match="spend_limit"):
            run(tmp_path, "classification", "lexicon", **given,
                **remote(server, tmp_path, **prices, spend_limit=0.1))  # fmt: skip
        asked = len(server.requests)
        run(tmp_path, "classification", "lexicon", **given,
            **remote(server, tmp_path, **prices, spend_limit=9.0))  # fmt: skip
        assert 0 < asked < 40 == len(server.requests)


def test_answers_that_did_not_come_are_asked_for_again(tmp_path: Path) -> None:
    unlabelled(tmp_path, "classification", 40)
    lost = {row["text"] for row in read(tmp_path / "raw.jsonl")[5:8]}

    def script(text: str, number: int) -> Any:
        return error(400, "later") if any(one in text for one in lost) else sentiment(text, number)

    with serving(script) as server:
        given = {"labels": LABELS} | remote(server, tmp_path)
        counts = [run(tmp_path, "classification", "lexicon", **given).num_labelled for _ in range(2)]
        lost.pop()
        counts += [run(tmp_path, "classification", "lexicon", **given).num_labelled]
        lost.clear()
        found = run(tmp_path, "classification", "lexicon", **given)
        asked = len(server.requests)
        assert run(tmp_path, "classification", "lexicon", **given).sentence == found.sentence
        assert len(server.requests) == asked
    assert [*counts, found.num_labelled] == [37, 37, 38, 40]
    parts = found.comparison.material.parts
    assert sum(map(len, parts.values())) == 40  # the student has learned from all of them


def test_answers_that_cannot_be_used_are_left_out(tmp_path: Path) -> None:
    unlabelled(tmp_path, "summarization", 40)

    def script(text: str, number: int) -> Any:
        return (f"Short: {text[-30:]}", " ", error(400, "too long"), "짧게")[number % 4]

    with serving(script) as server:
        found = run(tmp_path, "summarization", "lead", **remote(server, tmp_path))
    assert found.num_labelled == 20
    notes = found.comparison.material.notes
    assert "left out: 20 inputs that the teacher has no usable answer to" in notes


REPLIES: dict[str, tuple[str, str]] = {
    "classification": ("good", "lexicon"), "multi-label": ('["LOC", "other"]', "lexicon"),
    "ner": ('[{"text": "강", "label": "LOC"}]', "crf"),
    "translation": ("a river", "ibm1"), "completion": (" and so on, 그리고", "ngram"),
    "summarization": ("강", "lead"), "question-answering": ("the river", "sentence"),
    "chat": ("네.", "retrieval"),
}  # fmt: skip


def value_of(task: str, number: int) -> dict[str, Any]:
    if task == "question-answering":
        return {"question": f"{number}?", "context": f"{number} is on the river."}
    if task == "chat":
        return {"messages": [{"role": "user", "content": f"{number}?"}]}
    return {next(iter(make_task(task).roles)): f"{number} 강 stands"}


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_written_as_it_is_read(task: str, tmp_path: Path) -> None:
    write(tmp_path / "raw.jsonl", [value_of(task, number) for number in range(30)])
    reply, student = REPLIES[task]
    with serving(lambda *_: reply) as server:
        found = run(tmp_path, task, student, labels=("LOC", "good"), **remote(server, tmp_path))
    assert found.num_labelled == 30
    assert not [row.error for row in found.comparison.rows if row.family == "remote" and row.error]
    assert len(make_task(task).load(tmp_path / "out" / "labelled.jsonl")) == 30


def test_a_teacher_of_sets_is_as_sure_as_of_its_least_sure_label(tmp_path: Path) -> None:
    teacher(tmp_path, "multi-label", "tfidf")
    unlabelled(tmp_path, "multi-label", 40)
    found = run(tmp_path, "multi-label", "lexicon", teacher=str(tmp_path / "teacher"), keep_above=0.6)
    method = load_method(tmp_path / "teacher")
    kept = {row["text"]: tuple(row["labels"]) for row in read(tmp_path / "out" / "labelled.jsonl")}
    inputs = [row["text"] for row in read(tmp_path / "raw.jsonl")]
    shares, answers = method.probabilities(inputs) or [], method.predict(inputs).values
    sure = [all(abs(one - 0.5) > 0.1 for one in share.values()) for share in shares]
    assert 0 < sum(sure) < len(sure)
    wanted = {text for text, is_sure in zip(inputs, sure, strict=True) if is_sure}
    assert kept == {text: it for text, it in zip(inputs, answers, strict=True) if text in wanted}
    assert found.num_labelled == len(kept)


def test_a_language_model_is_asked_without_any_example(tmp_path: Path) -> None:
    model = str(write_model(tmp_path / "model", chat=True))
    unlabelled(tmp_path, "classification", 14)
    found = run(tmp_path, "classification", "lexicon", teacher=model, labels=("bad", "good"), keep_above=0.5)
    record = json.loads((tmp_path / "out" / "distill.json").read_text(encoding="utf-8"))
    assert record["teacher"]["origin"]["ask"]["labels"] == ["bad", "good"]
    assert record["teacher"]["options"]["shots"] == 0
    assert {row.name for row in found.comparison.rows} == {"prompted:teacher", "lexicon"}
    assert found.num_labelled == 14


def test_a_teacher_that_says_nothing_is_reported(tmp_path: Path) -> None:
    unlabelled(tmp_path, "summarization", 14)
    with serving(lambda *_: " ") as server, pytest.raises(UserError, match="nothing that could be learned"):
        run(tmp_path, "summarization", "lead", **remote(server, tmp_path))


# ---- bad input


def test_bad_input_is_reported(reviews: Path, tmp_path: Path) -> None:
    name = str(reviews / "teacher")
    empty = tmp_path / "empty.txt"
    empty.write_text(" \n\n")
    cases: Iterator[tuple[str, dict[str, Any]]] = iter([
        ("holds no input for classification; it is empty", {"unlabelled": empty}),
        ("does classification, not ner", {"task": "ner", "student": "crf"}),
        ("no method 'lexicn'", {"student": "lexicn"}),
        ("neither the folder of a method or a model", {"teacher": "nowhere"}),
        ("takes no `set` teacher", {"teacher_options": {"shots": 1}}),
        ("takes no `set` teacher", {"labels": ("a", "b")}),
        ("give `labels` A,B or `train`",
         {"teacher": "remote", "teacher_options": {"base_url": "http://h/v1", "model": "m"}}),
        ("remote gives no probabilities",
         {"teacher": "remote", "keep_above": 0.5, "labels": ("a", "b"),
          "teacher_options": {"base_url": "http://h/v1", "model": "m"}}),
        ("labelled nothing that could be learned from", {"keep_above": 0.9999999}),
        ("people have labelled every input", {"test": reviews / "known.jsonl",
                                              "unlabelled": reviews / "known.jsonl"}),
    ])  # fmt: skip
    for says, change in cases:
        given = {"teacher": name, "task": "classification", "student": "lexicon"} | change
        with pytest.raises(UserError, match=says):
            run(reviews, **given)


def test_the_command_line_says_it_all(reviews: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[DistillSettings] = []

    def here(settings: DistillSettings, out: Path, say: Any) -> Distilled:
        asked.append(settings)
        return distill(settings.model_copy(update={"measure_seconds": 0.01}), out, say, isolated=False)

    monkeypatch.setattr("malmoi.compare.distill.distill", here)
    command = [
        "distill", "classification", "--teacher", str(reviews / "teacher"), "--student", "tfidf",
        "--unlabelled", str(reviews / "raw.jsonl"), "--out", str(reviews / "out"),
    ]  # fmt: skip
    shown = CliRunner().invoke(app, [*command, "--keep-above", "0.2", "--set", "student.max_features=500"])
    assert shown.exit_code == 0, shown.output
    assert "tfidf agrees with tfidf:teacher by accuracy" in " ".join(shown.output.split())
    assert f"malmoi predict {reviews / 'out' / 'student'}" in shown.output
    assert (asked[0].keep_above, asked[0].student_options) == (0.2, {"max_features": 500})
    for wrong in (["--set", "lexicon.x=1"], ["--currency", "USD"]):
        assert isinstance(CliRunner().invoke(app, [*command, *wrong]).exception, UserError)


def test_other_folders_are_left_alone(reviews: Path) -> None:
    name = str(reviews / "teacher")
    run(reviews, "classification", "lexicon", teacher=name)
    unlabelled(reviews, "classification", 50)
    with pytest.raises(UserError, match="made with other unlabelled; choose another `out`"):
        run(reviews, "classification", "lexicon", teacher=name)
    with pytest.raises(UserError, match="something else than a distillation"):
        distill(
            DistillSettings(task="classification", teacher=name, student="lexicon",
                            unlabelled=reviews / "raw.jsonl"), reviews, isolated=False
        )  # fmt: skip


def test_the_winner_of_a_comparison_teaches(reviews: Path, tmp_path: Path) -> None:
    shutil.copytree(reviews / "teacher", tmp_path / "compared" / "winner")
    write(tmp_path / "compared" / "comparison.json", [])
    found = run(reviews, "classification", "lexicon", teacher=str(tmp_path / "compared"))
    assert found.num_labelled == 60
