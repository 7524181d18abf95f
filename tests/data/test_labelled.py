from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from malmoi.core.errors import UserError
from malmoi.core.nouns import Finding
from malmoi.data.labelled import lines_about, raise_when_many, read_conll, read_records

ROWS = [{"text": "비가 그쳤다", "label": "날씨"}, {"text": 'a "b", c', "label": "other"}]


def write(path: Path, name: str) -> None:
    """ROWS in the format that `name` says."""
    lines = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    if ".parquet" in name:
        parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
        return
    content = {
        ".jsonl": "\n".join(lines),
        ".json": json.dumps(ROWS),
        ".csv": 'text,label\n비가 그쳤다,날씨\n"a ""b"", c",other\n',
        ".tsv": 'text\tlabel\n비가 그쳤다\t날씨\na "b", c\tother\n',
    }[Path(name.removesuffix(".gz")).suffix].encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("a.jsonl", 1),
        ("a.json", 1),
        ("a.csv", 2),
        ("a.tsv", 2),
        ("a.parquet", 1),
        ("a.jsonl.gz", 1),
        ("a.json.gz", 1),
        ("a.csv.gz", 2),
    ],
)
def test_rows_come_with_their_places(name: str, first: int, tmp_path: Path) -> None:
    write(tmp_path / name, name)
    findings: list[Finding] = []
    for path in (tmp_path, tmp_path / name):
        records = list(read_records(path, findings.append))
        assert [record.values for record in records] == ROWS
        assert [record.where for record in records] == [f"{tmp_path / name}:{first + at}" for at in range(2)]
    assert findings == []


@pytest.mark.parametrize(
    ("content", "count"),
    [
        ('{"data": [{"a": 1}], "version": "1"}', 1),
        ('{"a": 1}\n{"a": 2}', 2),  # JSON lines under another name
        ('{"a": 1}', 1),
    ],
)
def test_json_files_come_in_several_forms(content: str, count: int, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content, encoding="utf-8")
    assert len(list(read_records(tmp_path / "a.json", raises))) == count


def raises(finding: Finding) -> None:
    raise AssertionError(finding)


