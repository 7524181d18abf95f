"""The models that come with malmoi, which are called by name wherever a model's folder is asked for."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path

from malmoi.core.errors import UserError, nearest

FOLDER = Path(__file__).parent.parent / "shipped"
SHIPPED = CHAT, BASE = "malmoi-noru", "malmoi-noru-base"  # tuned to answer; as it was pre-trained


def model_path(named: str | Path) -> Path:
    """Where a model is: the path itself, or for the name of a model that comes with malmoi its folder.

    What the user has under that name goes first. Raises UserError for a name that is nearly one of them.
    """
    path, name = Path(named), os.fspath(named)
    if path.exists() or os.sep in name:
        return path
    if name in SHIPPED:
        return FOLDER / name
    if get_close_matches(name, SHIPPED, cutoff=0.8):
        raise UserError(f"there is no folder {name}; {nearest(name, SHIPPED)} It comes with malmoi")
    return path
