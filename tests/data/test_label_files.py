from __future__ import annotations

import csv
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.core.errors import UserError
from malmoi.data.label_files import DOCCANO, LABEL_STUDIO, SPREADSHEET, write_label_files, write_table
from malmoi.tasks import make_task

TEXTS = ["=1+1", "-5도, 춥다", '"따옴표", comma', "two\nlines", "@me", "plain"]


def table(path: Path) -> list[dict[str, str]]:
    assert path.read_bytes().startswith(b"\xef\xbb\xbf"), "a spreadsheet takes it for another encoding"
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_each_program_finds_what_it_reads(tmp_path: Path) -> None:
    files = write_label_files(tmp_path, [{"review": text} for text in TEXTS], TEXTS, "sentiment")
    assert [file.name for file in files] == [DOCCANO, LABEL_STUDIO, SPREADSHEET]
    lines = files[0].read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"id": number, "text": text, "label": []} for number, text in enumerate(TEXTS, 1)
    ]
    tasks = json.loads(files[1].read_text(encoding="utf-8"))
    assert [task["data"] for task in tasks] == [{"text": text, "review": text} for text in TEXTS]
    rows = table(files[2])
    assert [row["sentiment"] for row in rows] == [""] * len(TEXTS)
    assert [row["review"] for row in rows] == ["'=1+1", "'-5도, 춥다", *TEXTS[2:4], "'@me", "plain"]


def test_a_filled_spreadsheet_is_read_as_examples(tmp_path: Path) -> None:
    [*_, path] = write_label_files(tmp_path, [{"text": text} for text in TEXTS], TEXTS, "label")
    rows = [row | {"label": f"label {row['id']}"} for row in table(path)]
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    found = make_task("classification").load(path)
    assert [one.input.removeprefix("'") for one in found] == TEXTS
    assert [one.target for one in found] == [f"label {number}" for number in range(1, 7)]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.text("=+-@\t'\",a가\n ", max_size=6), st.integers()), min_size=1, max_size=5))
def test_no_cell_begins_a_formula_and_nothing_is_lost(cells: list[tuple[str, int]]) -> None:
    rows = [{"text": text, "n": number} for text, number in cells]
    with TemporaryDirectory() as folder:
        write_table(Path(folder) / "rows.csv", rows)
        write_table(Path(folder) / "rows.jsonl", rows)
        lines = (Path(folder) / "rows.jsonl").read_text(encoding="utf-8").split("\n")
        found = table(Path(folder) / "rows.csv")
    assert [json.loads(line) for line in lines[:-1]] == rows
    assert [int(row["n"]) for row in found] == [number for _, number in cells]
    for row, (text, _) in zip(found, cells, strict=True):
        assert row["text"] in (text, f"'{text}")
        assert not row["text"].startswith(("=", "+", "-", "@", "\t"))


def test_other_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must end in \.csv or \.jsonl"):
        write_table(tmp_path / "suspects.xlsx", [])
