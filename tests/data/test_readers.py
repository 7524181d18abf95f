from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from malmoi.core.errors import UserError
from malmoi.core.nouns import silent
from malmoi.data import opening
from malmoi.data.opening import DocumentRow, encoding_of
from malmoi.data.readers import find_files, open_corpus, raise_errors, read_documents, read_rows

TEXTS = [
    "The boat left.\nNobody waved.",
    "배가 떠났다, 아무도 손을 흔들지 않았다.",
    'She said "go" 🫠',
    "a,b",
]


def jsonl(texts: Sequence[str]) -> bytes:
    return "".join(json.dumps({"id": 1, "text": text}) + "\n" for text in texts).encode()


def table(texts: Sequence[str]) -> bytes:
    out = io.StringIO()
    csv.writer(out).writerows([("id", "text"), *((str(id), text) for id, text in enumerate(texts))])
    return out.getvalue().encode()


def tabs(texts: Sequence[str]) -> bytes:
    return "".join(f"{id}\t{text}\n" for id, text in [("id", "text"), *enumerate(texts)]).encode()


def columns(texts: Sequence[str]) -> bytes:
    out = io.BytesIO()
    parquet.write_table(pyarrow.table({"id": range(len(texts)), "text": list(texts)}), out)
    return out.getvalue()


FORMATS: dict[str, Callable[[Sequence[str]], bytes]] = {
    "jsonl": jsonl,
    "csv": table,
    "tsv": tabs,
    "parquet": columns,
}


def write(path: Path, content: bytes | str) -> Path:
    content = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def error_of(path: Path, **options: str) -> str:
    with pytest.raises(UserError) as caught:
        list(read_documents(path, **options))  # type: ignore[arg-type]
    return str(caught.value)


# ---- formats


@pytest.mark.parametrize("gz", ["", ".gz"])
@pytest.mark.parametrize("extension", FORMATS)
def test_a_row_is_a_document(extension: str, gz: str, tmp_path: Path) -> None:
    texts = [text.replace("\n", " ") for text in TEXTS] if extension == "tsv" else TEXTS
    path = write(tmp_path / f"a.{extension}{gz}", FORMATS[extension](texts))
    assert list(read_documents(path)) == texts


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.TXT", "a.txt.gz"])
def test_a_plain_text_is_one_document(name: str, tmp_path: Path) -> None:
    text = "\ufeff" + "\n\n".join(TEXTS)
    assert list(read_documents(write(tmp_path / name, text))) == [text.removeprefix("\ufeff")]


def test_a_long_text_comes_in_pieces_cut_at_blank_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "PIECE", 64)
    text = "".join(f"바람 {number}\n바다\n\n" for number in range(60))
    path = write(tmp_path / "a.txt", text)
    rows = list(read_rows([path], errors="strict", field="text", report=raise_errors))
    assert "".join(row.text for row in rows) == text
    assert len(rows) > 5
    assert all(row.text.endswith("\n\n") and len(row.text) <= 128 for row in rows)
    for row in rows:
        line = int(row.where.removeprefix(f"{path}:"))
        assert text.split("\n")[line - 1] == row.text.split("\n")[0]


@given(text=st.text(max_size=200), piece=st.integers(1, 20))
@settings(max_examples=50, deadline=None)
def test_any_text_comes_back_whole(tmp_path_factory: pytest.TempPathFactory, text: str, piece: int) -> None:
    path = write(tmp_path_factory.getbasetemp() / "any.txt", text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "PIECE", piece)
        rows = list(read_rows([path], errors="strict", field="text", report=raise_errors))
    assert "".join(row.text for row in rows) == text.removeprefix("\ufeff")


def test_a_folder_is_read_in_sorted_order_less_what_is_no_text(tmp_path: Path) -> None:
    write(tmp_path / "b.txt", "second")
    write(tmp_path / "a" / "z.jsonl", jsonl(["first"]))
    for name in ("README.md", "license.txt", ".hidden.txt", ".git/x.txt", "picture.png"):
        write(tmp_path / name, "not this")
    assert list(read_documents(tmp_path)) == ["first", "second"]


