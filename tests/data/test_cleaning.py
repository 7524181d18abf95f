from __future__ import annotations

import gzip
import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.core.errors import UserError
from malmoi.data import cleaning_table
from malmoi.data.cleaning import Cleaned, clean
from malmoi.data.cleaning_rules import Cleaning
from malmoi.data.cleaning_sources import text_sources
from malmoi.data.readers import find_files
from tests.data.test_check import EN, KO, jsonl, sentence

QUESTION = "Which of the two rivers that meet below the old stone bridge is the longer one?"


def run(
    path: Path, out: Path | None = None, tests: tuple[Path, ...] = (), errors: Any = "strict", **asked: Any
) -> Cleaned:
    return clean(text_sources(path, tests, field="text", errors=errors), Cleaning.of(**asked), out)


def rows(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def texts(path: Path) -> list[str]:
    return [row["text"] for row in rows(path)]


def dropped(out: Path) -> list[tuple[int, str]]:
    found = rows(out.with_name(f"{out.name}.dropped.jsonl"))
    return [(int(row["where"].rpartition(":")[2]), row["rule"]) for row in found]


def test_nothing_changes_but_what_is_named(tmp_path: Path) -> None:
    odd = [EN[0], EN[0], "", "e\u0301 \u200b", "mail me@example.com"]
    path = jsonl(tmp_path / "a.jsonl", odd)
    run(path, tmp_path / "out", fix=["nfc"])
    assert texts(tmp_path / "out" / "a.jsonl") == [EN[0], EN[0], "", "é \u200b", "mail me@example.com"]
    assert dropped(tmp_path / "out") == []


def test_without_a_name_every_rule_says_what_it_would_find(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [EN[0], EN[0], EN[0] + "!", "", "e\u0301", "me@example.com", KO[0]])
    found = run(path, tmp_path / "out")
    assert found.after is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl"]
    assert {name: found.dropped[name] for name in ("exact", "near", "empty", "few-words")} == {
        "exact": 1, "near": 1, "empty": 1, "few-words": 7,
    }  # fmt: skip
    assert (found.changed["nfc"], found.changed["email"]) == (1, 1)
    assert found.first["exact"] == f"{path}:2 (equals {path}:1)"
    assert found.before.rows == 7


def test_rows_keep_their_other_columns_and_their_order(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f'id,text,url\n1,"{EN[0]}",a\n2,"{EN[0]}",b\n3,"{KO[0]}",c\n', encoding="utf-8")
    run(path, tmp_path / "out", drop=["exact"], redact=["url"])
    assert rows(tmp_path / "out" / "a.jsonl") == [
        {"id": "1", "text": EN[0], "url": "a"}, {"id": "3", "text": KO[0], "url": "c"},
    ]  # fmt: skip


def test_every_dropped_row_is_listed_once_with_its_reason(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [*KO[:3], KO[1], KO[2] + " .", "  ", "Совет собрался утром"])
    found = run(path, tmp_path / "out", drop=["near", "exact", "empty", "language"])
    assert texts(tmp_path / "out" / "a.jsonl") == KO[:3]
    assert dropped(tmp_path / "out") == [(4, "exact"), (5, "near"), (6, "empty"), (7, "language")]
    listed = rows(tmp_path / "out.dropped.jsonl")
    assert listed[0]["why"] == f"equals {path}:2"
    assert listed[1]["why"].startswith(f"nearly equals {path}:3 (similarity ")
    assert found.after is not None
    assert (found.before.rows, found.after.rows) == (7, 3)
    summary = json.loads((tmp_path / "out.dropped.json").read_text())
    assert summary["after"]["rows"] == 3
    assert summary["dropped"] == {"empty": 1, "language": 1, "exact": 1, "near": 1}


def test_the_list_of_dropped_rows_is_no_data(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "raw" / "a.jsonl", [EN[0], EN[0]])
    run(path, tmp_path / "data" / "a.jsonl", drop=["exact"]) if (tmp_path / "data").mkdir() is None else None
    assert sorted(it.name for it in (tmp_path / "data").iterdir()) == [
        "a.dropped.json", "a.dropped.jsonl", "a.jsonl",
    ]  # fmt: skip
    assert [it.name for it in find_files(tmp_path / "data")] == ["a.jsonl"]


def test_parts_are_kept_apart_and_cleaned_each(tmp_path: Path) -> None:
    jsonl(tmp_path / "in" / "train.jsonl", [EN[0], EN[1] + " !", EN[2], EN[2], f"{EN[3]} {QUESTION} {EN[4]}"])
    jsonl(tmp_path / "in" / "valid.jsonl", [EN[1], EN[5], EN[5]])
    jsonl(tmp_path / "in" / "test.jsonl", [EN[0], EN[5]])
    bench = tmp_path / "benchmark.txt"
    bench.write_text(f"{QUESTION.lower()}\nAnother question?\n", encoding="utf-8")
    out = tmp_path / "out"
    found = run(tmp_path / "in", out, (bench,), drop=["leaks", "exact"])
    assert [texts(out / f"{part}.jsonl") for part in ("train", "valid", "test")] == [
        [EN[2]],
        [EN[1]],
        [EN[0], EN[5]],
    ]
    assert found.parts == {"test files": 2, "test": 2, "valid": 3, "train": 5}
    reasons = [row["why"] for row in rows(tmp_path / "out.dropped.jsonl")]
    assert f"holds the text of {bench}:1" in reasons
    assert f"equals {tmp_path / 'in' / 'test.jsonl'}:1" in reasons
    assert run(tmp_path / "in", tmp_path / "only", drop=["exact"]).dropped == {"exact": 2}


def test_leaks_need_something_to_be_kept_apart_from(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", EN)
    with pytest.raises(UserError, match="nothing to compare with"):
        run(path, tmp_path / "out", drop=["leaks"])
    with pytest.raises(UserError, match="does nothing without `drop` leaks"):
        run(path, tmp_path / "out", (path,), drop=["exact"])
    assert run(path, None, (path,)).dropped["leaks"] == len(EN)


def test_texts_of_any_column_of_a_benchmark_are_kept_apart(tmp_path: Path) -> None:
    bench = tmp_path / "bench.jsonl"
    bench.write_text(json.dumps({"question": QUESTION, "choices": [EN[1], "b"]}) + "\n")
    path = jsonl(tmp_path / "a.jsonl", [EN[0], EN[1], f"so: {QUESTION}"])
    run(path, tmp_path / "out", (bench,), drop=["leaks"])
    assert texts(tmp_path / "out" / "a.jsonl") == [EN[0]]


def test_lines_of_many_texts_go_but_not_those_of_repeats(tmp_path: Path) -> None:
    footer, menu = "무단 전재 및 재배포 금지", "Home | News | About us"
    many = [f"{menu}\n{sentence(number)}\n네.\n{footer}" for number in range(100, 112)]
    repeated = [f"{EN[0]}\n{EN[1]}"] * 12
    path = jsonl(tmp_path / "a.jsonl", [*many, *repeated, footer])
    found = run(path, tmp_path / "out", fix=["boilerplate"])
    kept = texts(tmp_path / "out" / "a.jsonl")
    assert kept[:12] == [f"{sentence(number)}\n네." for number in range(100, 112)]
    assert kept[12:] == [*repeated, footer]  # a text of one line stays
    assert found.lines == {footer: 12, menu: 12}
    assert found.changed["boilerplate"] == 2


def test_a_text_of_boilerplate_alone_is_empty(tmp_path: Path) -> None:
    lines = "first common line\nsecond common line"
    path = jsonl(tmp_path / "a.jsonl", [*(f"{lines}\n{sentence(n)}" for n in range(100, 110)), lines])
    found = run(path, tmp_path / "out", fix=["boilerplate"], drop=["empty"])
    assert dropped(tmp_path / "out") == [(11, "empty")]
    assert found.dropped == {"empty": 1}


def test_plain_texts_stay_plain(tmp_path: Path) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "a.txt").write_bytes(f"{EN[0]}\r\n\r\n끝\n".encode())
    (tmp_path / "in" / "sub" / "b.md").write_text(KO[0], encoding="utf-8")
    (tmp_path / "in" / "sub" / "c.txt.gz").write_bytes(gzip.compress(KO[0].encode()))
    run(tmp_path / "in", tmp_path / "out", fix=["invisible"], drop=["exact"])
    assert (tmp_path / "out" / "a.txt").read_bytes() == f"{EN[0]}\n\n끝\n".encode()
    assert sorted(str(it.relative_to(tmp_path / "out")) for it in (tmp_path / "out").rglob("*.*")) == [
        "a.txt", "sub/b.md",
    ]  # fmt: skip


def test_rows_that_cannot_be_read_stop_the_command_or_are_listed(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", EN[:2])
    path.write_text(path.read_text() + '{"text": \n{"txt": "a"}\n{"text": 3}\n')
    with pytest.raises(UserError, match=r"a.jsonl:3: .*`drop` unreadable"):
        run(path, tmp_path / "out", drop=["exact"])
    run(path, tmp_path / "out", drop=["unreadable"])
    assert dropped(tmp_path / "out") == [(3, "unreadable"), (4, "unreadable"), (5, "unreadable")]
    latin = tmp_path / "b.txt"
    latin.write_bytes("caf\u00e9 au lait".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        run(latin, tmp_path / "b", drop=["unreadable"])
    run(latin, tmp_path / "b", drop=["unreadable"], errors="replace")
    assert (tmp_path / "b" / "b.txt").read_text() == "caf\ufffd au lait"


def test_what_out_may_be(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "in" / "a.jsonl", EN)
    jsonl(tmp_path / "in" / "b.jsonl", KO)
    run(path, tmp_path / "one.jsonl", drop=["exact"])
    assert texts(tmp_path / "one.jsonl") == EN
    with pytest.raises(UserError, match="there already"):
        run(path, tmp_path / "one.jsonl", drop=["exact"])
    with pytest.raises(UserError, match="several files"):
        run(tmp_path / "in", tmp_path / "two.jsonl", drop=["exact"])
    with pytest.raises(UserError, match=r"written as .jsonl"):
        run(path, tmp_path / "one.txt", drop=["exact"])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"drop": ["nearr"]}, "`drop` 'nearr' is not known; did you mean 'near'"),
        ({"fix": ["exact"]}, "`fix` 'exact' is not known"),
        ({"languages": ["kr"]}, "`languages` 'kr' is not known"),
        ({"redact": ["mail"]}, "did you mean 'email'"),
        ({"limits": {"min_word": 2}}, "did you mean 'min_words'"),
        ({"limits": {"min_words": 2.5}}, "whole number"),
        ({"limits": {"near": "high"}}, "must be a number"),
    ],
)
def test_unknown_names_are_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Cleaning.of(**asked)


