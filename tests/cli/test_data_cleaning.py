from __future__ import annotations

import json
from pathlib import Path

from tests.cli import test_cli
from tests.cli.test_cli import Run, fails
from tests.data.test_check import EN, jsonl

run = test_cli.run


def test_cleaning_says_what_it_would_do_and_did(run: Run, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [*EN[:4], EN[0], f"{EN[5]} me@example.com"])
    code, said, _ = run("data", "clean", path)
    assert code == 0
    assert "nothing is written; name what to do with --fix, --drop or --redact, and --out" in " ".join(
        said.split()
    )
    code, said, _ = run(
        "data", "clean", path, "--out", tmp_path / "out", "--drop", "exact,near", "--redact", "email",
        "--set", "near=0.9",
    )  # fmt: skip
    assert code == 0
    assert "before 6 rows" in said
    assert "after  5 rows" in said
    kept = (tmp_path / "out" / "a.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(kept[-1])["text"] == f"{EN[5]} [email]"


def test_cleaning_with_a_task(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"t": EN[0], "l": label}) + "\n" for label in ("a", "b")))
    command = ("data", "clean", path, "--task", "classification", "--fields", "text=t,label=l")
    assert run(*command, "--drop", "conflicts", "--out", tmp_path / "out")[0] == 0
    assert (tmp_path / "out" / "a.jsonl").read_text() == ""


def test_mistakes_in_cleaning(run: Run, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", EN)
    fails(run("data", "clean", path, "--drop", "nearr", "--out", tmp_path / "o"), "--drop 'nearr'", "'near'")
    fails(run("data", "clean", path, "--set", "near=x", "--out", tmp_path / "o"), "--set near")
    fails(run("data", "clean", path, "--drop", "conflicts"), "name their task with --task")
    fails(run("data", "clean", tmp_path / "none"), "does not exist")
