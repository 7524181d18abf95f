"""A folder has one writer: real processes, one of them killed, one of them a child."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from malmoi.core.errors import UserError
from malmoi.util import files
from malmoi.util.locks import hold

HOLDER = """
import sys
from pathlib import Path
from malmoi.util.locks import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the folder until its standard input ends."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_another_process_hears_who_holds_it(tmp_path: Path) -> None:
    with (
        holder(tmp_path / "run") as process,
        pytest.raises(
            UserError, match=rf"run is in use by process {process.pid} on \S+ since \d{{4}}-.*stop it"
        ),
        hold(tmp_path / "run"),
    ):
        pytest.fail("held twice")


def test_a_lock_ends_with_its_process_however_that_ends(tmp_path: Path) -> None:
    with holder(tmp_path / "run") as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (tmp_path / "run" / files.LOCK).exists()
        assert files.is_free(tmp_path / "run")
        with hold(tmp_path / "run"):
            assert json.loads((tmp_path / "run" / files.LOCK).read_text())["process"] == os.getpid()
    assert list(tmp_path.iterdir()) == [tmp_path / "run"]
    assert not list((tmp_path / "run").iterdir())


def test_nothing_is_left_of_it(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), hold(tmp_path / "a" / "b"):
        raise ZeroDivisionError
    assert not (tmp_path / "a").exists()
    with hold(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "mine").touch()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["mine"]


def test_a_folder_that_is_replaced_meanwhile_keeps_the_new_lock(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with hold(folder):
        with files.new_folder(folder) as inside:
            (inside / "mine").touch()
        with hold(folder):
            assert (folder / files.LOCK).exists()
    assert (folder / "mine").exists()


FORKS = """
import os, signal, sys
from pathlib import Path
from malmoi.util.locks import hold
there, here = os.pipe()
with hold(Path(sys.argv[1])):
    child = os.fork()
    if child == 0:
        os.write(here, b".")  # what it had of the lock is closed
    else:
        os.read(there, 1)
    if child == 0 and sys.argv[2] == "waits":
        os.close(1)
        os.read(0, 1)
        os._exit(0)
    elif child == 0:
        sys.exit()  # out of the block
    print("forked", flush=True)
    if sys.argv[2] == "waits":
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    print("left", flush=True)
    os.read(0, 1)
"""


@contextmanager
def forking(folder: Path, child_does: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", FORKS, str(folder), child_does]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"forked\n"
        yield process


def test_a_child_that_lives_on_does_not_keep_the_lock(tmp_path: Path) -> None:
    with forking(tmp_path, "waits") as process:
        process.wait()
        with hold(tmp_path):
            assert process.returncode == -signal.SIGKILL


def test_a_child_that_ends_does_not_end_the_lock(tmp_path: Path) -> None:
    with forking(tmp_path, "ends") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"left\n"
        with pytest.raises(UserError, match="in use"), hold(tmp_path):
            pytest.fail("held twice")


def test_where_there_are_no_locks_the_work_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", none)
    with hold(tmp_path), hold(tmp_path):
        pass


def test_what_is_free(tmp_path: Path) -> None:
    assert files.is_free(tmp_path / "none")
    assert files.is_free(tmp_path)
    (tmp_path / "file").touch()
    assert not files.is_free(tmp_path / "file")
    assert not files.is_free(tmp_path)
