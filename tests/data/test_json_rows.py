"""JSON as people pack rows in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from malmoi.core.nouns import Finding
from malmoi.data.labelled import read_records

ROWS = [{"text": f"글 {number}", "label": "bad"} for number in range(12)]
COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}


def read(path: Path, content: str) -> tuple[list[dict[str, Any]], list[Finding]]:
    path.write_text(content, encoding="utf-8")
    findings: list[Finding] = []
    return [record.values for record in read_records(path, findings.append)], findings


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize(
    "packed",
    [
        ROWS,
        {"data": ROWS},
        {"version": "1", "examples": ROWS},
        {"train": ROWS, "info": {"by": "us"}},
        {"rasa_nlu_data": {"common_examples": ROWS}},
        {str(number): row for number, row in enumerate(ROWS)},
        COLUMNS,
        {name: {str(at): cell for at, cell in enumerate(cells)} for name, cells in COLUMNS.items()},
        {"columns": list(COLUMNS), "index": list(range(12)), "data": [list(row.values()) for row in ROWS]},
    ],
    ids=["list", "data", "examples", "train", "inner", "by row", "columns", "by column", "split"],
)
def test_rows_are_found_however_they_are_packed(
    packed: Any, indent: int | None, name: str, tmp_path: Path
) -> None:
    content = json.dumps(packed, ensure_ascii=False, indent=indent)
    assert read(tmp_path / name, content) == (ROWS, [])


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.ndjson"])
def test_lines_are_rows(name: str, tmp_path: Path) -> None:
    content = "\n\n".join(json.dumps(row) for row in ROWS)
    assert read(tmp_path / name, content) == (ROWS, [])


def test_the_parts_that_are_not_for_learning_are_named(tmp_path: Path) -> None:
    rows, (finding,) = read(tmp_path / "a.json", json.dumps({"test": ROWS[:3], "train": ROWS[3:]}))
    assert rows == ROWS[3:]
    assert finding.message == "left out beside the rows: test"


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "a"}]},
        {"tokens": ["a", "b"], "ner_tags": ["O", "O"]},
        {"text": "a", "entities": [{"start": 0, "end": 1, "label": "X"}]},
        {"text": "a"},
    ],
)
def test_one_row_is_one_row(row: dict[str, Any], tmp_path: Path) -> None:
    assert read(tmp_path / "a.json", json.dumps(row, indent=2)) == ([row], [])


@pytest.mark.parametrize("indent", [None, 2])
def test_a_list_that_is_cut_is_one_error(indent: int | None, tmp_path: Path) -> None:
    rows, (finding,) = read(tmp_path / "a.jsonl", json.dumps(ROWS, indent=indent)[:-20])
    assert rows == []
    assert finding.level == "error"


def test_a_broken_first_line_is_one_of_many(tmp_path: Path) -> None:
    lines = ['{"text": ', *(json.dumps(row) for row in ROWS)]
    rows, (finding,) = read(tmp_path / "a.jsonl", "\n".join(lines))
    assert rows == ROWS
    assert finding.where.endswith("a.jsonl:1")


_ROW = st.fixed_dictionaries({"text": st.text(max_size=5), "label": st.integers() | st.text(max_size=3)})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(_ROW, min_size=1, max_size=5),
    as_list=st.booleans(),
    name=st.sampled_from(["json", "jsonl"]),
)
def test_any_rows_come_back(rows: list[dict[str, Any]], as_list: bool, name: str, tmp_path: Path) -> None:
    content = json.dumps(rows) if as_list else "\n".join(map(json.dumps, rows))
    assert read(tmp_path / f"a.{name}", content)[0] == [
        row for row in rows if "\ufffd" not in f"{row['text']}{row['label']}"
    ]
