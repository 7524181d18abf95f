from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import malmoi
from malmoi.core.errors import UserError
from malmoi.core.nouns import Metric
from malmoi.methods.use import LoadedMethod
from malmoi.show import terminal
from malmoi.tasks import TASKS, write_samples
from malmoi.world import documents
from tests.cli import test_cli
from tests.cli.test_cli import Run, fails

run = test_cli.run
Write = Callable[[str, list[Any]], Path]
FAST = {
    "classification": "tfidf", "multi-label": "tfidf", "ner": "crf", "translation": "ibm1",
    "completion": "ngram",
    "summarization": "lead", "question-answering": "sentence", "chat": "retrieval",
}  # fmt: skip
GEESE = [
    {"text": f"거위 {n} sang {'well' if n % 2 else 'badly'}", "label": "good" if n % 2 else "bad"}
    for n in range(40)
]
SONGS = [
    {
        "question": f"Who sang song {n}?", "context": f"Ann{n} sang song {n} in Noru.", "id": str(n),
        "answers": [{"text": f"Ann{n}", "answer_start": 0}],
    }
    for n in range(30)
]  # fmt: skip
PAIRS = [{"en": f"goose {n} sings", "ko": f"거위 {n} 노래한다"} for n in range(30)]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`TASK-LANGUAGE.jsonl` and `TASK-LANGUAGE-valid.jsonl` of the sample world."""
    folder = tmp_path_factory.mktemp("world")
    for language in ("en", "ko"):
        train = list(documents(150, language=language))
        valid = list(documents(60, split="valid", language=language))
        for task in TASKS:
            write_samples(folder / f"{task}-{language}.jsonl", task, train, most=50)
            write_samples(folder / f"{task}-{language}-valid.jsonl", task, valid, most=10)
    return folder


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes rows (or whole lines) as JSON lines."""

    def go(name: str, rows: list[Any]) -> Path:
        lines = (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return tmp_path / name

    return go


@pytest.fixture
def geese(run: Run, write: Write, tmp_path: Path) -> Path:
    """A classifier's folder."""
    train = write("geese.jsonl", GEESE)
    assert fit(run, "classification", "lexicon", train, tmp_path / "geese")[0] == 0
    return tmp_path / "geese"


@pytest.fixture
def songs(run: Run, write: Write, tmp_path: Path) -> Path:
    """A question answerer's folder."""
    assert fit(run, "question-answering", "sentence", write("s.jsonl", SONGS), tmp_path / "songs")[0] == 0
    return tmp_path / "songs"


def fit(run: Run, task: str, method: str, train: object, out: Path, *more: object) -> tuple[int, str, str]:
    return run("fit", task, "--method", method, "--train", train, "--out", out, *more)


def check(run: Run, task: str, path: object, *more: object) -> tuple[int, str, str]:
    return run("data", "check", "--task", task, path, *more)


def typed(monkeypatch: pytest.MonkeyPatch, content: str | bytes) -> None:
    """What standard input holds."""
    found = content.encode() if isinstance(content, str) else content
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(found)))


