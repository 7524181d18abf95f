"""Probe a model folder with files of questions and with the sample world: the work behind `malmoi probe`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from malmoi.core.errors import UserError
from malmoi.core.nouns import Metric
from malmoi.engine.engine import Engine
from malmoi.engine.loaded import Loaded
from malmoi.inside.probe_files import read_choices, read_cloze, read_pairs
from malmoi.inside.probes import cloze, minimal_pairs, multiple_choice
from malmoi.inside.world_probes import LANGUAGES, grammar_and_logic, verdict
from malmoi.util import files
from malmoi.util.version import VERSION

_KINDS: dict[str, tuple[Callable[[Path], list[Any]], Callable[[Engine, Any], dict[str, Metric]]]] = {
    "pairs": (read_pairs, minimal_pairs),
    "choices": (read_choices, multiple_choice),
    "cloze": (read_cloze, cloze),
}


@dataclass(frozen=True, slots=True)
class Probed:
    """One check of a model. source: the file, or "world"; sha256 of the file; note: a sentence for people."""

    kind: str
    source: str
    num_items: int
    metrics: dict[str, Metric]
    sha256: str = ""
    note: str = ""


def probe(
    folder: Path, given: dict[str, Path | None], *, world: int | None = None, device: str = "cpu"
) -> list[Probed]:
    """Ask a model what is given: "pairs", "choices", "cloze" are files; world: so many pairs of each score.

    Raises UserError where nothing is asked, and for a folder or a file that cannot be used.
    """
    wanted = {kind: path for kind, path in given.items() if path is not None}
    if not wanted and world is None:
        raise UserError("nothing to ask; give `pairs`, `choices` or `cloze` FILE, or `world`")
    asked = {kind: _KINDS[kind][0](path) for kind, path in wanted.items()}  # before the model is loaded
    loaded = Loaded(folder, device=device)
    engine = Engine(loaded.model, loaded.tokenizer, max_rows=32)
    return list(_probed(engine, wanted, asked, world))


def _probed(
    engine: Engine, paths: dict[str, Path], asked: dict[str, list[Any]], world: int | None
) -> Iterator[Probed]:
    for kind, items in asked.items():
        path = paths[kind]
        digest = files.sha256(path) if path.is_file() else ""
        yield Probed(kind, str(path), len(items), _KINDS[kind][1](engine, items), digest)
    if world is not None:
        found = grammar_and_logic(engine, count=world)
        yield Probed("world", "world", 2 * len(LANGUAGES) * world, found, note=verdict(found))


def write_probes(path: Path, folder: Path, probed: list[Probed]) -> None:
    """The results as JSON."""
    value = {"malmoi": VERSION, "model": str(folder), "probes": [asdict(one) for one in probed]}
    files.write_json(path, value)
