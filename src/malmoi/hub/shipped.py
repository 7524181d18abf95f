"""The models that come with malmoi, which are called by name wherever a model's folder is asked for."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path

from malmoi.core.errors import UserError, nearest
from malmoi.core.nouns import Json
from malmoi.util.files import read_object

TRAINING = "training.json"  # there: what the training took, and how the loss fell
FOLDER = Path(__file__).parent.parent / "shipped"
SHIPPED = CHAT, BASE = "malmoi-noru", "malmoi-noru-base"  # tuned to answer; as it was pre-trained


def model_path(named: str | Path) -> Path:
    """Where a model is: the path itself, or for the name of a model that comes with malmoi its folder.

    What the user has under that name goes first. Raises UserError for a name that is nearly one of them.
    """
    path, name = Path(named), os.fspath(named)
    if os.path.exists(name) or os.sep in name:
        return path
    if name in SHIPPED:
        return FOLDER / name
    if get_close_matches(name, SHIPPED, cutoff=0.8):
        raise UserError(f"there is no folder {name}; {nearest(name, SHIPPED)} It comes with malmoi")
    return path


def training_of(folder: Path) -> Json:
    """What the training of a model that comes with malmoi took: its "tokens", "seconds", "parameters"."""
    return read_object(folder / TRAINING, "tokens", "seconds", "parameters")
