from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmoi.util import files
from malmoi.util.errors import UserError


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
    with pytest.raises(UserError, match=r"config\.json is not valid JSON"):
        files.read_json(path)
    with pytest.raises(UserError, match=r"other\.json does not exist"):
        files.read_json(tmp_path / "other.json")


def test_a_new_folder_is_whole_or_absent(tmp_path: Path) -> None:
    folder = tmp_path / "step-1"
    with files.new_folder(folder) as inside:
        (inside / "a").write_text("first")
    assert files.damage(folder) is None
    with pytest.raises(OSError, match="No space"), files.new_folder(folder) as inside:
        no_space((inside / "a").write_text("second"))
    assert (folder / "a").read_text() == "first"
    assert names(tmp_path) == {"step-1"}


def test_damage_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "step-1"
    with files.new_folder(folder) as inside:
        (inside / "a").write_text("first")
    (folder / "a").write_text("f1rst")
    assert files.damage(folder) == "a differs from its hash"
    (folder / "a").unlink()
    assert files.damage(folder) == "a is missing"
    (folder / files.MANIFEST).write_text("[")
    assert "no readable manifest" in (files.damage(folder) or "")
