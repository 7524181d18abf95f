"""A model that comes with malmoi is called by its name wherever a model's folder is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from malmoi.core.errors import UserError
from malmoi.hub.shipped import BASE, CHAT, FOLDER, model_path


def test_a_name_stands_for_the_folder_that_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert model_path(CHAT) == FOLDER / CHAT
    assert model_path(Path(BASE)) == FOLDER / BASE


def test_what_the_user_has_under_that_name_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / CHAT).mkdir()
    assert model_path(CHAT) == Path(CHAT)


@pytest.mark.parametrize("name", ["malmoi-nori", "malmoinoru", "malmoi-noru-chat"])
def test_a_name_that_is_nearly_one_of_them_is_refused_with_it(name: str) -> None:
    with pytest.raises(UserError, match=f"there is no folder {name}; did you mean '{CHAT}"):
        model_path(name)


@pytest.mark.parametrize("path", ["demo/gpt", "./malmoi-noru-x", "runs/malmoi-noru", "model.gguf"])
def test_other_paths_stay_as_they_are(path: str) -> None:
    assert model_path(path) == Path(path)
