"""Translation memories."""

from __future__ import annotations

from pathlib import Path

import pytest

from malmoi.core.nouns import Finding
from malmoi.tasks.translation import Translation

TMX = """<?xml version="1.0"?><tmx version="1.4"><header srclang="en"/><body>
<tu><tuv xml:lang="en-US"><seg>The <bpt i="1">&lt;b&gt;</bpt>big<ept i="1">&lt;/b&gt;</ept> ferry</seg></tuv>
<tuv xml:lang="ko-KR"><seg>큰 <hi>배</hi></seg></tuv></tu>
<tu><tuv xml:lang="en-US"><seg>It rains.</seg></tuv><tuv xml:lang="ko-KR"><seg>비가 온다.</seg></tuv></tu>
</body></tmx>"""
XLIFF_1 = """<xliff version="1.2" xmlns="urn:oasis:names:tc:xliff:document:1.2">
<file source-language="en" target-language="ko"><body>
<trans-unit id="1"><source>The <g id="1">big</g> ferry</source><target>큰 배</target></trans-unit>
<trans-unit id="2"><source>It rains.<x id="1"/></source><target>비가 온다.</target></trans-unit>
</body></file></xliff>"""
XLIFF_2 = """<xliff version="2.0" srcLang="en" trgLang="ko" xmlns="urn:oasis:names:tc:xliff:document:2.0">
<file id="f"><unit id="1">
<segment><source>The <pc id="1">big</pc> ferry</source><target>큰 배</target></segment>
<segment><source>It rains.</source><target>비가 온다.</target></segment></unit></file></xliff>"""


def read(path: Path, content: str, **fields: str) -> tuple[list[tuple[str, str]], list[Finding]]:
    path.write_text(content, encoding="utf-8")
    findings: list[Finding] = []
    found = Translation(fields).read(path, findings.append)
    return [(one.input, one.target) for one in found], [one for one in findings if one.level != "read"]


@pytest.mark.parametrize(
    ("name", "content"), [("a.tmx", TMX), ("a.xlf", XLIFF_1), ("a.xliff", XLIFF_2)], ids=["tmx", "1.2", "2.0"]
)
def test_a_memory_has_pairs_without_the_marks_of_its_format(name: str, content: str, tmp_path: Path) -> None:
    pairs = [("The big ferry", "큰 배"), ("It rains.", "비가 온다.")]
    assert read(tmp_path / name, content) == (pairs, [])
    turned = [(target, source) for source, target in pairs]
    assert read(tmp_path / name, content, source="ko", target="en")[0] == turned


def test_a_unit_without_a_translation_and_a_cut_file_are_errors(tmp_path: Path) -> None:
    pairs, (finding,) = read(tmp_path / "a.xlf", XLIFF_1.replace("<target>큰 배</target>", ""))
    assert len(pairs) == 1
    assert "texts in two languages, found 1" in finding.message
    pairs, (finding,) = read(tmp_path / "a.tmx", TMX[:-30])
    assert "no whole XML" in finding.message


def test_the_hubs_pairs_are_columns(tmp_path: Path) -> None:
    row = '{"id": "0", "translation": {"en": "It rains.", "ko": "비가 온다."}}'
    assert read(tmp_path / "a.jsonl", row)[0] == [("It rains.", "비가 온다.")]