def inputs_of(path: Path, task: str) -> list[Any]:
    """The input of each row of the sample world, as `malmoi predict` takes it."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if task == "question-answering":
        return [{"question": row["question"], "context": row["context"]} for row in rows]
    if task == "chat":
        return [{"messages": row["messages"][:1]} for row in rows]
    return [row[{"translation": "source", "summarization": "document"}.get(task, "text")] for row in rows]


def walk(run: Run, world: Path, task: str, language: str, out: Path) -> None:
    """From a fitted folder: predict a file, one input, by Python; evaluate; and no completion."""
    valid = world / f"{task}-{language}-valid.jsonl"
    values = inputs_of(valid, task)
    lines = out.parent / "inputs.jsonl"
    lines.write_text("\n".join(json.dumps(value) for value in values), encoding="utf-8")
    code, said, errors = run("predict", out, lines)
    assert code == 0, errors
    rows = [json.loads(line) for line in said.splitlines()]
    assert [row["input"] for row in rows] == values
    loaded = malmoi.load(out)
    assert isinstance(loaded, LoadedMethod)
    found = loaded.predict(values)
    inputs = [loaded.task.input_from(value) for value in values]
    wanted = [loaded.task.to_json(value, one) for value, one in zip(found, inputs, strict=True)]
    assert [row["prediction"] for row in rows] == json.loads(json.dumps(wanted))
    assert loaded.predict(values[0]) == found[0]
    one = values[0] if isinstance(values[0], str) else json.dumps(values[0])
    assert run("predict", out, one)[0] == 0
    code, said, errors = run("evaluate", out, "--data", valid)
    assert code == 0, errors
    assert loaded.task.primary in said or task == "completion"


@pytest.mark.parametrize("language", ["en", "ko"])
@pytest.mark.parametrize("task", TASKS)
def test_the_whole_road_of_every_task(
    run: Run, world: Path, tmp_path: Path, task: str, language: str
) -> None:
    out, train = tmp_path / "model", world / f"{task}-{language}.jsonl"
    code, said, errors = fit(
        run, task, FAST[task], train, out, "--valid", world / f"{task}-{language}-valid.jsonl"
    )
    assert code == 0, errors
    assert f"saved {out}; try: malmoi predict {out}" in said
    assert ("--context" in said) == (task == "question-answering")
    walk(run, world, task, language, out)
    fails(run("complete", out, "goose"), task, "malmoi predict")


@pytest.mark.parametrize(
    ("task", "method", "language"),
    [("classification", "transformer", "ko"), ("ner", "lstm", "ko"), ("translation", "lstm", "en"),
     ("question-answering", "transformer", "en")],
)  # fmt: skip
def test_neural_methods_within_a_budget(
    run: Run, world: Path, tmp_path: Path, task: str, method: str, language: str
) -> None:
    out = tmp_path / "model"
    small = [part for one in ("width=32", "vocab_size=512") for part in ("--set", one)]
    found = fit(run, task, method, world / f"{task}-{language}.jsonl", out, "--budget", 1, *small)
    assert found[0] == 0, found[2]
    assert re.search(r"\d steps? of", found[1])  # one on a busy machine
    walk(run, world, task, language, out)


# ---- predict


def test_predict_reads_every_form_of_line(run: Run, geese: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["a goose", '"거위"', '{"text": "고양이"}', "", "  ", "42", "[1]", '{"bro', "[" * 100_000]
    typed(monkeypatch, "\ufeff" + "\r\n".join(lines))
    code, said, errors = run("predict", geese, "-")
    assert code == 0, errors
    inputs = [json.loads(line)["input"] for line in said.splitlines()]
    assert inputs == ["a goose", "거위", "고양이", "42", "[1]", '{"bro', "[" * 100_000]


@pytest.mark.parametrize("text", ["", " ", "a\0b", "거위 " * 30_000, "x" * 100_000, "see notes.txt"])
def test_any_text_can_be_predicted(run: Run, geese: Path, text: str) -> None:
    code, said, errors = run("predict", geese, text)
    assert code == 0, errors
    assert said.split()[0] in ("good", "bad")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('goose\n{"x": 1}\n', ["standard input:2", '{"text": TEXT}']),
        ('{"text": 5}\n', ["standard input:1"]),
        (
            "거위".encode("cp949"),
            ["standard input: byte 0xb0 at offset 0", "looks like cp949: save it as UTF-8"],
        ),
    ],
)
def test_bad_lines_are_named(
    run: Run, geese: Path, monkeypatch: pytest.MonkeyPatch, content: str | bytes, words: list[str]
) -> None:
    typed(monkeypatch, content)
    fails(run("predict", geese, "-"), *words)


def test_files_that_cannot_be_predicted(run: Run, geese: Path, tmp_path: Path) -> None:
    fails(run("predict", geese, "none.jsonl"), "none.jsonl does not exist")
    fails(run("predict", tmp_path / "none", "goose"), "malmoi fit")
    fails(run("predict", tmp_path, "goose"), "malmoi fit")


def test_context_is_for_questions(
    run: Run, geese: Path, songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails(run("predict", geese, "goose", "--context", "x"), "--context", "question-answering")
    fails(run("predict", songs, "Who sang?"), "--context")
    fails(run("predict", songs, "Who sang?", "--context", ""), "neither empty")
    assert "Ann" in run("predict", songs, "Who sang song 3?", "--context", "Ann sang song 3 in Noru.")[1]
    text = tmp_path / "text"
    text.write_text("Ann sang song 3 in Noru.", encoding="utf-8")
    typed(monkeypatch, 'Who sang?\n{"question": "Who?"}\n{"question": "Who?", "context": "Bob sang."}\n')
    found = [json.loads(line) for line in run("predict", songs, "-", "--context", text)[1].splitlines()]
    assert [row["input"]["context"][:3] for row in found] == ["Ann", "Ann", "Bob"]
    text.write_bytes("거위".encode("cp949"))
    fails(run("predict", songs, "Who?", "--context", text), "looks like cp949", str(text))


def test_metrics_have_a_column_of_notes_where_there_are_some(capsys: pytest.CaptureFixture[str]) -> None:
    plain, noted = Metric(0.5, (0.4, 0.6)), Metric(1.5, None, higher_is_better=False, signature="nrefs:1")
    for metrics, columns in (({"f1": plain}, 3), ({"f1": plain, "bits": noted}, 4)):
        terminal.show_metrics(metrics, 40)
        said = capsys.readouterr().out
        assert said.splitlines()[1].count("┃") == columns + 1
        assert ("lower is better; nrefs:1" in said) == (columns == 4)


def test_inputs_may_have_the_names_of_the_users_fields(
    run: Run, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"q": one["question"], "c": one["context"], "a": f"Ann{n}"} for n, one in enumerate(SONGS)]
    out, fields = tmp_path / "m", ("--fields", "question=q,context=c", "--fields", "answers=a")
    assert fit(run, "question-answering", "sentence", write("q.jsonl", rows), out, *fields)[0] == 0
    assert run("predict", out, "Who sang?", "--context", "Ann sang.")[0] == 0
    typed(monkeypatch, '{"q": "Who?", "c": "Ann sang."}\n{"question": "Who?", "context": "Ann sang."}\n')
    first, second = run("predict", out, "-")[1].splitlines()
    assert first == second
    assert run("evaluate", out, "--data", tmp_path / "q.jsonl")[0] == 0


# ---- fit


@pytest.mark.parametrize("method", ["lexicon", "tfidf", "lstm", "transformer"])
def test_one_label_only(run: Run, write: Write, tmp_path: Path, method: str) -> None:
    train = write("one.jsonl", [row | {"label": "good"} for row in GEESE])
    fails(fit(run, "classification", method, train, tmp_path / "m"), "label")
    code, said, _ = check(run, "classification", train)
    assert code == 1
    assert "all training examples have the label 'good'" in said


def test_no_entity_at_all(run: Run, write: Write, tmp_path: Path) -> None:
    train = write("none.jsonl", [{"text": row["text"], "entities": []} for row in GEESE])
    fails(fit(run, "ner", "crf", train, tmp_path / "m"), "entity")
    fails(fit(run, "ner", "lstm", train, tmp_path / "m"), "entity")
    assert check(run, "ner", train)[0] == 1


def test_what_fit_leaves_out_is_counted(run: Run, write: Write, tmp_path: Path) -> None:
    train = write("bad.jsonl", [*GEESE, {"text": "", "label": "good"}, {"text": "x"}, "[1]", '{"bro'])
    found = fit(run, "classification", "lexicon", train, tmp_path / "m")
    fails(found, "4 of 44 rows", f"{train}:41", "--allow-skips", "malmoi data check --task classification")
    code, said, _ = fit(run, "classification", "lexicon", train, tmp_path / "m", "--allow-skips")
    assert code == 0
    assert f"data: 4 errors (bad rows are left out); the first, {train}:41" in said
    fails(run("evaluate", tmp_path / "m", "--data", train), "4 of 44 rows")
    code, said, _ = run("evaluate", tmp_path / "m", "--data", train, "--allow-skips")
    assert code == 0
    assert "data: 4 errors" in said


def test_what_was_fitted_is_kept_though_measuring_it_fails(
    run: Run, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = write("train.jsonl", GEESE)

    def failing(*_: object) -> None:
        raise UserError("no measuring today")

    monkeypatch.setattr("malmoi.methods.use.evaluate", failing)
    fails(fit(run, "classification", "tfidf", train, tmp_path / "m"), "no measuring today")
    monkeypatch.undo()
    assert run("evaluate", tmp_path / "m", "--data", train)[0] == 0


def test_ctrl_c_says_how_to_go_on(
    run: Run, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("malmoi.methods.use.evaluate", interrupted)
    code, said, errors = fit(run, "classification", "tfidf", write("t.jsonl", GEESE), tmp_path / "m")
    assert (code, errors) == (130, "")
    assert said.endswith("stopped; the same command goes on from where it was\n")


def test_what_is_unseen_or_in_both_parts_is_reported(run: Run, write: Write, tmp_path: Path) -> None:
    train = write("train.jsonl", GEESE)
    valid = write("valid.jsonl", [{"text": "new", "label": "soso"}, {"text": "newer", "label": "soso"}])
    code, said, _ = fit(run, "classification", "tfidf", train, tmp_path / "m", "--valid", valid)
    assert code == 0
    assert "the label 'soso' of valid is not in train" in said
    assert "data: 1 warning; the first" in said
    assert "warning: training never saw 1 label of the report: 'soso' (2 of 2 examples)" in said
    said = run("evaluate", tmp_path / "m", "--data", valid)[1]
    assert "warning: training never saw 1 label of these data: 'soso' (2 of 2 examples)" in said
    assert "warning" not in run("evaluate", tmp_path / "m", "--data", train)[1]
    valid = write("both.jsonl", GEESE[:5])
    code, said, _ = fit(run, "classification", "tfidf", train, tmp_path / "n", "--valid", valid)
    assert code == 0
    assert "5 warnings" in said
    assert "dropped from training: 5 examples" in said
    fails(
        fit(run, "classification", "tfidf", train, tmp_path / "o", "--valid", train), "every training example"
    )


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--fields", "text=body"], ['no "body"', "--fields text=NAME"]),
        (["--fields", "txt=body"], ["'txt'", "'text'"]),
        (["--fields", "body"], ["--fields", "a=b"]),
        (["--set", "widht=8"], ["widht", "'width'"]),
        (["--set", "width=abc"], ["width", "integer"]),
        (["--set", "width=[1"], ["width", "YAML"]),
        (["--set", "width"], ["--set", "a=b"]),
        (["--valid", "none.jsonl"], ["none.jsonl does not exist"]),
    ],
)
def test_wrong_options_are_one_line(
    run: Run, write: Write, tmp_path: Path, more: list[str], words: list[str]
) -> None:
    fails(fit(run, "classification", "lstm", write("t.jsonl", GEESE), tmp_path / "m", *more), *words)
    assert not (tmp_path / "m").exists()


def test_names_and_folders_that_cannot_be(run: Run, write: Write, geese: Path, tmp_path: Path) -> None:
    train = tmp_path / "geese.jsonl"
    fails(fit(run, "clasification", "lstm", train, tmp_path / "m"), "'classification'")
    fails(fit(run, "classification", "tfid", train, tmp_path / "m"), "'tfidf'")
    fails(fit(run, "ner", "tfidf", train, tmp_path / "m"), "crf")
    fails(fit(run, "classification", "tfidf", tmp_path / "none.jsonl", tmp_path / "m"), "does not exist")
    fails(fit(run, "classification", "tfidf", write("empty.jsonl", []), tmp_path / "m"), "empty")
    fails(fit(run, "classification", "tfidf", write("few.jsonl", GEESE[:5]), tmp_path / "m"), "5", "10")
    for out in (geese, train):
        fails(fit(run, "classification", "tfidf", train, out), "exists", "--out")
    code, said, errors = fit(run, "classification", "tfidf", train, train / "m")
    fails((code, said, errors), "no folder", "--out")
    assert said == ""  # before any work


def test_files_that_are_not_utf8(run: Run, tmp_path: Path) -> None:
    train = tmp_path / "train.csv"
    rows = "".join(f"{row['text']},{row['label']}\n" for row in GEESE)
    train.write_bytes(f"text,label\n{rows}".encode("cp949"))
    fails(fit(run, "classification", "tfidf", train, tmp_path / "m"), str(train), "UTF-8")
    assert check(run, "classification", train)[0] == 1


@pytest.mark.parametrize("method", ["lexicon", "tfidf", "lstm"])
def test_a_very_long_text(run: Run, write: Write, tmp_path: Path, method: str) -> None:
    train = write("long.jsonl", [*GEESE, {"text": "거위가 노래한다. " * 10_000, "label": "good"}])
    found = fit(run, "classification", method, train, tmp_path / "m", "--budget", 1)
    assert found[0] == 0, found[2]
    assert "100,001 characters" in check(run, "classification", write("x.jsonl", [
        *GEESE, {"text": "x" * 100_001, "label": "good"}]))[1]  # fmt: skip


# ---- data check


def lines_of(said: str, level: str) -> list[int]:
    """The numbers of the lines found at this level."""
    rows = [line for line in said.splitlines() if line.startswith(level)]
    return [int(line.split(".jsonl:")[1].split(":")[0].split()[0]) for line in rows]


@pytest.mark.parametrize(
    ("task", "good", "bad"),
    [
        ("classification", GEESE, [{"text": " ", "label": "good"}, {"label": "good"}, {"text": "x"},
         {"text": ["x"], "label": "good"}, {"text": "x", "label": {}}, "[1]", '"x"', '{"bro', "[" * 100_000]),
        ("ner", [{"text": "Ann sang", "entities": [[0, 3, "PER"]]}] * 3, [
            {"text": "Ann", "entities": [[0, 9, "PER"]]}, {"text": "Ann", "entities": [[2, 1, "PER"]]},
            {"text": "Ann", "entities": [[0, 2, "PER"], [1, 3, "LOC"]]}, {"text": "Ann"},
            {"text": "Ann", "entities": [["0", 2, "PER"]]}, {"text": "", "entities": []}]),
        ("translation", PAIRS, [
            {"en": "goose"}, {"ko": "거위"}, {"en": "x", "ko": ""}, {"en": 5, "ko": "y"}]),
        ("question-answering", SONGS, [SONGS[0], SONGS[1] | {"id": "x", "answers": ["Bob"]},
         {"question": "", "context": "c", "answers": ["c"]}, {"paragraphs": [1]}]),
        ("summarization", [{"document": "d", "summary": "s"}], [
            {"document": "d", "summary": ""}, {"document": "", "summary": "s"}, {"document": "d"}]),
        ("chat", [{"instruction": "hi", "output": "ho"}], [
            {"messages": [{"role": "user", "content": "hi"}]}, {"messages": []}, {"instruction": "x"},
            {"messages": [{"role": "goose", "content": "honk"}]}]),
    ],
)  # fmt: skip
def test_check_names_every_bad_row(
    run: Run, write: Write, task: str, good: list[Any], bad: list[Any]
) -> None:
    code, said, _ = check(run, task, write("good.jsonl", good))
    assert code == 0, said
    code, said, _ = check(run, task, write("bad.jsonl", [*good, *bad]), "--all")
    assert code == 1
    assert sorted(lines_of(said, "error")) == list(range(len(good) + 1, len(good) + len(bad) + 1))


def test_check_tags(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "tags.conll"
    path.write_text("Ann B-PER\nsang O\n\nin\nNoru B-LOC\n\nBo X-PER\n\nCy I-PER\n\n", encoding="utf-8")
    code, said, _ = check(run, "ner", path)
    assert code == 1
    for line in (
        ("error", "4: expected a token and a tag"),
        ("error", "7: unknown tag"),
        ("warning", "9: I-PER"),
    ):
        assert f"{line[0]} {path}:{line[1]}" in said


def test_check_parallel_files(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.en").write_text("one\ntwo\nthree\n")
    (tmp_path / "a.ko").write_text("하나\n\n셋\n")
    code, said, _ = check(run, "translation", tmp_path / "a")
    assert code == 1
    assert f"{tmp_path}/a.en:2" in said
    (tmp_path / "a.ko").write_text("하나\n")
    assert "3 lines" in check(run, "translation", tmp_path / "a")[1]


def test_check_parts_and_fields(run: Run, write: Write, tmp_path: Path) -> None:
    rows = [{"body": row["text"], "label": row["label"]} for row in GEESE]
    train, valid = write("train.jsonl", rows), write("valid.jsonl", rows[:2])
    test = write("test.jsonl", [{"body": "new", "label": "soso"}])
    more = ("--valid", valid, "--test", test, "--fields", "text=body")
    code, said, _ = check(run, "classification", train, *more)
    assert code == 0
    assert said.count("this valid input is in train too") == 2
    assert "the label 'soso' of test is not in train" in said
    assert check(run, "classification", train)[0] == 1  # no "text"
    fails(check(run, "classification", train, "--fields", "txt=body"), "'text'")
    fails(check(run, "clasification", train), "'classification'")
    fails(check(run, "classification", tmp_path / "none"), "does not exist")
    assert check(run, "classification", write("empty.jsonl", []))[0] == 1


def test_check_refuses_what_would_have_no_effect(run: Run, write: Write) -> None:
    path = write("geese.jsonl", GEESE)
    for option, value in {"tokenizer": "x", "context": 256, "field": "text", "errors": "strict"}.items():
        fails(check(run, "classification", path, f"--{option}", value), f"--{option}", "plain text")
    fails(run("data", "check", path, "--test", path), "--test", "--task")
    fails(run("data", "check", path, "--fields", "text=body"), "--fields", "--task")
    assert run("data", "check", path, "--context", 8)[0] == 0


# ---- compare


def test_compare_and_use_the_winner(run: Run, write: Write, tmp_path: Path) -> None:
    train, out = write("geese.jsonl", GEESE), tmp_path / "c"
    command = ("compare", "classification", "--train", train, "--methods", "lexicon,tfidf", "--out", out)
    code, said, errors = run(*command)  # each method in processes of its own
    assert code == 0, errors
    assert "lexicon: done" in said
    assert (out / "report.html").exists()
    again = run(*command)[1]
    assert "tfidf: measured before" in again
    assert run("predict", out, "the goose sang well")[1].startswith("good")
    assert LoadedMethod(out).predict("the goose sang well") == "good"
    assert run("evaluate", out, "--data", train)[0] == 0
    fails(run("complete", out, "goose"), "malmoi predict")
    assert "is shown to be good enough" in run(*command, "--good-enough", "accuracy=0.01")[1]
    _, said, errors = run(*command, "--seeds", 2, "--json")  # nothing here depends on its seed
    assert "tfidf: measured before" in errors
    results = json.loads(said)
    assert results["settings"]["seeds"] == 2
    assert results == json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert results["margin"] == 0.02
    fails(run(*command, "--margin", "much"), "0.03 or 3%")
    fails(run(*command, "--margin", "3%", "--good-enough", "accuracy=0.5"), "--margin", "give one of them")
    fails(run(*command, "--group", "author"), '"author"')
    fails(run(*command, "--good-enough", "acuracy=0.5"), "'accuracy'")
    fails(run(*command, "--good-enough", "accuracy"), "METRIC=VALUE")
    fails(run(*command, "--good-enough", "accuracy=90"), "from 0 to 1", "90%")
    fails(run(*command, "--seed", 1), "other seed", "--out")
    fails(run(*command, "--set", "tfidf.balanced=false"), "options of tfidf", "--out")
    write("geese.jsonl", GEESE[1:])
    fails(run(*command), "other train data", "--out")


def test_compare_refuses_before_any_work(run: Run, write: Write, tmp_path: Path) -> None:
    train, out = write("geese.jsonl", GEESE), tmp_path / "c"
    command = ("compare", "classification", "--train", train, "--out")
    fails(run(*command, out, "--methods", "lexicon,tfid"), "'tfidf'")
    fails(run(*command, out, "--methods", ""), "lexicon")
    fails(run(*command, out, "--set", "lstm.widht=8"), "'width'")
    fails(run(*command, out, "--set", "width=8"), "METHOD.OPTION=VALUE")
    fails(run(*command, out, "--currency", "KRW"), "--price-per-hour")
    fails(run(*command, out, "--good-enough", "acuracy=0.5"), "'accuracy'")
    assert not out.exists()
    fails(run(*command, tmp_path), "something else", "--out")
    for place in (train, train / "c"):
        code, said, errors = run(*command, place)
        fails((code, said, errors), f"{train} exists and is no folder", "--out")
        assert said == ""
    one = write("one.jsonl", [row | {"label": "good"} for row in GEESE])
    fails(run("compare", "classification", "--train", one, "--out", out), "all training", "'good'")
    none = write("none.jsonl", [{"text": row["text"], "entities": []} for row in GEESE])
    fails(run("compare", "ner", "--train", none, "--out", out), "no training example has an entity")
    assert not out.exists()


def test_a_comparison_in_which_all_fail(
    run: Run, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from malmoi.compare import runner as compare_run

    monkeypatch.setattr(compare_run, "_in_process", compare_run.attempt)
    train, out, words = write("g.jsonl", GEESE), tmp_path / "c", write("words.tsv", ["goose"])
    more = ("--methods", "lexicon", "--set", f"lexicon.lexicon={words}")
    code, said, _ = run("compare", "classification", "--train", train, "--out", out, *more)
    assert code == 1
    assert "lexicon: failed: " in said
    assert "No method can be compared by accuracy: lexicon (" in said
    fails(run("predict", out, "goose"), "without a winner")


def test_help_of_the_verbs(run: Run) -> None:
    for verb in ("fit", "predict", "evaluate", "compare"):
        code, said, _ = run(verb, "--help")
        assert code == 0
        assert "question-answering" in said or verb in ("predict", "evaluate")


def test_what_it_learned_from_tells_whether_texts_belong_to_their_inputs(
    run: Run, world: Path, tmp_path: Path
) -> None:
    train, valid = world / "translation-en.jsonl", world / "translation-en-valid.jsonl"
    code, said, _ = fit(run, "translation", "ibm1", train, tmp_path / "m")
    assert code == 0
    assert "adequacy" in said
    plain, more = (
        run("evaluate", tmp_path / "m", "--data", valid, *option)[1] for option in ((), ("--train", train))
    )
    assert "adequacy" not in plain
    assert "adequacy" in more


def test_what_is_of_a_judge_needs_one(run: Run, world: Path, tmp_path: Path) -> None:
    asked = ("compare", "chat", "--train", world / "chat-en.jsonl", "--out", tmp_path / "c")
    fails(run(*asked, "--set", "judge.model=m", "--methods", "retrieval"), "name one: --judge")
    fails(run(*asked, "--judge", "remote", "--methods", "retrieval"), "--set judge.base_url=ADDRESS")
