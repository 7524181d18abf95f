from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmoi.core.errors import UserError
from malmoi.util import files
from malmoi.util.tensor_files import read_tensors, write_tensors


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == {"a.txt"}


@given(value=st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_json_comes_back(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.mktemp("json") / "deep" / "value.json"
    files.write_json(path, value)
    assert files.read_json(path) == value


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe"])
def test_broken_json_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json is not (valid JSON|UTF-8)"):
        files.read_json(path)
    with pytest.raises(UserError, match=r"other\.json does not exist"):
        files.read_json(tmp_path / "other.json")


@pytest.mark.parametrize(
    ("content", "wrong"),
    {
        "nested": ('{"a":' + "[" * 100_000 + "]" * 100_000 + "}", "nested deeper"),
        "nested less": ("[" * 100 + "]" * 100, "nested deeper"),
        "nested objects": ('{"a":' * 3000 + "1" + "}" * 3000, "nested deeper"),
        "digits": ("[" + "1" * 5000 + "]", "5,000 digits"),
        "digits that Python reads": ('{"a": -' + "1" * 400 + "}", "digits"),
        "cut": ('{"a": [1, 2', "Expecting"),
        "empty": ("", "Expecting value"),
        "text after it": ("{} {}", "Extra data"),
        "half a character": ('{"a": "\\ud83d"}', "surrogates not allowed"),
    }.values(),
)
def test_hostile_json_is_one_line(tmp_path: Path, content: str, wrong: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(UserError, match=wrong) as caught:
        files.read_json(path)
    assert len(str(caught.value).splitlines()) == 1
    assert str(path) in str(caught.value)


def test_what_is_no_regular_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    for name in ("pipe.json", "folder.json"):
        with pytest.raises(UserError, match=f"{name} is not a file"):
            files.read_json(tmp_path / name)
    (tmp_path / "large.txt").write_bytes(b"a" * 2000)
    with pytest.raises(UserError, match=r"large\.txt has 1.95 KiB, more than 1 KiB"):
        files.read_text(tmp_path / "large.txt", most_bytes=1024)


def test_an_object_has_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text('{"a": 1, "b": "\\ud83d\\ude00", "a": 3}')
    assert files.read_object(path, "a", "b") == {"a": 3, "b": "😀"}
    with pytest.raises(UserError, match="has no c, d"):
        files.read_object(path, "a", "c", "d")
    path.write_text("[]")
    with pytest.raises(UserError, match="not a JSON object"):
        files.read_object(path)


def test_an_error_is_one_printable_line() -> None:
    assert str(UserError("no\n\tsuch \x1b[31mname\r\n")) == "no such \\x1b[31mname"
    long = str(UserError("where: " + "x" * 10_000 + "; how to fix it"))
    assert len(long) < 1100
    assert long.startswith("where: ")
    assert long.endswith("; how to fix it")


def test_a_new_folder_is_whole_or_absent(tmp_path: Path) -> None:
    folder = tmp_path / "step-1"
    with files.new_folder(folder) as inside:
        (inside / "a").write_text("first")
    assert files.damage(folder) is None
    with pytest.raises(OSError, match="No space"), files.new_folder(folder) as inside:
        no_space((inside / "a").write_text("second"))
    assert (folder / "a").read_text() == "first"
    assert names(tmp_path) == {"step-1"}


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_files_and_folders_have_the_permissions_that_the_umask_gives(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        with files.new_folder(tmp_path / "folder") as inside, files.new_file(inside / "file") as temporary:
            temporary.unlink()
            temporary.touch(0o600)  # as some libraries do
    finally:
        os.umask(before)
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o777 & ~mask
    assert (tmp_path / "folder" / "file").stat().st_mode & 0o777 == 0o666 & ~mask


def test_damage_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "step-1"
    with files.new_folder(folder) as inside:
        (inside / "a").write_text("first")
    (folder / "a").write_text("f1rst")
    assert files.damage(folder) == "a differs from its hash"
    (folder / "a").unlink()
    assert files.damage(folder) == "a does not exist"
    (folder / files.MANIFEST).write_text("[")
    assert "no readable manifest" in (files.damage(folder) or "")


def test_tensors_come_back_however_they_lie_in_memory(tmp_path: Path) -> None:
    rows = np.arange(24, dtype=np.float32).reshape(4, 6)
    given = {"rows": rows, "columns": np.asfortranarray(rows), "turned": rows.T, "some": rows[::2, 1::2]}
    write_tensors(tmp_path / "t.safetensors", given)
    for name, found in read_tensors(tmp_path / "t.safetensors").items():
        np.testing.assert_array_equal(found, given[name])