@pytest.mark.parametrize(
    ("name", "content", "where", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n[2]\n', "a.jsonl:2", "expected"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\\ud83d"}\n', "a.jsonl:2", "lost"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xb0\xa1"}\n', "a.jsonl:2", "not UTF-8"),
        ("a.json", b'[{"a": 1}, 2]', "a.json:2", "expected an object"),
        ("a.json", b"[" * 100_000, "a.json:1", "expected"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", "a.csv:3", "cells"),
        ("a.jsonl.gz", b"\x1f\x8bno", "a.jsonl.gz", "cannot be read"),
        ("a.parquet", b"no", "a.parquet", "not a readable parquet"),
    ],
)
def test_bad_rows_are_reported_and_the_rest_is_read(
    name: str, content: bytes, where: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    findings: list[Finding] = []
    records = list(read_records(tmp_path / name, findings.append))
    assert all(record.values in ({"a": 1}, {"a": "1", "b": "2"}) for record in records)
    assert findings[0].level == "error"
    assert where in findings[0].where
    assert message in findings[0].message
    assert "--errors" not in findings[0].message  # an option of pre-training


def test_an_id_that_comes_again_is_reported(tmp_path: Path) -> None:
    lines = [
        {"id": id, "text": text} for id, text in (("a", "x"), ("b", "y"), ("a", "z"), ("", "v"), ("", "w"))
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    findings: list[Finding] = []
    assert len(list(read_records(path, findings.append))) == len(lines)
    assert findings == [Finding("warning", f"{path}:3", f"the id 'a' stands at {path}:1 already")]
    assert len(list(read_records(path, findings.append, report_ids=False))) == len(lines)
    assert len(findings) == 1


def test_a_file_in_another_encoding_is_not_half_used(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("text,label\n비가 온다,날씨\n눈이 온다,날씨\n".encode("cp949"))
    findings: list[Finding] = []
    assert list(read_records(path, findings.append)) == []
    assert "cp949" in findings[0].message


def test_conll_has_tabs_or_spaces_documents_and_comments(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text(
        "-DOCSTART- -X- O O\n\n# id = 7\nMina NNP B-NP B-PER\n# X X O\n\n\n서울 시\tB-LOC\n은\tO\n",
        encoding="utf-8",
    )
    first, second = read_conll(path, raises)
    assert [(one.token, one.tag) for one in first] == [("Mina", "B-PER"), ("#", "O")]
    assert [(one.token, one.tag, one.where) for one in second] == [
        ("서울 시", "B-LOC", f"{path}:8"),
        ("은", "O", f"{path}:9"),
    ]


def test_a_sentence_with_a_line_of_one_column_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text("a O\nb\nc O\n\nd O", encoding="utf-8")
    findings: list[Finding] = []
    assert [[one.token for one in each] for each in read_conll(path, findings.append)] == [["d"]]
    assert [finding.where for finding in findings] == [f"{path}:2"]


def test_many_bad_rows_stop_and_few_do_not() -> None:
    path = Path("a.jsonl")
    bad = [Finding("error", "a.jsonl:3", "broken"), *[Finding("warning", "", "")] * 50]
    raise_when_many(bad, 99, path, "chat", allow_skips=False)
    with pytest.raises(UserError, match=r"1 of 99 rows.*a\.jsonl:3: broken.*data check --task chat a\.jsonl"):
        raise_when_many(bad, 98, path, "chat", allow_skips=False)
    raise_when_many(bad, 1, path, "chat", allow_skips=True)
    with pytest.raises(UserError, match=r"no example for chat.*broken"):
        raise_when_many(bad, 0, path, "chat", allow_skips=True)


def test_how_data_were_read_is_a_line_for_each_way_and_no_finding() -> None:
    read = [Finding("read", f"{name}.csv", 'text = "body"') for name in "abc"]
    lines = lines_about([*read, Finding("read", "d.csv", "other"), Finding("note", "d.csv:2", "odd")], "ner")
    assert lines[:2] == ['a.csv and 2 files more: text = "body"', "d.csv: other"]
    assert lines[2].startswith("data: 1 note; the first, d.csv:2: odd")
    assert lines_about(read[:1], "ner") == ['a.csv: text = "body"']


# ---- files of text, and what `fields` say of files


def records(path: Path, **fields: str) -> tuple[list[dict[str, object]], list[Finding]]:
    findings: list[Finding] = []
    found = [one.values for one in read_records(path, findings.append, texts=True, fields=fields)]
    return found, findings


def test_a_txt_file_is_fasttexts_or_has_tabs(tmp_path: Path) -> None:
    lines = "__label__good 비가 온다\n\n__label__a __label__b x y\nnone\n"
    (tmp_path / "a.txt").write_text(lines, encoding="utf-8")
    found, findings = records(tmp_path / "a.txt")
    assert found == [{"text": "비가 온다", "label": "good"}, {"text": "x y", "label": ["a", "b"]}]
    assert [one.where.rpartition(":")[2] for one in findings] == ["4"]
    (tmp_path / "b.txt").write_text('id\tdocument\tlabel\n1\t"와"... 좋다\t1\n', encoding="utf-8")
    assert records(tmp_path / "b.txt") == ([{"id": "1", "document": '"와"... 좋다', "label": "1"}], [])
    (tmp_path / "c.txt").write_text("Only words.\n", encoding="utf-8")
    found, (finding,) = records(tmp_path / "c.txt")
    assert "expected lines of __label__NAME and a text" in finding.message


def test_beside_rows_a_txt_file_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "about.txt").write_text("Only words.\n", encoding="utf-8")
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    assert records(tmp_path) == ([{"text": "a"}], [])


def test_a_path_within_a_row_is_a_column(tmp_path: Path) -> None:
    row = {"data": {"review": "좋다"}, "turns": [{"text": "a"}, {"text": "b"}]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row), encoding="utf-8")
    (found,), _ = records(tmp_path / "a.jsonl", text="data.review", label="turns.1.text", other="a.b")
    assert found == row | {"data.review": "좋다", "turns.1.text": "b"}


def test_fields_say_how_files_are_written(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("text/label\n비가, 온다/흐림\n".encode("cp949"))
    found, findings = records(tmp_path / "a.csv", encoding="cp949", delimiter="/")
    assert found == [{"text": "비가, 온다", "label": "흐림"}]
    assert findings == []
    assert "or give `encoding` cp949" in records(tmp_path / "a.csv")[1][0].message


def test_only_tabs_and_plain_spaces_stand_between_columns(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text(
        "\u3000\tO\n10\u00a0000 B-X\r\n\u2009 O\n \n\u00a0\tO\n", encoding="utf-8"
    )
    findings: list[Finding] = []
    first, second = read_conll(tmp_path, findings.append)
    assert [(one.token, one.tag) for one in first] == [
        ("\u3000", "O"),
        ("10\u00a0000", "B-X"),
        ("\u2009", "O"),
    ]
    assert [one.token for one in second] == ["\u00a0"]
    assert findings == []