def test_another_field_can_hold_the_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "id, body \n1,hello\n")
    assert list(read_documents(path, field="body")) == ["hello"]


def test_json_strings_may_hold_other_line_separators(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "a\u2028b\x85c"}\r\n\r\n{"text": "d"}')
    assert list(read_documents(path)) == ["a\u2028b\x85c", "d"]


def test_a_cell_may_be_long_and_hold_lines(tmp_path: Path) -> None:
    text = "word\n" * 40_000
    assert list(read_documents(write(tmp_path / "a.csv", table([text, "b"])))) == [text, "b"]


def test_documents_stream(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", jsonl(["word " * 1000] * 1000) + b"not json")
    documents = read_documents(path)
    assert [next(documents) for _ in range(300)]  # the broken end is not read yet


# ---- mistakes


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "a"}\n{"text": \n', 'a.jsonl:2: expected {"text": ...}, found {"text":'),
        ("a.jsonl", '{"text": "a"}\n["b"]\n', "a.jsonl:2: expected"),
        ("a.jsonl", "[" * 100_000, "a.jsonl:1: expected"),
        ("a.jsonl", '{"txt": "a"}\n', "a.jsonl:1: no field \"text\" among txt; did you mean 'txt'?"),
        ("a.jsonl", '{"text": 3}\n', 'a.jsonl:1: "text" must be a string, found int 3'),
        ("a.jsonl", '{"text": null}\n', "found null"),
        ("a.jsonl", '{"text": "\\ud83d"}\n', "a.jsonl:1: holds half a character"),
        ("a.csv", "id,text\n1,a\n2,b,c\n", "a.csv:3: expected 2 cells as in the header, found 3"),
        ("a.csv", 'id,text\n1,"a\n', "a.csv:2: broken row"),
        ("a.csv", 'id,text\n1,"a\n2,b"\n3\n', "a.csv:4: expected 2 cells"),
        ("a.csv", 'id,text\n1,"a\n2,"b"\n3,c\n', "a.csv:2: broken row, which ends on line 3"),
        ("a.csv", "id,body\n1,a\n", 'a.csv:1: no field "text" among body, id; name the one with the text'),
        ("a.tsv", "id\ttext\n1\n", "a.tsv:2: expected 2 cells"),
        ("a.parquet", "not at all", "not a readable parquet file"),
        ("a.txt", b"ab\ncd\xff\xfee", "a.txt:2: byte 0xff at offset 5 is not UTF-8"),
        ("a.txt", "한글 문서입니다".encode("cp949"), "it looks like cp949: save it as UTF-8"),
        ("a.txt", "naïve café".encode("cp1252"), "it looks like cp1252"),
        ("a.txt", "두 바이트".encode("utf-16") + b"!", "a.txt:1: byte 0x21 at offset 12 is not UTF-16"),
        ("a.csv", b"PK\x03\x04" + bytes(30), "a.csv: is a zip archive or an Excel workbook; unpack it"),
        ("a.xlsx", b"PK\x03\x04junk", "a.xlsx: is no readable workbook"),
        ("a.txt", bytes(range(256)), "byte 0x80 at offset 128 is not UTF-8"),
        ("a.txt", "가".encode()[:2], "a.txt:1: byte 0xea at offset 0 is not UTF-8"),
        ("a.txt", "", "a.txt is empty"),
        ("a.jsonl", "\n\n", "a.jsonl is empty"),
        ("a.jsonl", '{"text": " "}\n', "a.jsonl is empty"),
        ("a.parquet.gz", "not at all", "not a readable parquet file"),
        ("a.pdf", "%PDF", 'the extension ".pdf" is not a text format; known: .txt'),
    ],
)
def test_a_mistake_says_where(name: str, content: bytes | str, message: str, tmp_path: Path) -> None:
    error = error_of(write(tmp_path / name, content))
    assert message in error
    assert "\n" not in error