class Stopped(BaseException):
    """As a kill does: nothing may catch it."""


def outputs(folder: Path) -> dict[str, bytes]:
    files = (it for it in folder.rglob("*") if it.is_file())
    return {str(it.relative_to(folder)): it.read_bytes() for it in files}


EVERYTHING = {
    "fix": ["nfc", "invisible", "boilerplate"],
    "drop": ["exact", "near", "leaks", "empty"],
    "redact": ["email"],
}


@pytest.mark.parametrize("stop", [1, 2, 5, 9])
def test_a_stopped_run_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    monkeypatch.setattr(cleaning_table, "BLOCK_ROWS", 8)
    jsonl(tmp_path / "in" / "train.jsonl", [*EN, *KO, EN[3], KO[4] + " me@example.com", "e\u0301", ""])
    jsonl(tmp_path / "in" / "valid.jsonl", [EN[1], KO[2], sentence(77)])
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    run(tmp_path / "in", tmp_path / "whole" / "out", **EVERYTHING)
    synced, calls = os.fsync, 0

    def fsync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == stop:
            raise Stopped
        synced(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(Stopped):
        run(tmp_path / "in", tmp_path / "stopped" / "out", **EVERYTHING)
    monkeypatch.setattr(os, "fsync", synced)
    assert not (tmp_path / "stopped" / "out").exists()
    said: list[str] = []
    sources = text_sources(tmp_path / "in", [], field="text", errors="strict")
    clean(sources, Cleaning.of(**EVERYTHING), tmp_path / "stopped" / "out", say=said.append)
    assert said[:1] == ["going on where this command was stopped"] * (stop > 1)
    assert {
        name: it.replace(b"/stopped/", b"/whole/") for name, it in outputs(tmp_path / "stopped").items()
    } == (outputs(tmp_path / "whole"))


def test_other_data_or_settings_begin_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = jsonl(tmp_path / "a.jsonl", EN)
    monkeypatch.setattr("malmoi.data.cleaning._Run.write", lambda *_: (_ for _ in ()).throw(Stopped))
    with pytest.raises(Stopped):
        run(path, tmp_path / "out", drop=["exact"])
    monkeypatch.undo()
    jsonl(path, [KO[0], KO[0]])
    run(path, tmp_path / "out", drop=["exact"])
    assert texts(tmp_path / "out" / "a.jsonl") == [KO[0]]


@settings(max_examples=10)
@given(
    st.lists(
        st.sampled_from([*EN[:3], EN[0] + "!", EN[1].upper(), "", KO[0], unicodedata.normalize("NFD", KO[0])])
    )
)
def test_what_stays_has_no_repeats_and_nothing_is_lost(
    tmp_path_factory: pytest.TempPathFactory, given: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("clean")
    path = jsonl(folder / "a.jsonl", given)
    run(path, folder / "once", fix=["nfc"], drop=["exact", "near"])
    kept = texts(folder / "once" / "a.jsonl")
    assert len(kept) + len(dropped(folder / "once")) == len(given)
    assert len({"".join(text.lower().split()).rstrip("!") for text in kept if text}) == len(
        [it for it in kept if it]
    )
    again = run(folder / "once", folder / "twice", fix=["nfc"], drop=["exact", "near"])
    assert texts(folder / "twice" / "a.jsonl") == kept
    assert sum(again.dropped.values()) == sum(again.changed.values()) == 0
