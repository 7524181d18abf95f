"""Folders of fitted methods whose files are damaged while their hashes agree: one line, or they work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from malmoi.core.errors import UserError
from malmoi.core.nouns import Example
from malmoi.methods.folder import load_method, save_method
from malmoi.methods.registry import make_method
from malmoi.tasks import make_task
from malmoi.util import files
from tests.hub.test_hostile_folders import DAMAGES, one_line

TEXTS = [(f"the {word} {n}", word) for n in range(8) for word in ("good", "bad")]
KEYS = ("task", "model_type", "options", "config", "report")


@pytest.fixture(scope="module", params=["tfidf", "lexicon"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    examples = [Example(text, label, "here") for text, label in TEXTS]
    method = make_method(request.param, make_task("classification", {}), {})
    method.fit(examples, examples)
    folder = tmp_path_factory.mktemp("whole") / request.param
    save_method(folder, method)
    return folder


def check(folder: Path, name: str) -> None:
    manifest = folder / files.MANIFEST
    if (folder / name).is_file() and name != files.MANIFEST:  # so that only what is in the file is wrong
        files.write_json(manifest, files.read_json(manifest) | {name: files.sha256(folder / name)})
    try:
        load_method(folder).predict(["the good one"])
    except UserError as error:
        one_line(error)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_method_is_one_line(damage: str, whole: Path, tmp_path: Path) -> None:
    names = [path.name for path in whole.iterdir() if path.suffix in (".json", ".safetensors")]
    for name in names:
        folder = tmp_path / name / "method"
        shutil.copytree(whole, folder)
        try:
            DAMAGES[damage](folder / name)
        except (json.JSONDecodeError, UnicodeDecodeError):
            continue  # no JSON, so it has no values
        check(folder, name)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", [None, 7, "x", [], {}, {"name": 3, "fields": 4, "version": []}], ids=repr)
def test_a_wrong_value_is_one_line(key: str, value: Any, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "method"
    shutil.copytree(whole, folder)
    files.write_json(folder / "config.json", files.read_json(folder / "config.json") | {key: value})
    check(folder, "config.json")
