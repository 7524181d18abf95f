from __future__ import annotations

from pathlib import Path

import pytest

from malmoi.core.errors import UserError
from malmoi.core.nouns import Question
from malmoi.tasks import make_task
from malmoi.tasks.inputs import inputs_of, read_inputs


def test_inputs_are_lines_or_rows(tmp_path: Path) -> None:
    task, folder = make_task("classification"), tmp_path / "raw"
    folder.mkdir()
    (folder / "a.txt").write_text("첫째 줄\n\nsecond\n첫째 줄\n", encoding="utf-8")
    (folder / "b.csv").write_text("review,label\nthird,x\n", encoding="utf-8")
    (folder / "c.jsonl").write_text('{"text": "넷째"}\n', encoding="utf-8")
    assert read_inputs(task, folder) == ["첫째 줄", "second", "third", "넷째"]
    (folder / "c.jsonl").write_text('{"number": 4}\n{"text": 5}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"2 wrong rows; the first, .*c.jsonl:1: .*`allow_skips`"):
        read_inputs(task, folder)
    said: list[str] = []
    assert len(read_inputs(task, folder, allow_skips=True, say=said.append)) == 3
    assert "2 rows left out" in said[0]


def test_an_input_is_a_text_or_each_line_of_a_file(tmp_path: Path) -> None:
    task, file = make_task("classification"), tmp_path / "lines"
    file.write_text('a goose\n\n"거위"\n{"text": "고양이"}\n', encoding="utf-8")
    assert inputs_of(task, str(file)) == (["a goose", "거위", "고양이"], True)
    assert inputs_of(task, "a goose") == (["a goose"], False)
    assert inputs_of(task, "see none.txt") == (["see none.txt"], False)
    for name, wrong in (("none.txt", "does not exist"), ("none.feather", "does not exist")):
        with pytest.raises(UserError, match=wrong):
            inputs_of(task, name)
    file.write_text('goose\n{"text": 5}\n', encoding="utf-8")
    with pytest.raises(UserError, match="lines:2: "):
        inputs_of(task, str(file))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "id,Text\n1,a goose\n2,거위\n"),
        ("a.csv", "id;text\n1;a goose\n2;거위\n"),
        ("a.tsv", "id\ttext\n1\ta goose\n2\t거위\n"),
        ("a.json", '[{"text": "a goose"}, {"text": "거위"}]'),
        ("a.jsonl", '{"text": "a goose"}\n"거위"\n'),
    ],
)
def test_the_rows_of_a_table_are_inputs(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    task = make_task("classification")
    assert inputs_of(task, str(tmp_path / name)) == (["a goose", "거위"], True)
    (tmp_path / "b.csv").write_text("id,other\n1,2\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"b\.csv:2: classification takes a text"):
        inputs_of(task, str(tmp_path / "b.csv"))


def test_a_context_makes_questions(tmp_path: Path) -> None:
    task, text = make_task("question-answering"), tmp_path / "text.txt"
    text.write_text("Ann sang.", encoding="utf-8")
    for context in ("Ann sang.", str(text)):
        assert inputs_of(task, "Who sang?", context) == ([Question("Who sang?", "Ann sang.")], False)
    with pytest.raises(UserError, match="`context` is for question-answering"):
        inputs_of(make_task("ner"), "Ann", "Ann sang.")


def test_files_are_read_as_the_user_says_and_a_method_does_not_keep_it(tmp_path: Path) -> None:
    task = make_task("classification", {"encoding": "cp949", "delimiter": "/", "text": "body"})
    (tmp_path / "a.csv").write_bytes("id/body\n1/거위\n".encode("cp949"))
    (tmp_path / "a.txt").write_bytes("거위\n".encode("cp949"))
    for name in ("a.csv", "a.txt"):
        assert inputs_of(task, str(tmp_path / name)) == (["거위"], True)
    assert task.columns == {"text": "body"}
