"""Files that are written whole or not at all (beside their place, synced, then renamed), and read in bounds.

Whatever a file holds, reading it ends in a value or in a UserError: it may be cut, of another kind, or made
to do harm.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shlex
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from malmoi.core.errors import UserError
from malmoi.util.units import human_bytes

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"  # of every model's folder
OWN_PREFIX = "malmoi_"  # of a config's model_type that no other library knows
MANIFEST = "manifest.json"
MOST_BYTES, MOST_OBJECT_BYTES = 1 << 30, 64 << 20  # to read: of any text; of an object with settings
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
MOST_DEPTH, MOST_DIGITS = 64, 300  # of JSON; a longer number is beyond what a float holds
RUN_RECORD, DEMO_MARK = "run.json", "demo.json"  # say that malmoi made the folder that holds them
LOCK = ".lock"  # in a folder that a process writes (malmoi.util.locks)
DENIED = "cannot be read (permission denied)"


def cache_folder(name: str) -> Path:
    """~/.cache/malmoi/NAME (or under $XDG_CACHE_HOME); it need not be there."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "malmoi" / name


def check_folder(out: Path) -> None:
    """Raises UserError where `out` is no folder to write to, nor can be made one."""
    found = next(path for path in (out.absolute(), *out.absolute().parents) if os.path.exists(path))
    if not found.is_dir():
        raise UserError(
            f"{out} cannot be written, for {found} exists and is no folder to write to; choose another `out`"
        )
    if not _may(found, os.W_OK | os.X_OK):
        raise UserError(
            f"{out} cannot be written, for {found} is closed to you (permission denied); choose another `out`"
        )


def is_free(out: Path) -> bool:
    """Whether there is nothing at `out` but, perhaps, an empty folder; a lock there counts as nothing."""
    if not out.exists():
        return True
    return out.is_dir() and all(path.name == LOCK for path in out.iterdir())


def unreadable(path: Path) -> str:
    """Why a file or folder cannot be read: it "does not exist", or permission is denied; "" where it can."""
    try:
        is_folder = path.is_dir()
        if not is_folder and not path.exists():
            return "does not exist"
    except PermissionError:  # of a folder above
        return DENIED
    except OSError:  # such as a name that is too long
        return "does not exist"
    return "" if _may(path, os.R_OK | os.X_OK if is_folder else os.R_OK) else DENIED


def check_readable(path: Path) -> None:
    """Raises UserError where `path` is closed to this user; what is not there is for the caller to say."""
    if unreadable(path) == DENIED:
        raise denied(path)


def denied(path: Path) -> UserError:
    """The error about a file or folder that this user may not read."""
    return UserError(f"{path} {DENIED}; ask its owner, or see: ls -ld {shlex.quote(str(path))}")


def _may(path: Path, mode: int) -> bool:
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def sync_file(path: Path) -> None:
    """Flush one file's (or, on POSIX, folder's) contents to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield an empty file beside `path` to write to; on success sync it and rename it over `path`.

    A crash leaves the old file or the new one, never a part. Its permissions are those that the umask gives,
    whoever writes it: some libraries make files that only their owner can read.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    temporary.touch(exist_ok=False)
    try:
        mode = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        temporary.chmod(mode)
        sync_file(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_file(path.parent)


def _beside(path: Path) -> Path:
    """A hidden name that nobody else takes, in the same folder."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all."""
    with new_file(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` for UTF-8 text."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """`write_text` for a JSON value, indented, with letters of every language kept readable."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def read_bytes(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """A file as it is. Raises UserError with the path where it is missing, too large or cannot be read."""
    try:
        if not path.is_file():  # a pipe or a device would never end
            raise UserError(f"{path} is not a file" if path.exists() else f"{path} does not exist")
        if (size := path.stat().st_size) > most_bytes:
            raise UserError(
                f"{path} has {human_bytes(size)}, more than {human_bytes(most_bytes)}; restore it"
            )
        return path.read_bytes()
    except PermissionError:
        raise denied(path) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from None


def read_text(path: Path, most_bytes: int = MOST_BYTES) -> str:
    """A file of UTF-8 text, line ends as \\n. Raises UserError as `read_bytes`, and where it is no text."""
    try:
        text = read_bytes(path, most_bytes).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8 or restore it"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_json(text: str) -> Any:
    """The value that a text is, as `json.loads`; of keys that come twice the last counts.

    Raises ValueError for what is no JSON, is nested too deep, or holds half a character or a number that no
    float can.
    """
    try:
        value = json.loads(text, parse_int=_integer)
    except RecursionError:
        raise ValueError(f"nested deeper than {MOST_DEPTH} levels") from None
    if _is_deep(value):
        raise ValueError(f"nested deeper than {MOST_DEPTH} levels")
    if _SURROGATE.search(text):  # a pair of them is a character; one alone is in no text
        json.dumps(value, ensure_ascii=False).encode()
    return value


def read_json(path: Path, most_bytes: int = MOST_BYTES) -> Any:
    """One JSON file. Raises UserError with the path where it is missing, too large or broken."""
    text = read_text(path, most_bytes)
    try:
        return parse_json(text)
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); restore it or make the folder again") from None


def read_object(path: Path, *keys: str) -> dict[str, Any]:
    """A JSON file whose value is an object that has these keys. Raises UserError as `read_json`, and else."""
    found = read_json(path, MOST_OBJECT_BYTES)
    if not isinstance(found, dict):
        raise UserError(f"{path} is not a JSON object; restore it or make the folder again")
    if missing := [key for key in keys if key not in found]:
        raise UserError(f"{path} has no {', '.join(missing)}; restore it or make the folder again")
    return found


def _integer(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number has {len(digits):,} digits")
    return int(digits)


def _is_deep(value: Any) -> bool:
    level = [[value]]
    for _ in range(MOST_DEPTH):
        inside = (it.values() if isinstance(it, dict) else it for it in level)
        level = [it for values in inside for it in values if isinstance(it, dict | list)]
        if not level:
            return False
    return True


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder`; on success add a manifest of hashes, sync, rename over it.

    On any error the half-written folder is removed and an older `folder` stays as it was. Its permissions are
    those that the umask gives.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(folder)
    temporary.mkdir()
    try:
        yield temporary
        files = sorted(path for path in temporary.iterdir() if path.is_file())
        write_json(temporary / MANIFEST, {path.name: sha256(path) for path in files})
        for path in files:
            sync_file(path)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_file(folder.parent)


def damage(folder: Path) -> str | None:
    """Why the folder written by `new_folder` must not be trusted, or None where every hash agrees."""
    try:
        manifest = read_object(folder / MANIFEST)
    except UserError as error:
        return f"no readable manifest ({error})"
    for name, expected in manifest.items():
        if Path(name).name != name:
            return f"{name} is no name of a file here"
        if reason := unreadable(folder / name):
            return f"{name} {reason}"
        if not (folder / name).is_file():
            return f"{name} is not a file"
        if sha256(folder / name) != expected:
            return f"{name} differs from its hash"
    return None
