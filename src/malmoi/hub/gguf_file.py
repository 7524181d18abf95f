"""A GGUF file to read: its facts, and its tensors as they lie there, mapped and not copied.

The format is that of llama.cpp (`docs/gguf.md` of ggml), versions 2 and 3, one file or several of a split.
Everything is checked against the file's size before it is used, for a file may be cut or made up.
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from malmoi.core.errors import UserError
from malmoi.util import files

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

MAGIC = b"GGUF"
_SPLIT = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_NUMBERS = {  # the kinds of a fact that are one number
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?",
    10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
_TEXT, _LIST = 8, 9
_MOST_DIMENSIONS, _MOST_DEEP = 4, 2


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in a file. shape: as PyTorch counts, the innermost last. data: its bytes, mapped."""

    name: str
    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    data: NDArray[np.uint8]
    path: Path


class GGUFFile:
    """What one GGUF file holds, or all files of a split. facts: its metadata, lists of numbers as arrays."""

    def __init__(self, path: Path) -> None:
        """Raises UserError where a file is missing, cut, damaged, or of a version that is not known."""
        self.path = path
        self.facts: dict[str, Any] = {}
        self.tensors: dict[str, Stored] = {}
        for number, part in enumerate(_parts(path)):
            facts, tensors = _read(part)
            self.facts = facts | self.facts
            if int(facts.get("split.no", number)) != number:
                raise UserError(f"{part} is part {facts['split.no'] + 1} of its model; give the first part")
            for tensor in tensors:
                if tensor.name in self.tensors:
                    raise UserError(f"{part} holds {tensor.name} a second time; copy the file again")
                self.tensors[tensor.name] = tensor
        wanted = self.facts.get("split.tensors.count")
        if wanted is not None and wanted != len(self.tensors):
            raise UserError(f"{path} has {len(self.tensors)} tensors of {wanted}; copy its parts again")

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the model's architecture."""
        return str(self.facts.get("general.architecture", ""))

    def fact(self, name: str, default: Any = None) -> Any:
        """A number or text that stands under the architecture's name, such as `block_count`."""
        return self.facts.get(f"{self.architecture}.{name}", default)


def is_gguf(path: Path) -> bool:
    """Whether a path is a GGUF file, by its name or by how it begins."""
    if not path.is_file():
        return False
    if path.suffix == ".gguf":
        return True
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def is_first_part(path: Path) -> bool:
    """Whether a file's name is that of a whole model, or of the first file of a split one."""
    named = _SPLIT.fullmatch(path.name)
    return named is None or int(named["number"]) == 1


def _parts(path: Path) -> list[Path]:
    """The files of a split, of which `path` is the first; else the file alone."""
    named = _SPLIT.fullmatch(path.name)
    if named is None:
        return [path]
    count = int(named["count"])
    parts = [path.with_name(f"{named['stem']}-{at:05}-of-{count:05}.gguf") for at in range(1, count + 1)]
    missing = [part.name for part in parts if not part.is_file()]
    if missing or int(named["number"]) != 1:
        raise UserError(f"{path} is one of {count} files; give the first, with all of them beside it" + (
            f" ({missing[0]} is missing)" if missing else ""
        ))  # fmt: skip
    return parts


def _read(path: Path) -> tuple[dict[str, Any], list[Stored]]:
    files.check_readable(path)
    try:
        with path.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:  # there is nothing to map
        raise UserError(f"{path} is empty; copy it again") from None
    reader = _Reader(content)
    try:
        return reader.header(path)
    except (ValueError, OverflowError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no whole GGUF file ({error}); copy it again") from None


class _Reader:
    """Reads forward. Raises ValueError where the file ends too early or says what cannot be."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content, self._at = content, 0

    def header(self, path: Path) -> tuple[dict[str, Any], list[Stored]]:
        """All facts, and where each tensor lies."""
        if self._take(4) != MAGIC:
            raise ValueError("it does not begin with GGUF")
        version = self._number("<I")
        if version not in (2, 3):
            other = " with its bytes turned round" if version & 0xFFFF == 0 else ""
            raise ValueError(f"version {version}{other}; 2 and 3 can be read")
        num_tensors, num_facts = self._number("<Q"), self._number("<Q")
        facts: dict[str, Any] = {}
        for _ in range(self._plausible(num_facts, 13)):
            name = self._text()
            facts[name] = self._value(self._number("<I"))
        places = [self._place() for _ in range(self._plausible(num_tensors, 24))]
        alignment = int(facts.get("general.alignment", 32))
        if alignment < 1:
            raise ValueError(f"an alignment of {alignment}")
        start = -(-self._at // alignment) * alignment
        return facts, [self._stored(path, start, *place) for place in places]

    def _place(self) -> tuple[str, tuple[int, ...], int, int]:
        name, dimensions = self._text(), self._number("<I")
        if not 0 < dimensions <= _MOST_DIMENSIONS:
            raise ValueError(f"{name} has {dimensions} dimensions")
        shape = tuple(self._number("<Q") for _ in range(dimensions))[::-1]
        return name, shape, self._number("<I"), self._number("<Q")

    def _stored(
        self, path: Path, start: int, name: str, shape: tuple[int, ...], kind: int, at: int
    ) -> Stored:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        if kind not in GGML_QUANT_SIZES:
            raise ValueError(f"{name} is of a kind ({kind}) that is not known")
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        if not all(shape) or shape[-1] % block:
            raise ValueError(f"{name} has a shape, {shape}, that its kind cannot have")
        count = math.prod(shape) // block * size
        if start + at + count > len(self._content):
            raise ValueError(f"it is cut: {name} is not whole")
        data = np.frombuffer(self._content, np.uint8, count, start + at)
        return Stored(name, GGMLQuantizationType(kind), shape, data, path)

    def _value(self, kind: int, deep: int = 0) -> Any:
        if kind in _NUMBERS:
            return self._array(kind, 1)[0].item()
        if kind == _TEXT:
            return self._text()
        if kind != _LIST or deep == _MOST_DEEP:
            raise ValueError(f"a fact of kind {kind}")
        of, count = self._number("<I"), self._number("<Q")
        if of in _NUMBERS:
            return self._array(of, count)
        if of == _TEXT:
            return self._texts(self._plausible(count, 8))
        return [self._value(of, deep + 1) for _ in range(self._plausible(count, 8))]

    def _array(self, kind: int, count: int) -> NDArray[Any]:
        dtype = np.dtype(_NUMBERS[kind])
        return np.frombuffer(self._take(self._plausible(count, dtype.itemsize) * dtype.itemsize), dtype)

    def _text(self) -> str:
        return self._texts(1)[0]

    def _texts(self, count: int) -> list[str]:
        """Without a call for each, as a vocabulary has hundreds of thousands."""
        content, at, last = self._content, self._at, len(self._content) - 8
        length, found = struct.Struct("<Q").unpack_from, list[str]()
        for _ in range(count):
            start = at + 8
            if at > last or (at := start + length(content, at)[0]) > last + 8:
                raise ValueError("it is cut")
            found.append(content[start:at].decode("utf-8"))
        self._at = at
        return found

    def _number(self, form: str) -> int:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _plausible(self, count: int, least_bytes: int) -> int:
        """A count that the rest of the file has room for."""
        if count * least_bytes > len(self._content) - self._at:
            raise ValueError(f"it says {count:,} where there is no room for so many")
        return count

    def _take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._content):
            raise ValueError("it is cut")
        found, self._at = self._content[self._at : end], end
        return found