def test_a_broken_gz_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"text " * 1000)[:-20])
    (tmp_path / "b.txt.gz").write_bytes(b"text")
    assert "a.txt.gz: cannot be read" in error_of(tmp_path / "a.txt.gz")
    assert "b.txt.gz: cannot be read" in error_of(tmp_path / "b.txt.gz")


def test_missing_and_textless_paths_are_named(tmp_path: Path) -> None:
    assert "nowhere does not exist" in error_of(tmp_path / "nowhere")
    write(tmp_path / "picture.png", "")
    assert "holds no text file" in error_of(tmp_path)


def test_offsets_are_right_far_into_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "PIECE", 7)
    content = "가나다\n".encode() * 10
    error = error_of(write(tmp_path / "a.txt", content + b"\xb0" + content))
    assert f"a.txt:11: byte 0xb0 at offset {len(content)} is not UTF-8" in error


def test_replace_goes_on(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", b"ab\xff\xfecd")
    write(tmp_path / "b.jsonl", '{"text": "x\\ud83dy"}')
    assert list(read_documents(tmp_path, errors="replace")) == ["ab\ufffd\ufffdcd", "x\ufffdy"]


def test_reading_can_go_past_bad_rows(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", '{"text": "a"}\n{\n{"text": ""}\n{"text": "b"}\n')
    write(tmp_path / "b.csv", "id,text\n1,c,d\n2,e\n")
    write(tmp_path / "c.txt", b"\xff!")
    told: list[tuple[str, str]] = []
    rows = list(
        read_rows(
            find_files(tmp_path),
            errors="strict",
            field="text",
            report=lambda found: told.append((found.level, Path(found.where).name)),
        )
    )
    assert [row.text for row in rows] == ["a", "b", "e", "\ufffd!"]
    assert told == [
        ("error", "a.jsonl:2"),
        ("warning", "a.jsonl:3"),
        ("error", "b.csv:2"),
        ("error", "c.txt:1"),
    ]
    assert rows[1] == DocumentRow("b", f"{tmp_path / 'a.jsonl'}:4")


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (b"plain", "ASCII"),
        ("글".encode(), "UTF-8"),
        ("글".encode("utf-8-sig"), "UTF-8 with a byte-order mark"),
        ("글자들".encode("cp949"), "cp949"),
        (b"\x81\xff\x00", "unknown"),
    ],
)
def test_encodings_are_kept_apart(content: bytes, encoding: str, tmp_path: Path) -> None:
    assert encoding_of(write(tmp_path / "a.txt", content)) == encoding


# ---- what is held out


def test_one_text_has_its_end_held_out_and_says_so(tmp_path: Path) -> None:
    text = "".join(f"line {number} 줄\n" for number in range(100))
    corpus = open_corpus(write(tmp_path / "a.txt", text))
    train, valid = "".join(corpus.train()), "".join(corpus.valid())
    assert train + valid == text
    assert train.endswith("\n")
    assert 0.08 < len(valid) / len(text) < 0.12
    assert "last 10% of the text held out" in corpus.note


def test_documents_are_held_out_by_their_hash(tmp_path: Path) -> None:
    texts = [f"document {number}" for number in range(300)]
    one = open_corpus(write(tmp_path / "a.jsonl", jsonl([*texts, *texts])))
    train, valid = list(one.train()), list(one.valid())
    assert sorted(train + valid) == sorted([*texts, *texts])
    assert set(train).isdisjoint(valid)
    assert len(set(valid)) == 30
    assert "10% of the documents held out for validation, by hash" in one.note
    other = open_corpus(write(tmp_path / "b.jsonl", jsonl(texts[::-1])))
    assert set(other.valid()) == set(valid)  # whatever the order


