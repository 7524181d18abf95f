from __future__ import annotations

from pathlib import Path

from malmoi.core.nouns import Example, Finding
from malmoi.tasks.summarization import Summarization

ROWS = """\
{"document": "긴 글이 여기에 있다.", "summary": " 긴 글 "}
{"article": "A long text stands here.", "highlights": ["A text.", "Long text."]}
{"document": "no summary", "summary": ""}
{"document": "no summary", "summary": []}
{"document": null, "summary": "a"}
"""


def test_rows_have_one_summary_or_several(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(ROWS, encoding="utf-8")
    findings: list[Finding] = []
    assert Summarization().read(path, findings.append) == [
        Example("긴 글이 여기에 있다.", "긴 글", f"{path}:1"),
        Example("A long text stands here.", "A text.", f"{path}:2", ("Long text.",)),
    ]
    assert [finding.where.rpartition(":")[2] for finding in findings] == ["3", "4", "5"]


def test_the_best_summary_counts() -> None:
    example = Example("A long text stands here.", "A text.", "", ("긴 글이다.",))
    assert Summarization().score(["긴 글이다"], [example])["rouge_l"].value == 1
