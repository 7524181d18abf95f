"""What `malmoi serve` finds in the folders that it is given."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from malmoi.core.errors import UserError
from malmoi.hub.folder import save_model
from malmoi.models.ngram import KneserNey
from malmoi.serve.catalogue import LanguageEntry, TaskEntry, open_catalogue
from tests.engine.scripted import BYTES


@pytest.fixture
def all_in_one(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A folder like a demo's: models, methods deeper inside, and what is neither."""
    shutil.copytree(folders["tiny"], tmp_path / "gpt")
    shutil.copytree(folders["topics"], tmp_path / "tasks" / "topics")
    ids = [*BYTES.encode("가나다 가나다"), BYTES.specials.eos]
    save_model(tmp_path / "ngram", KneserNey.fit(np.array(ids), BYTES.vocab_size), BYTES)
    (tmp_path / "examples").mkdir()
    (tmp_path / ".hidden").mkdir()
    return tmp_path


def test_a_folder_of_models_serves_them_all(all_in_one: Path) -> None:
    found = open_catalogue([all_in_one])
    assert {name: type(entry) for name, entry in found.items()} == {
        "gpt": LanguageEntry, "ngram": LanguageEntry, "topics": TaskEntry,
    }  # fmt: skip


def test_a_model_inside_a_folder_that_is_named_too_is_served_once(all_in_one: Path) -> None:
    assert len(open_catalogue([all_in_one, all_in_one / "gpt"])) == 3


def test_int8_is_for_the_models_that_have_matrices(all_in_one: Path) -> None:
    exact, found = (open_catalogue([all_in_one], quantize=how)["gpt"] for how in (None, "int8"))
    assert isinstance(exact, LanguageEntry)
    assert isinstance(found, LanguageEntry)
    weights = [one.model.model.head.weight for one in (exact, found)]  # pyright: ignore[reportAttributeAccessIssue]
    assert not torch.equal(*weights)
    torch.testing.assert_close(*weights, rtol=0, atol=float(weights[0].abs().max()) / 60)


def test_a_folder_with_nothing_to_serve_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        open_catalogue([tmp_path])
    with pytest.raises(UserError, match="is not a folder"):
        open_catalogue([tmp_path / "typo"])