def test_a_few_documents_have_their_end_held_out(tmp_path: Path) -> None:
    texts = [f"Document {number} has one line.\nAnd another.\n" for number in range(5)]
    corpus = open_corpus(write(tmp_path / "a.jsonl", jsonl(texts)), hold_out=0.3)
    train, valid = list(corpus.train()), list(corpus.valid())
    assert "".join(train + valid) == "".join(texts)
    assert train
    assert valid


def test_files_named_for_a_split_are_that_split(tmp_path: Path) -> None:
    for name in ("train-0.txt", "training/x.txt", "val.txt", "dev_1.txt", "test.txt", "trained.txt"):
        write(tmp_path / name, name)
    corpus = open_corpus(tmp_path)
    assert list(corpus.train()) == ["train-0.txt", "training/x.txt"]
    assert list(corpus.valid()) == ["dev_1.txt", "val.txt"]
    assert corpus.note == "validation on dev_1.txt, val.txt; left out, as not named train*: 1 of the files"


def test_an_explicit_validation_file_wins_and_is_not_trained_on(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        write(tmp_path / name, name)
    corpus = open_corpus(tmp_path, valid=tmp_path / "b.txt")
    assert (list(corpus.train()), list(corpus.valid())) == (["a.txt"], ["b.txt"])


def test_too_little_to_split_is_an_error(tmp_path: Path) -> None:
    for content, wrong in (("", "holds no text"), (" \n\u3000\n", "holds no text"), ("a", "too little text")):
        with pytest.raises(UserError, match=wrong):
            open_corpus(write(tmp_path / "a.txt", content))
    write(tmp_path / "only" / "valid.txt", "text")
    with pytest.raises(UserError, match="no file to train on"):
        open_corpus(tmp_path / "only")


def test_a_corpus_can_be_read_past_bad_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", jsonl([f"text {n}" for n in range(30)]) + b"broken\n")
    with pytest.raises(UserError, match=r"a\.jsonl:31"):
        open_corpus(path)
    corpus = open_corpus(path, report=silent)
    assert len([*corpus.rows("train", silent), *corpus.rows("valid", silent)]) == 30


def test_folders_that_malmoi_made_are_not_text(tmp_path: Path) -> None:
    write(tmp_path / "mine.txt", "my own words")
    write(tmp_path / "model" / "run.json", "{}")
    write(tmp_path / "model" / "metrics.jsonl", '{"step": 1}')
    write(tmp_path / "demo" / "demo.json", "{}")
    write(tmp_path / "demo" / "world" / "train.jsonl", '{"text": "Noru"}')
    assert list(read_documents(tmp_path)) == ["my own words"]
    assert list(read_documents(tmp_path / "demo" / "world")) == ["Noru"]


def test_files_without_a_role_are_reported(tmp_path: Path) -> None:
    for name in ("train-journey.txt", "novel.txt", "poems.txt", "valid.txt"):
        write(tmp_path / name, f"a line of {name}\n" * 30)
    assert "left out, as not named train*: 2 of the files" in open_corpus(tmp_path).note


@pytest.mark.parametrize("text", ["Title\n" + "x" * 10_000, "Title\n" + "word " * 2_000, "a\n" * 5_000])
def test_about_a_tenth_of_one_text_is_held_out(tmp_path: Path, text: str) -> None:
    corpus = open_corpus(write(tmp_path / "a.txt", text))
    held = sum(map(len, corpus.valid()))
    assert 0.05 * len(text) < held < 0.2 * len(text)
    assert "".join([*corpus.train(), *corpus.valid()]) == text


def test_about_a_tenth_of_two_unequal_documents_is_held_out(tmp_path: Path) -> None:
    lines = [json.dumps({"text": "x " * count}) for count in (5, 5_000)]
    corpus = open_corpus(write(tmp_path / "a.jsonl", "\n".join(lines)))
    assert 500 < sum(map(len, corpus.valid())) < 2_000


def test_files_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    for folder in ("train", "valid"):
        write(tmp_path / folder / "part-0.txt", f"{folder} text")
    assert set(open_corpus(tmp_path).files) == {"train/part-0.txt", "valid/part-0.txt"}
