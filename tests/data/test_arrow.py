"""Tables of pyarrow, folders that `datasets` saved, and its hub: read wherever a path is accepted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import feather

from malmoi.core.errors import UserError
from malmoi.data.arrow import files_of, local
from malmoi.data.labelled import read_records
from malmoi.data.opening import encoding_of
from malmoi.data.readers import open_corpus, read_documents
from malmoi.tasks import make_task

datasets = pytest.importorskip("datasets")
TEXTS = ["The goose is late.", "거위가 늦었다.\n\n정말로.", "🦢"]
LABELS = ["good", "나쁨"]


def stream(path: Path, table: pyarrow.Table) -> None:
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def ipc_file(path: Path, table: pyarrow.Table) -> None:
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def feather_file(path: Path, table: pyarrow.Table) -> None:
    feather.write_feather(table, str(path))


def old_feather_file(path: Path, table: pyarrow.Table) -> None:
    feather.write_feather(table, str(path), version=1)


def saved(folder: Path, *splits: str) -> Path:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=LABELS)}
    )
    rows = {"text": TEXTS * 2, "label": [0, 1] * 3}
    made = datasets.Dataset.from_dict(rows, features=features)
    value = datasets.DatasetDict(dict.fromkeys(splits, made)) if splits else made
    value.save_to_disk(folder, num_shards=dict.fromkeys(splits, 1) if splits else 2)
    return folder


@pytest.mark.parametrize("write", [stream, ipc_file, feather_file, old_feather_file])
@pytest.mark.parametrize("ending", [".arrow", ".feather", ".parquet"])
def test_the_bytes_say_the_format(write: Any, ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"x{ending}"
    write(file, pyarrow.table({"id": [1, 2, 3], "text": TEXTS}))
    assert list(read_documents(file)) == TEXTS
    assert [one.values["id"] for one in read_records(file, print)] == [1, 2, 3]
    assert next(read_records(file, print)).where == f"{file}:1"
    assert encoding_of(file) == ending[1:]
    with pytest.raises(UserError, match='no field "body" among id, text'):
        list(read_documents(file, field="body"))


def test_what_datasets_saved_has_its_splits(tmp_path: Path) -> None:
    folder = saved(tmp_path / "d", "train", "validation", "test")
    (folder / "train" / "cache-123.arrow").write_bytes(b"left by a map")
    corpus = open_corpus(folder)
    assert list(corpus.train()) == TEXTS * 2
    assert [file.parent.name for file in corpus.valid_files] == ["validation"]
    assert list(read_documents(saved(tmp_path / "one"))) == TEXTS * 2


def test_labels_have_their_names(tmp_path: Path) -> None:
    folder = saved(tmp_path / "d", "train", "test")
    examples = make_task("classification").load(folder / "train")
    assert [example.target for example in examples[:2]] == LABELS
    datasets.load_from_disk(str(folder))["train"].to_parquet(str(tmp_path / "x.parquet"))
    assert [one.values["label"] for one in read_records(tmp_path / "x.parquet", print)][:2] == LABELS


def test_label_names_of_lists_and_missing_labels(tmp_path: Path) -> None:
    features = datasets.Features(
        {"tags": datasets.Sequence(datasets.ClassLabel(names=["O", "B-PER"])),
         "label": datasets.ClassLabel(names=LABELS)}
    )  # fmt: skip
    made = datasets.Dataset.from_dict({"tags": [[0, 1], []], "label": [-1, 1]}, features=features)
    made.save_to_disk(tmp_path / "d")
    rows = [one.values for one in read_records(tmp_path / "d", print)]
    assert rows == [{"tags": ["O", "B-PER"], "label": None}, {"tags": [], "label": "나쁨"}]


def test_hub_ids_are_fetched_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[tuple[str, str | None]] = []

    def load(name: str, config: str | None) -> Any:
        calls.append((name, config))
        return datasets.load_from_disk(str(saved(tmp_path / f"made{len(calls)}", "train", "test")))

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets, "load_dataset", load)
    assert next(open_corpus(Path("hf://owner/name:ko")).train()) == TEXTS[0]
    assert list(read_documents(Path("hf://owner/name:ko/test"))) == TEXTS * 2
    assert len(make_task("classification").load(Path("hf://owner/name/train"))) == 6
    assert calls == [("owner/name", "ko"), ("owner/name", None)]
    assert any(file.suffix == ".arrow" for file in files_of(Path("hf://owner/name:ko")))
    with pytest.raises(UserError, match="no split 'dev'; it has test, train"):
        local(Path("hf://owner/name/dev"))


def test_without_a_network_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def offline(*_: Any) -> None:
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(UserError, match=r"hf://owner/name cannot be had .*save_to_disk"):
        list(read_documents(Path("hf://owner/name")))
    assert not list(tmp_path.rglob("*.arrow"))
    with pytest.raises(UserError, match="is not hf://owner/name"):
        local(Path("hf://a/b/c/d"))
    assert local(tmp_path) == tmp_path


@given(
    st.binary(max_size=60),
    st.sampled_from([b"", b"ARROW1\0\0", b"FEA1", b"PAR1", b"\xff\xff\xff\xff\x10\0\0\0"]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
def test_damaged_tables_are_refused(tmp_path: Path, content: bytes, start: bytes) -> None:
    (tmp_path / "x.arrow").write_bytes(start + content)
    with pytest.raises(UserError):
        list(read_documents(tmp_path / "x.arrow"))
