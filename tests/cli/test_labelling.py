from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import pytest

from malmoi.data.label_files import DOCCANO, LABEL_STUDIO, SPREADSHEET
from malmoi.show.terminal import console
from tests.cli import test_cli
from tests.cli.test_cli import Run, fails

run = test_cli.run
WORDS = {
    "배송": ["택배", "상자", "도착", "기사", "지연"],
    "refund": ["money", "card", "cancel", "receipt", "paid"],
}


@pytest.fixture
def train(tmp_path: Path) -> Path:
    """120 examples in two languages; rows 7 and 20 have the other's label, row 3 is broken."""
    draw, labels, rows = random.Random(0), list(WORDS), list[str]()
    for number in range(1, 121):
        label = labels[number % 2]
        text = " ".join([*draw.choices(WORDS[label], k=5), str(number)])
        given = labels[(number + 1) % 2] if number in (7, 20) else label
        rows.append("broken" if number == 3 else json.dumps({"text": text, "label": given}))
    path = tmp_path / "my train.jsonl"
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [40, 120])
def test_suspects_are_shown_and_written_with_their_rows(
    run: Run, train: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr(console, "width", width, raising=False)
    code, said, errors = run(
        "data", "check", train, "--task", "classification", "--suspects", "--out", tmp_path / "s.csv"
    )
    assert (code, errors) == (1, "")  # of the broken row
    assert "2 suspects among 119 examples" in said
    assert ("my train.jsonl:7" in said) == (width == 120)
    assert all(len(line) <= width for line in said.splitlines() if "배송" in line and "refund" in line)
    with (tmp_path / "s.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {int(row["row"]) for row in rows} == {7, 20}
    assert all({row["given"], row["likely"]} == set(WORDS) for row in rows)
    lines = train.read_text(encoding="utf-8").splitlines()
    for row in rows:
        assert json.loads(lines[int(row["row"]) - 1])["text"] == row["text"]


def test_what_suspects_needs(run: Run, train: Path, tmp_path: Path) -> None:
    fails(run("data", "check", train, "--suspects"), "--suspects needs --task")
    fails(run("data", "check", train, "--task", "classification", "--out", "s.csv"), "--out needs --suspects")
    odd = run("data", "check", train, "--task", "classification", "--suspects", "--out", tmp_path / "s.txt")
    fails(odd, "--out", "must end in .csv or .jsonl")
    few = tmp_path / "few.jsonl"
    few.write_text("\n".join(train.read_text(encoding="utf-8").splitlines()[:20]), encoding="utf-8")
    fails(
        run("data", "check", few, "--task", "classification", "--suspects"),
        "--suspects",
        "too few",
        "give 50",
    )


def test_a_plan_and_what_to_label_next(run: Run, train: Path, tmp_path: Path) -> None:
    pool, out = tmp_path / "pool.txt", tmp_path / "next"
    pool.write_text("\n".join(f"=택배 card {number}" for number in range(30)), encoding="utf-8")
    command = ("plan", "classification", "--train", train, "--allow-skips", "--methods", "lexicon")
    code, said, errors = run(*command, "--unlabelled", pool, "--out", out, "--count", 5)
    assert (code, errors) == (0, "")
    for words in ("today (", "2x (", "4x (", "lexicon is best: accuracy", "label next (5 texts; lexicon is"):
        assert words in said
    assert {path.name for path in out.iterdir()} == {DOCCANO, LABEL_STUDIO, SPREADSHEET, "plan.json"}
    assert "'=택배" in (out / SPREADSHEET).read_text(encoding="utf-8-sig")
    fails(run(*command, "--out", out), "exists", "--out")
    fails(run(*command, "--unlabelled", pool), "--unlabelled needs --out")
    code, said, errors = run(*command, "--json")
    found = json.loads(said)
    assert code == 0
    assert "lexicon: accuracy" in errors
    assert [one["multiple"] for one in found["families"][0]["outlooks"]] == [2, 4]
    assert found["next"] is None


def test_a_plan_refuses_what_it_cannot_do(run: Run, train: Path) -> None:
    fails(run("plan", "classification", "--train", train, "--methods", "tfidff"), "tfidf")
    fails(run("plan", "chatting", "--train", train), "chat")
