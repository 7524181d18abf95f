from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from malmoi.learn.loop import Loop
from malmoi.learn.run_config import load_run
from malmoi.methods.registry import make_method
from malmoi.tasks import make_task
from malmoi.util import threads
from malmoi.util.threads import TRY, CoreTimes, WaitPolicy, is_crowded
from tests.engine.scripted import Scripted, engine

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")


@pytest.mark.parametrize(
    ("others", "num_threads", "cores", "expected"),
    [
        (0.0, 2, 2, False),
        (0.3, 2, 2, False),  # a window that is drawn, a page that loads
        (0.6, 2, 2, True),
        (1.0, 2, 2, True),
        (1.0, 1, 2, False),  # there is nobody to wait for
        (0.0, 4, 2, True),
        (5.0, 2, 8, False),  # the others have cores of their own
        (7.0, 2, 8, True),
        (0.5, 8, 8, True),
    ],
)
def test_threads_are_crowded_where_they_have_less_than_a_core_each(
    others: float, num_threads: int, cores: int, expected: bool
) -> None:
    assert is_crowded(others, num_threads, cores) is expected


@LINUX
@pytest.mark.parametrize("priority", [0, 5])
def test_what_others_use_is_what_all_use_but_us(
    priority: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On our cores only; what the host takes counts. What is niced yields to what is not."""
    path, tick_s = tmp_path / "stat", 1 / os.sysconf("SC_CLK_TCK")
    monkeypatch.setattr(threads, "_STAT", path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(os, "getpriority", lambda *_: priority)
    wall, own = iter([10.0, 12.0, 14.0]), iter([3.0, 5.5, 7.0])
    monkeypatch.setattr(threads, "perf_counter", lambda: next(wall))
    monkeypatch.setattr(threads, "process_time", lambda: next(own))

    def write(user: float, niced: float, stolen: float, elsewhere: float) -> CoreTimes:
        ticks = [round(value / tick_s) for value in (user, niced, stolen, elsewhere)]
        path.write_text(
            f"cpu 0 0 0 0 0 0 0 0 0 0\ncpu0 {ticks[0]} {ticks[1]} 7 900 9 0 0 {ticks[2]} 0 0\n"
            f"cpu1 0 0 7 900 9 0 0 0 0 0\ncpu2 {ticks[3]} 0 7 900 9 0 0 0 0 0\nintr 5\n"
        )
        found = CoreTimes.now()
        assert found is not None
        return found

    first, second = write(100, 0, 0, 0), write(103, 1, 0.5, 70)
    assert second.others_since(first) == pytest.approx((3.5 + 1 - 2.5) / 2)
    equals = (3.5 - 2.5) / 2 if priority == 0 else (3.5 + 1 - 2.5) / 2
    assert second.others_since(first, yielding=False) == pytest.approx(equals)
    assert write(104, 1, 0.5, 80).others_since(second) == 0  # clocks are read one after the other
    path.write_text("cpu0 nothing\n")
    assert CoreTimes.now() is None
    path.unlink()
    assert CoreTimes.now() is None


def looks(policy: WaitPolicy, count: int, equals: float, yielding: Callable[[bool], float]) -> list[bool]:
    """Whether threads sleep after each look; yielding: what is niced takes, of threads that sleep or turn."""
    found, asleep = list[bool](), policy.asleep > 0
    for _ in range(count):
        niced = yielding(asleep)
        now = CoreTimes(1.0, 1.0 + equals + niced, 1.0, niced)
        asleep = policy.sleeps(CoreTimes(0.0, 0.0, 0.0), now, 2, 2)
        found.append(asleep)
    return found


def test_threads_sleep_as_long_as_others_want_the_cores() -> None:
    policy = WaitPolicy()
    assert not any(looks(policy, 50, 0.1, lambda _: 0.0))
    assert all(looks(policy, 50, 1.0, lambda _: 0.0))
    assert not any(looks(policy, 50, 0.0, lambda _: 0.0))


def test_what_gives_way_to_threads_that_turn_is_left_alone_with_what_is_free() -> None:
    """It takes a whole core of threads that sleep, so they are woken now and then to see."""
    policy = WaitPolicy(asleep=1)
    found = looks(policy, 100, 0.0, lambda asleep: 1.0 if asleep else 0.02)
    assert found == [True] * found.index(False) + [False] * (100 - found.index(False))
    assert 5 < found.index(False) <= TRY
    assert all(looks(WaitPolicy(asleep=1), 100, 1.0, lambda asleep: 1.0 if asleep else 0.02))


def test_what_does_not_give_way_is_tried_seldom() -> None:
    found = looks(WaitPolicy(), 10 * TRY, 0.0, lambda _: 0.8)
    assert 0.9 * len(found) < sum(found) < len(found)


WATCHED = """
import threading
from malmoi.util.threads import share_cores
share_cores(); share_cores()
print(sum(thread.name == "malmoi-cores" for thread in threading.enumerate()))
"""


@pytest.mark.parametrize(
    ("environment", "watching"),
    [
        ({}, 1),
        ({"OMP_NUM_THREADS": "1"}, 0),
        ({"GOMP_SPINCOUNT": "5000"}, 0),
        ({"OMP_WAIT_POLICY": "active"}, 0),
        ({"KMP_BLOCKTIME": "5"}, 1),  # it is no setting of libgomp's
    ],
)
def test_how_threads_wait_is_the_users_choice(environment: dict[str, str], watching: int) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP", "GOMP", "KMP"))}
    given = kept | {"OMP_NUM_THREADS": "2"} | environment
    assert int(subprocess.check_output([sys.executable, "-c", WATCHED], text=True, env=given)) == watching


@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("200", "200")])
def test_another_openmp_is_told_how_long_to_wait_before_torch_is_there(
    given: str | None, expected: str
) -> None:
    kept = {name: value for name, value in os.environ.items() if name != "KMP_BLOCKTIME"}
    code = "import malmoi, os, sys; print(os.environ['KMP_BLOCKTIME'], 'torch' in sys.modules)"
    environment = kept | ({} if given is None else {"KMP_BLOCKTIME": given})
    found = subprocess.check_output([sys.executable, "-c", code], text=True, env=environment)
    assert found.split() == [expected, "False"]


# the sum of many numbers, which depends on the number of threads, before, while and after they may sleep
SLEEPING = """
import os, sys, time
import torch
from malmoi.util.threads import SleepingWaits

def num_threads(wanted):
    end = time.monotonic() + 60
    while not wanted(found := len(os.listdir("/proc/self/task"))) and time.monotonic() < end:
        time.sleep(0.01)
    return found

torch.manual_seed(0)
x = torch.randn(1 << 22)
sums, waits = [x.sum().item()], SleepingWaits()
before = num_threads(lambda found: True)
for _ in range(2):
    waits.switch(True)
    assert num_threads(lambda found: found > before + os.cpu_count()) > before + os.cpu_count()
    waits.switch(True)
    sums.append(x.sum().item())
    waits.switch(False)
    assert num_threads(lambda found: found <= before) <= before
    sums.append(x.sum().item())
assert len(set(sums)) == 1, sums
"""


@LINUX
def test_threads_sleep_while_there_are_more_than_cores_and_results_stay() -> None:
    subprocess.run([sys.executable, "-c", SLEEPING], check=True, env=os.environ | {"OMP_NUM_THREADS": "2"})


@pytest.mark.parametrize("computes", ["training", "an engine", "a network for a task"])
def test_whatever_computes_shares_the_cores(computes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    watched: list[int] = []
    monkeypatch.setattr(threads, "_start_watching", lambda: watched.append(1))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    if computes == "training":
        train = load_run("gpt-nano", ["train.micro_batch=1"]).train
        Loop[Any, Any](torch.nn.Linear(2, 2), SimpleNamespace(context=1), train)  # pyright: ignore[reportArgumentType]
    elif computes == "an engine":
        engine(Scripted())
    else:
        make_method("lstm", make_task("classification"), {})
    assert watched
