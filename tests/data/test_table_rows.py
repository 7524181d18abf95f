"""Tables as programs write them: separators, quotes, line ends, encodings, workbooks."""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from malmoi.core.nouns import Finding
from malmoi.data.labelled import read_records

ROWS = [{"text": f"글 {number}, 그리고 더", "label": "good" if number % 2 else "bad"} for number in range(9)]


def read(path: Path) -> tuple[list[dict[str, Any]], list[Finding]]:
    findings: list[Finding] = []
    return [record.values for record in read_records(path, findings.append)], findings


def table(rows: list[dict[str, str]], **dialect: Any) -> str:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n", **dialect)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "delimiter", "said"),
    [
        ("a.csv", ",", ""),
        ("a.csv", ";", "separated by semicolons, not by commas"),
        ("a.csv", "\t", "separated by tabs, not by commas"),
        ("a.csv", "|", "separated by |, not by commas"),
        ("a.tsv", "\t", ""),
        ("a.tsv", ",", "separated by commas, not by tabs"),
        ("a.tab", "\t", ""),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_how_a_table_is_written_is_seen(
    name: str, delimiter: str, said: str, encoding: str, end: str, tmp_path: Path
) -> None:
    content = table(ROWS, delimiter=delimiter).replace("\n", end)
    (tmp_path / name).write_bytes(content.encode(encoding))
    rows, findings = read(tmp_path / name)
    assert rows == ROWS
    assert [finding.message for finding in findings if said not in finding.message] == []
    assert len(findings) == bool(said)


def test_the_line_that_only_excel_hides_names_the_separator(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("sep=;\n" + table(ROWS, delimiter=";"), encoding="utf-8")
    assert read(tmp_path / "a.csv")[0] == ROWS


def test_a_semicolon_in_texts_separates_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\na; b\nc\nd; e; f\n", encoding="utf-8")
    assert read(tmp_path / "a.csv") == ([{"text": "a; b"}, {"text": "c"}, {"text": "d; e; f"}], [])


@pytest.mark.parametrize("quoting", [csv.QUOTE_ALL, csv.QUOTE_MINIMAL])
def test_quotes_around_the_cells_of_a_tsv_are_no_text(quoting: int, tmp_path: Path) -> None:
    rows = [{"en": f'The "big" ferry {at}', "ko": "그는\t말했다\n끝"} for at in range(5)]
    (tmp_path / "a.tsv").write_text(table(rows, delimiter="\t", quoting=quoting), encoding="utf-8")
    assert read(tmp_path / "a.tsv") == (rows, [])


@pytest.mark.parametrize("cell", ['"Hello," he said.', '"Well.', 'a 5" disk', '"Oh."', '"', '""', "It's"])
def test_quotes_that_are_text_stay_in_a_tsv(cell: str, tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text(f"en\tko\n{cell}\t안녕\nplain\t{cell}\n", encoding="utf-8")
    assert read(tmp_path / "a.tsv") == ([{"en": cell, "ko": "안녕"}, {"en": "plain", "ko": cell}], [])


_CELL = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=6)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(_CELL, _CELL), min_size=1, max_size=6))
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_what_is_quoted_throughout_comes_back(
    rows: list[tuple[str, str]], delimiter: str, tmp_path: Path
) -> None:
    named = [{"text": one, "label": two} for one, two in rows]
    content = table(named, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    (tmp_path / "a.csv").write_text(content, encoding="utf-8", newline="")
    assert read(tmp_path / "a.csv")[0] == [row for row in named if "\ufffd" not in row["text"] + row["label"]]


def workbook(path: Path, sheets: dict[str, list[list[object]]]) -> None:
    """An .xlsx file with as little in it as may be."""
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"

    def cell(value: object) -> str:
        if isinstance(value, int | float):
            return f"<c><v>{value}</v></c>"
        return f'<c t="inlineStr"><is><t>{escape(str(value))}</t></is></c>'

    with zipfile.ZipFile(path, "w") as file:
        link = f'<Relationship Id="r0" Type="{office}/officeDocument" Target="xl/workbook.xml"/>'
        file.writestr("_rels/.rels", f'<Relationships xmlns="{package}/relationships">{link}</Relationships>')
        names = [f'<sheet name="{name}" sheetId="{at}" r:id="r{at}"/>' for at, name in enumerate(sheets, 1)]
        file.writestr(
            "xl/workbook.xml",
            f'<workbook xmlns="{main}" xmlns:r="{office}"><sheets>{"".join(names)}</sheets></workbook>',
        )
        links = [
            f'<Relationship Id="r{at}" Type="{office}/worksheet" Target="worksheets/s{at}.xml"/>'
            for at in range(1, len(sheets) + 1)
        ]
        file.writestr(
            "xl/_rels/workbook.xml.rels",
            f'<Relationships xmlns="{package}/relationships">{"".join(links)}</Relationships>',
        )
        for at, rows in enumerate(sheets.values(), 1):
            lines = "".join(f"<row>{''.join(map(cell, row))}</row>" for row in rows)
            sheet = f'<worksheet xmlns="{main}"><sheetData>{lines}</sheetData></worksheet>'
            file.writestr(f"xl/worksheets/s{at}.xml", sheet)


def test_a_workbook_is_its_first_sheet_that_has_rows(tmp_path: Path) -> None:
    filled = [["text", "label"], ["비가 온다", 1], ["해가 난다", 0.5]]
    workbook(tmp_path / "a.xlsx", {"empty": [], "리뷰": filled, "notes": [["x"], ["y"]]})
    rows, findings = read(tmp_path / "a.xlsx")
    assert rows == [{"text": "비가 온다", "label": 1}, {"text": "해가 난다", "label": 0.5}]
    assert [one.message for one in findings] == ["read is the sheet '리뷰'; left out: notes"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04junk", b"text,label\n"])
def test_a_broken_workbook_is_one_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_bytes(content)
    rows, findings = read(tmp_path / "a.xlsx")
    assert rows == []
    assert [finding.level for finding in findings] == ["error"]
    assert "is no readable workbook" in findings[0].message
