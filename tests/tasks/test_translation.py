from __future__ import annotations

from pathlib import Path

import pytest

from malmoi.core.errors import UserError
from malmoi.core.nouns import Example, Finding
from malmoi.tasks.translation import Translation


def read(path: Path | str, **fields: str) -> tuple[list[tuple[str, str]], list[Finding]]:
    findings: list[Finding] = []
    found = Translation(fields).read(Path(path), findings.append)
    return [(one.input, one.target) for one in found], findings


PAIRS = [("A boat left.", "배가 떠났다."), ("It rains.", "비가 온다.")]
TURNED = [(two, one) for one, two in PAIRS]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.en").write_text("A boat left.\nIt rains.\n", encoding="utf-8")
    (tmp_path / "a.ko").write_text("배가 떠났다.\n비가 온다.\n", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "a.jsonl",
            '{"en": "A boat left.", "ko": "배가 떠났다."}\n{ "en": "It rains.", "ko": "비가 온다."}',
        ),
        ("a.csv", "source,target\nA boat left.,배가 떠났다.\nIt rains.,비가 온다."),
        ("a.tsv", "en\tko\nA boat left.\t배가 떠났다.\nIt rains.\t비가 온다."),
        ("a.tsv", "A boat left.\t배가 떠났다.\nIt rains.\t비가 온다.\n"),
        (
            "a.json",
            '[{"target": "배가 떠났다.", "x": "A boat left."}, {"target": "비가 온다.", "x": "It rains."}]',
        ),
    ],
)
def test_rows_of_two_texts(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert read(tmp_path / name) == (PAIRS, [])


def test_fields_turn_the_direction_round(folder: Path) -> None:
    (folder / "b.jsonl").write_text('{"en": "It rains.", "ko": "비가 온다."}', encoding="utf-8")
    turned = {"source": "ko", "target": "en"}
    assert read(folder / "b.jsonl", **turned)[0] == TURNED[1:]
    (folder / "b.jsonl").unlink()
    assert read(folder, **turned)[0] == TURNED
    assert read(folder, source="ko")[0] == TURNED


def test_parallel_files_by_folder_prefix_or_names(folder: Path) -> None:
    for path in (folder, folder / "a", f"{folder / 'a.en'},{folder / 'a.ko'}"):
        assert read(path) == (PAIRS, [])
    assert read(f"{folder / 'a.ko'},{folder / 'a.en'}")[0] == TURNED


def test_parallel_files_need_as_many_lines(folder: Path) -> None:
    (folder / "a.ko").write_text("배가 떠났다.\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.en: has 2 lines, but .*a\.ko has 1"):
        Translation().load(folder)


def test_a_missing_side_is_reported(folder: Path) -> None:
    (folder / "a.ko").write_text("배가 떠났다.\n\n", encoding="utf-8")
    found, findings = read(folder)
    assert found == PAIRS[:1]
    assert findings[0].where == f"{folder / 'a.en'}:2"
    (folder / "b.jsonl").write_text(
        '{"en": "a", "ko": "b"}\n{"en": "a"}\n{"en": "", "ko": "b"}', encoding="utf-8"
    )
    found, findings = read(folder / "b.jsonl")
    assert len(found) == 1
    assert [one.where.rpartition(":")[2] for one in findings] == ["2", "3"]
    (folder / "c.tsv").write_text("a b\tc\nd\n\ne f\tg\nh\ti\tj", encoding="utf-8")
    found, findings = read(folder / "c.tsv")
    assert found == [("a b", "c"), ("e f", "g")]
    assert [one.where for one in findings] == [f"{folder / 'c.tsv'}:{line}" for line in (2, 5)]
    assert "expected two cells, found 3" in findings[1].message


def test_rows_without_two_texts_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"en": "a"}', encoding="utf-8")
    assert 'no "target"' in read(tmp_path / "a.jsonl")[1][0].message
    with pytest.raises(UserError, match="does not exist"):
        read(tmp_path / "nothing")
    (tmp_path / "b.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="holds no example"):
        Translation().load(tmp_path / "b.jsonl")


def test_korean_targets_are_scored_by_characters() -> None:
    examples = [Example(one, two) for one, two in PAIRS]
    scores = Translation().score([two for _, two in PAIRS], examples)
    assert {name: score.value for name, score in scores.items()} == pytest.approx({"chrf": 100, "bleu": 100})
    assert "tok:char" in scores["bleu"].signature
    turned = Translation().statistics(["A boat left.", None], [Example(two, one) for one, two in PAIRS])
    assert "tok:13a" in turned["bleu"].signature


@pytest.mark.parametrize(
    ("target", "text", "asked"),
    [
        ("", "It rains.", "Translate this text into Korean. Reply"),
        ("", "비가 온다.", "다음 글을 영어로 번역하세요."),
        ("ko", "It rains.", "Translate this text into Korean. Reply"),
        ("en", "비가 온다.", "다음 글을 영어로 번역하세요."),
        ("de", "Korean rain.", "Translate this text into German. Reply"),
        ("ja", "영어 수업", "다음 글을 일본어로 번역하세요."),
        ("en", "Es regnet.", "Translate this text into English. Reply"),
        ("theirs", "It rains.", "Translate this text into Korean. Reply"),
    ],
)
def test_the_language_that_the_target_names_is_asked_for(target: str, text: str, asked: str) -> None:
    task = Translation({"target": target} if target else {})
    assert task.ask(text).startswith(asked)
    assert task.ask(text).endswith(text)
