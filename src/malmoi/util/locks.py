"""One process at a time writes a folder: a lock that says who holds it, and that ends with its process."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from malmoi.core.errors import UserError
from malmoi.util.files import LOCK, check_folder

if sys.platform == "win32":
    import msvcrt

    _FAR = 1 << 30  # a locked byte cannot be read, so it is one behind the text

    def _lock(descriptor: int) -> None:
        """Raises BlockingIOError where another process has it."""
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            raise BlockingIOError from None
        os.lseek(descriptor, 0, os.SEEK_SET)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        """Raises BlockingIOError where another process has it."""
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


_held: set[int] = set()  # descriptors of this process's locks


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keep other processes from writing to `folder`, which is made if need be, while the block runs.

    The system drops the lock when its process ends, however that ends, and leaves at most a file that means
    nothing. A child process does not hold it. Where the file system has no locks, there is none. Raises
    UserError where another process holds the folder, or it cannot be written.
    """
    check_folder(folder)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = _acquire(folder)
    _held.add(descriptor)
    try:
        yield
    finally:
        if descriptor in _held:  # not in a child
            _release(folder / LOCK, descriptor)
            for path in made:
                with suppress(OSError):  # it is in use now
                    path.rmdir()


def _acquire(folder: Path) -> int:
    """The descriptor of the locked file, with this process's name in it."""
    path = folder / LOCK
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        try:
            _lock(descriptor)
        except BlockingIOError:
            os.close(descriptor)
            raise UserError(f"{folder} is in use by {_holder(path)}; wait for its end, or stop it") from None
        except OSError:  # the file system has no locks
            break
        if _is_at(path, descriptor):
            break
        os.close(descriptor)  # whoever held it removed it meanwhile
    me = {"process": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M")}
    os.ftruncate(descriptor, 0)
    os.write(descriptor, json.dumps(me).encode())
    return descriptor


def _release(path: Path, descriptor: int) -> None:
    _held.discard(descriptor)
    if _is_at(path, descriptor):
        with suppress(OSError):
            path.unlink()
    os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the open file is the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _holder(path: Path) -> str:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return f"process {found['process']} on {found['host']} since {found['since']}"
    except (OSError, ValueError, TypeError, KeyError):
        return "another process"


def _let_go() -> None:
    """In a new child, whose copies of the descriptors would keep the locks when the parent is gone."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
