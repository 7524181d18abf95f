"""How this process shares the processor's cores with other programs.

The threads of PyTorch and of our kernels are OpenMP's. One that waits for another turns in a loop, which is
fastest on a quiet machine. Where another program wants the core, the loop burns time that the awaited thread
needs, and training falls to a tenth or less; so while others keep cores busy, threads that wait sleep. How
many threads there are never changes in a run, for that would change sums in their last bits.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Event, Thread
from time import perf_counter, process_time, sleep
from typing import Self

FIRST_LOOK_S, LOOK_S = 0.1, 0.5  # until the first look at the machine, between two of the others
# Of a core, which others may use before threads sleep. A program that is always busy gets half a core or more
# beside threads that turn, and a whole one beside threads that sleep.
MOST_OTHERS = 0.4
TRY = 20  # looks, after which threads turn again where only programs of lower priority want the cores
_USERS_CHOICE = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
_BLOCKTIME = "KMP_BLOCKTIME"  # ms that a thread of LLVM's and Intel's OpenMP waits before it sleeps; else 200
_STAT, _MAPS = Path("/proc/stat"), Path("/proc/self/maps")
_NICE, _USED = 1, (0, 1, 2, 5, 6, 7)  # columns of /proc/stat: all but idle, iowait and those counted twice


@dataclass(frozen=True, slots=True)
class CoreTimes:
    """Seconds that have passed, that everybody has used of the cores we may run on, and that we have used.

    yielding_s: of those that everybody has used, what programs of lower priority than ours have.
    """

    wall_s: float
    used_s: float
    own_s: float
    yielding_s: float = 0.0

    @classmethod
    def now(cls) -> Self | None:
        """None where the system does not say (no Linux). What the host of a virtual machine takes is used."""
        try:
            ours = {f"cpu{number}" for number in os.sched_getaffinity(0)}
            lines = [
                line.split()[1:]
                for line in _STAT.read_text(encoding="ascii").splitlines()
                if line.split()[0] in ours
            ]
            used = sum(int(line[at]) for line in lines for at in _USED)
            yielding = sum(int(line[_NICE]) for line in lines) * (os.getpriority(os.PRIO_PROCESS, 0) <= 0)
        except (AttributeError, OSError, IndexError, ValueError):
            return None
        ticks_per_s = os.sysconf("SC_CLK_TCK")
        return cls(perf_counter(), used / ticks_per_s, process_time(), yielding / ticks_per_s)

    def others_since(self, before: Self, *, yielding: bool = True) -> float:
        """How many cores others have kept busy on average. yielding: those of lower priority count, too."""
        used_s = (self.used_s - before.used_s) - (self.own_s - before.own_s)
        if not yielding:
            used_s -= self.yielding_s - before.yielding_s
        return max(0.0, used_s) / max(1e-9, self.wall_s - before.wall_s)


def processor_seconds() -> float:
    """The processor time that this process has used, and those that it started and that have ended."""
    times = os.times()
    return process_time() + times.children_user + times.children_system


def is_crowded(others: float, threads: int, cores: int) -> bool:
    """Whether `threads` threads of ours have less than a core each, where others keep `others` cores busy."""
    return threads + others > cores + MOST_OTHERS


def crowded_by(before: CoreTimes | None) -> float | None:
    """How many cores others have kept busy since `before`; None where ours had a core each all the same.

    What was timed meanwhile would take less time on a quiet machine.
    """
    import torch

    if before is None or (now := CoreTimes.now()) is None:
        return None
    others = now.others_since(before)
    return others if is_crowded(others, torch.get_num_threads(), len(os.sched_getaffinity(0))) else None


def wait_shortly() -> None:
    """Have the threads of LLVM's and Intel's OpenMP, which some builds of PyTorch use, sleep after 1 ms.

    They read it when they begin, so it is set before PyTorch is imported; nobody can change it for another
    thread later. Where the user has set it, or the OpenMP is libgomp, nothing changes.
    """
    os.environ.setdefault(_BLOCKTIME, "1")


def share_cores() -> None:
    """From now on threads that wait sleep while other programs want the cores.

    Whatever computes calls it first; a second call does nothing, nor any where there is one thread. Where the
    user has said how threads wait (OMP_WAIT_POLICY, GOMP_SPINCOUNT), that holds.
    """
    import torch

    if torch.get_num_threads() > 1 and not any(name in os.environ for name in _USERS_CHOICE):
        _start_watching()


@cache
def _start_watching() -> None:
    Thread(target=_watch, name="malmoi-cores", daemon=True).start()


def _watch() -> None:
    import torch

    waits, policy, before, pause_s = SleepingWaits(), WaitPolicy(), CoreTimes.now(), FIRST_LOOK_S
    while before is not None:
        sleep(pause_s)
        if (now := CoreTimes.now()) is None:
            return
        waits.switch(policy.sleeps(before, now, torch.get_num_threads(), len(os.sched_getaffinity(0))))
        before, pause_s = now, LOOK_S


@dataclass(slots=True)
class WaitPolicy:
    """Whether threads that wait are to sleep, look by look: while others leave ours less than a core each.

    What has a lower priority takes cores that threads asleep leave to it, and may or may not give them back
    to threads that turn (it does not where Linux schedules by sessions). So that is tried now and then.
    """

    asleep: int = 0  # looks since they sleep

    def sleeps(self, before: CoreTimes, now: CoreTimes, threads: int, cores: int) -> bool:
        """Until the next look."""
        crowded = is_crowded(now.others_since(before), threads, cores)
        if crowded and self.asleep and self.asleep % TRY == 0:
            crowded = is_crowded(now.others_since(before, yielding=False), threads, cores)
        self.asleep = self.asleep + 1 if crowded else 0
        return crowded


class SleepingWaits:
    """Whether OpenMP's threads sleep soon after they begin to wait.

    libgomp's do where there are more of them than cores (after 100 turns of the loop instead of 300,000; see
    GOMP_SPINCOUNT in its manual). So while this is on, there are idle ones enough to be more.
    """

    def __init__(self) -> None:
        self._end: Event | None = None

    def switch(self, on: bool) -> None:
        """Let them sleep, or turn."""
        if on and self._end is None:
            self._end = Event()
            Thread(target=_hold_threads, args=(self._end,), name="malmoi-sleep", daemon=True).start()
        elif not on and self._end is not None:
            self._end.set()
            self._end = None


def _hold_threads(end: Event) -> None:
    """Have as many idle threads as there are cores, and one more, until `end`; they end with this thread."""
    for library in _openmp():
        nothing = ctypes.cast(library.omp_get_num_procs, ctypes.c_void_p)
        most = max(library.omp_get_num_procs(), os.cpu_count() or 1)
        library.GOMP_parallel(nothing, None, ctypes.c_uint(most + 1), ctypes.c_uint(0))
    end.wait()


def _openmp() -> list[ctypes.CDLL]:
    """The libgomps that are loaded: PyTorch's, and the compiler's where our kernels use another."""
    paths = {line.split()[-1] for line in _MAPS.read_text(encoding="utf-8").splitlines() if "/" in line}
    return [ctypes.CDLL(path) for path in sorted(paths) if Path(path).name.startswith("libgomp")]
