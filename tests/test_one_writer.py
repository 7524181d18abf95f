"""Two processes never write one folder: the second hears of the first, and a killed one is no hindrance."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from malmoi.compare.distill import DistillSettings, distill
from malmoi.compare.runner import run_comparison
from malmoi.compare.settings import ComparisonSettings
from malmoi.core.errors import UserError
from malmoi.learn.counting import count_ngrams
from malmoi.learn.job import prepare
from malmoi.learn.objectives import training_of
from malmoi.learn.run_config import load_alignment, load_run, load_tuning
from malmoi.methods.use import fit_method
from malmoi.tasks import make_task
from malmoi.util.files import LOCK
from malmoi.util.locks import hold
from tests.compare.fakes import write_reviews
from tests.learn.conftest import TINY, start, tiny, train

MALMOI = (sys.executable, "-c", "from malmoi.cli.commands import main; main()")
LONG_S = 120.0


@contextmanager
def running(*arguments: object, until: Callable[[], bool]) -> Iterator[subprocess.Popen[bytes]]:
    """A command in a process of its own, as soon as `until` holds; it is killed at the end."""
    process = subprocess.Popen([*MALMOI, *map(str, arguments)], stdout=subprocess.DEVNULL, env=os.environ)
    end_s = time.monotonic() + LONG_S
    try:
        while not until():
            assert process.poll() is None
            assert time.monotonic() < end_s
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_run_is_not_resumed_beside_itself_but_after_it(corpus: Path, tmp_path: Path) -> None:
    long, out = "train.steps=100000", tmp_path / "out"
    settings = [part for it in (*TINY, "model.heads=2", long) for part in ("--set", it)]
    command = ("pretrain", "gpt-nano", "--data", corpus, *settings, "--out", out)
    with running(*command, until=lambda: any(out.glob("checkpoints/step-*"))) as process:
        with pytest.raises(UserError, match=f"out is in use by process {process.pid} on .*stop it"):
            start(tiny("gpt-nano", long), corpus, out, resume=True)
        second = subprocess.run(
            [*MALMOI, *map(str, command), "--resume"], capture_output=True, text=True, check=False
        )
        assert second.returncode == 2
        assert second.stderr.startswith(f"malmoi: {out} is in use by process {process.pid} on ")
        assert second.stderr.count("\n") == 1
        assert process.poll() is None
    assert (out / LOCK).exists()  # it was killed
    run = start(tiny("gpt-nano", long), corpus, out, resume=True)
    assert run.loop.step > 0
    assert not (out / LOCK).exists()


def test_a_killed_comparison_leaves_no_worker_behind(tmp_path: Path) -> None:
    reviews, out = write_reviews(tmp_path / "reviews.jsonl"), tmp_path / "out"
    slow = ("--methods", "lstm", "--set", "lstm.epochs=100000")
    command = ("compare", "classification", "--train", reviews, *slow, "--out", out)

    def workers() -> list[Path]:
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                line = (place / "cmdline").read_bytes()
            except OSError:
                continue
            if b"malmoi.compare.worker" in line and str(out).encode() in line:
                found.append(place)
        return found

    if not Path("/proc/self/cmdline").exists():
        pytest.skip("needs /proc")
    with (
        running(*command, until=lambda: bool(workers())),
        pytest.raises(UserError, match="in use by process"),
        hold(out),
    ):
        pytest.fail("held twice")
    end_s = time.monotonic() + LONG_S
    while workers():
        assert time.monotonic() < end_s
        time.sleep(0.01)
    with hold(out):
        pass


@pytest.fixture(scope="module")
def chat(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    train(tiny(), corpus, folder / "gpt")
    talks = folder / "talks.jsonl"
    rows = [{"prompt": f"say {n}", "completion": str(n)} for n in range(12)]
    talks.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    config = load_tuning(folder / "gpt", [str(talks)], (), ["train.steps=1", "train.context=16"])
    run = prepare(
        training_of("finetune"), config, folder / "chat", resume=False, say=lambda _: None, device="cpu"
    )
    assert run is not None
    run.run(lambda _: None)
    return folder


def test_every_command_that_writes_a_folder_asks_first(chat: Path, corpus: Path, tmp_path: Path) -> None:
    reviews, out = write_reviews(tmp_path / "reviews.jsonl"), tmp_path / "out"
    talks, task = str(chat / "talks.jsonl"), make_task("classification")
    settings = ComparisonSettings(task="classification", train=reviews, methods={"tfidf": {}})
    asked = DistillSettings(
        task="classification", teacher="remote", student="tfidf", unlabelled=reviews, train=reviews
    )
    tuning = load_tuning(chat / "gpt", [talks], (), ())
    align = load_alignment(chat / "chat", chat / "talks.jsonl", None, ())
    writers: list[Callable[[], object]] = [
        lambda: start(tiny(), corpus, out),
        lambda: count_ngrams(load_run("ngram"), corpus, out, resume=False, say=pytest.fail),
        lambda: prepare(training_of("finetune"), tuning, out, resume=True, say=pytest.fail),
        lambda: prepare(training_of("align"), align, out, resume=True, say=pytest.fail),
        lambda: fit_method(
            task,
            "tfidf",
            reviews,
            None,
            out,
            options={},
            budget_seconds=None,
            allow_skips=False,
            say=pytest.fail,
        ),
        lambda: run_comparison(settings, out, isolated=False),
        lambda: distill(asked, out, isolated=False),
    ]
    with hold(out):
        for write in writers:
            with pytest.raises(UserError, match="out is in use by process"):
                write()
    assert not out.exists()


def test_a_lock_that_a_dead_process_left_is_in_nobodys_way(tmp_path: Path) -> None:
    reviews, out = write_reviews(tmp_path / "reviews.jsonl"), tmp_path / "out"
    out.mkdir()
    (out / LOCK).write_text('{"process": 1, "host": "elsewhere", "since": "then"}')
    fit_method(
        make_task("classification"), "tfidf", reviews, None, out, options={}, budget_seconds=None,
        allow_skips=False, say=lambda _: None,
    )  # fmt: skip
    assert LOCK not in {path.name for path in out.iterdir()}
