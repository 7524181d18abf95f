"""Tables of pyarrow: parquet, arrow and feather files, folders that `datasets` saved, and its hub.

The bytes say which of the formats a file has, not its name: `datasets` writes streams, others files. Labels
that `datasets` keeps as numbers come out as their names.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from malmoi.core.errors import UserError
from malmoi.util.files import cache_folder

EXTENSIONS = (".parquet", ".arrow", ".feather")
HUB = "hf://"
ROWS = 1024  # read at a time
_LEFT_OUT = re.compile(
    r"cache-.*[.]arrow|dataset_(info|dict)[.]json"
)  # what `datasets` keeps beside its rows
# owner/name, or name alone as old data sets have it; then a configuration; then a split
_PLACE = re.compile(r"(?P<name>[\w.-]+(?:/[\w.-]+)?)(?::(?P<config>[\w.-]+))?(?P<split>/[\w.-]+)?")


class Unreadable(Exception):
    """Why a table cannot be read."""


class NoColumn(Exception):
    """The wanted column is not among `names`."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = names


def read_table(file: BinaryIO, column: str = "") -> Iterator[dict[str, Any]]:
    """The rows of an open file, with that column only, or all. Raises NoColumn, Unreadable."""
    import pyarrow

    try:
        batches, schema = _opened(file)
        if column and column not in schema.names:
            raise NoColumn(schema.names)
        wanted = [column] if column else list(schema.names)
        names = {name: found for name, found in _label_names(schema).items() if name in wanted}
        for batch in batches:
            for start in range(0, batch.num_rows, ROWS):
                yield from _rows(batch.select(wanted).slice(start, ROWS), names)
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise Unreadable(str(error)) from None


def _opened(file: BinaryIO) -> tuple[Iterator[Any], Any]:
    """The record batches of a file, and its schema."""
    import pyarrow
    from pyarrow import feather, parquet

    magic = file.read(8)
    file.seek(0)
    if magic.startswith(b"ARROW1"):
        reader = pyarrow.ipc.open_file(file)
        return (reader.get_batch(number) for number in range(reader.num_record_batches)), reader.schema
    if magic.startswith(b"FEA1"):  # as it was before 2020
        table = feather.read_table(file)
        return iter(table.to_batches()), table.schema
    if magic.startswith(b"PAR1"):
        table = parquet.ParquetFile(file)
        return table.iter_batches(batch_size=ROWS), table.schema_arrow
    reader = pyarrow.ipc.open_stream(file)
    return iter(reader), reader.schema


def _rows(batch: Any, names: dict[str, list[str]]) -> Iterator[dict[str, Any]]:
    for cells in zip(*(column.to_pylist() for column in batch.columns), strict=True):
        row = dict(zip(batch.schema.names, cells, strict=True))
        yield row | {column: _named(row[column], of) for column, of in names.items()}


def _named(value: Any, names: Sequence[str]) -> Any:
    """The name of a label, or of each in a list; -1 is none."""
    if isinstance(value, list):
        return [_named(one, names) for one in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else None


def _label_names(schema: Any) -> dict[str, list[str]]:
    """The names of the labels of each column that has some, as `datasets` notes them in a file."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        inner = {name: feature.get("feature") or feature for name, feature in features.items()}
        named = {name: it["names"] for name, it in inner.items() if it.get("_type") == "ClassLabel"}
        return {name: list(map(str, names)) for name, names in named.items()}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def is_bookkeeping(file: Path) -> bool:
    """Whether a file lies in a folder of `datasets` and holds no rows of it."""
    beside = file.name == "state.json" and (file.parent / "dataset_info.json").exists()
    return beside or _LEFT_OUT.fullmatch(file.name) is not None


# ---- the hub


def files_of(path: Path) -> Iterator[Path]:
    """The files that a path of data stands for."""
    path = local(path)
    if path.is_dir():
        yield from sorted(file for file in path.rglob("*") if file.is_file())
    else:
        yield from (Path(name) for name in str(path).split(",") if Path(name).is_file())


def local(path: Path) -> Path:
    """The path itself, or the folder of what hf://owner/name[:config][/split] names, fetched if need be.

    A data set is kept under ~/.cache/malmoi/datasets (or $XDG_CACHE_HOME). Raises UserError where it cannot
    be had.
    """
    text = path.as_posix()
    if not text.startswith(HUB[:-1]):  # a Path has joined the two slashes
        return path
    found = _PLACE.fullmatch(text.removeprefix(HUB[:-1]).strip("/"))
    if found is None:
        raise UserError(f"{path} is not {HUB}owner/name[:config][/split], for example {HUB}nyu-mll/blimp")
    name, config, split = found["name"], found["config"], (found["split"] or "").strip("/")
    folder = cache_folder("datasets") / "--".join([*name.split("/"), *([config] if config else [])])
    if not folder.exists():
        _fetch(name, config, folder)
    place = folder / split
    if not place.is_dir():
        known = ", ".join(sorted(one.name for one in folder.iterdir() if one.is_dir()))
        raise UserError(f"{HUB}{name} has no split {split!r}; it has {known or 'none'}")
    return place


def _fetch(name: str, config: str | None, folder: Path) -> None:
    """Have `datasets` load it and save it there, whole or not at all."""
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"{HUB}{name} needs the library datasets; install it with: pip install 'malmoi[eval]'"
        ) from None
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        datasets.load_dataset(name, config).save_to_disk(temporary)
    except Exception as error:  # of many libraries, down to the network's
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{HUB}{name} cannot be had ({reason}); where there is no network, save it elsewhere with "
            "datasets.load_dataset(...).save_to_disk(DIR), copy DIR here and give that"
        ) from None
    temporary.rename(folder)
