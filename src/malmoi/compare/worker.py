"""One method's part of a comparison, each stage in a process of its own.

`python -m malmoi.compare.worker OUT NAME SHARE SHOTS RUN PAUSE fit` trains and saves, `... predict` loads
what was saved and measures it as it will be used: without training data in memory and without seeing a
target.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from malmoi.compare.settings import ComparisonSettings, load_material, sample
from malmoi.compare.verdict import timed_beside
from malmoi.core.nouns import Budget, Done, FitReport, Predictions, Say, Work, with_note
from malmoi.methods.base import Method
from malmoi.methods.folder import load_method, save_method
from malmoi.methods.registry import make_method
from malmoi.methods.use import COMPARISON, completed, learned_from
from malmoi.util.files import read_json, write_json
from malmoi.util.hardware import peak_memory_bytes
from malmoi.util.progress import Progress, pause_s
from malmoi.util.threads import CoreTimes, crowded_by, processor_seconds
from malmoi.util.units import counted

RECORD, QUESTIONS = COMPARISON, "test.json"  # what was asked; the test inputs, as JSON
FIT, RESULT = "fit.json", "result.json"  # in a method's folder: after training; after measuring or failing
SINGLES = 200  # single predictions timed at most
PORTION = 64  # likelihoods between two counts


@dataclass(frozen=True, slots=True)
class MethodJob:
    """A method to train on a share of the training examples, for the comparison in the folder `out`.

    shots: how many to show it, instead of what its options say. run: which of the runs with different seeds;
    0 has the seed of its options, and the next ones those after it. every_s: least time between two lines of
    progress.
    """

    out: Path
    name: str
    share: float = 1.0
    shots: int | None = None
    run: int = 0
    every_s: float = field(default_factory=pause_s)

    @property
    def whole(self) -> bool:
        """Whether this is the method itself, and no point of a curve."""
        return self.share == 1 and self.shots is None

    @property
    def title(self) -> str:
        """What to call it."""
        how = f"-{self.share:.0%}" if self.shots is None else f"-{self.shots}-shots"
        return f"{self.name}{f'+{self.run}' * (self.run > 0)}" if self.whole else f"{self.name}{how}"

    @property
    def place(self) -> Path:
        """The folder of the method: that of its first run, or of the one that was kept."""
        name = replace(self, run=0).title.replace(":", "-")
        return self.out / ("methods" if self.whole else "curve") / name

    @property
    def aside(self) -> Path:
        """Where a run goes that is not the method's own."""
        return self.out / "seeds" / f"{self.place.name}+{self.run}"

    @property
    def run_in_place(self) -> int:
        """Which run lies in `place`; 0 where there is none yet."""
        found = self.place / FIT
        return read_json(found).get("run", 0) if found.exists() else 0

    @property
    def folder(self) -> Path:
        """Where the fitted method goes."""
        return self.aside if self.run != self.run_in_place or self.aside.exists() else self.place

    def options(self, settings: ComparisonSettings) -> dict[str, Any]:
        """What the method is made with."""
        found = settings.methods[self.name]
        found = found | ({"seed": found.get("seed", 0) + self.run} if self.run else {})
        return found | ({} if self.shots is None else {"shots": self.shots})

    @property
    def unfinished(self) -> Path:
        """Where fitting keeps checkpoints, and its number of steps, so that a second run equals the first."""
        return self.out / "steps" / self.title.replace(":", "-")


def fit(job: MethodJob, say: Say) -> None:
    """Train and save one method, with what that took in FIT."""
    settings = ComparisonSettings.model_validate(read_json(job.out / RECORD)["settings"])
    material = load_material(settings)
    method = make_method(job.name, material.task, job.options(settings))
    train, valid = (
        sample(part, max(1, round(job.share * len(part))), settings.seed)
        for part in (material.parts["train"], material.parts["valid"])
    )
    torch.manual_seed(settings.seed + job.run)
    method.load_libraries()
    start_s, start_cpu_s = time.perf_counter(), processor_seconds()
    seconds = settings.budgets.get(job.name, settings.budget_seconds)
    work = Work(Budget(seconds), say, job.unfinished)
    report = method.fit(train, valid, work)
    costs = {
        "train_seconds": time.perf_counter() - start_s,
        "train_cpu_seconds": processor_seconds() - start_cpu_s,
        "train_peak_bytes": peak_bytes(),
    }
    learned = learned_from(report, train, valid)
    report = completed(report, method, learned)
    if report.note:
        say(report.note)
    keep(job, method, report, len(learned), costs)
    for checkpoints in job.unfinished.rglob("checkpoints"):
        shutil.rmtree(checkpoints)


def keep(job: MethodJob, method: Method, report: FitReport, num_train: int, costs: dict[str, float]) -> None:
    """Save a fitted method, with what fitting took in FIT."""
    save_method(job.folder, method, report)
    costs["disk_bytes"] = sum(path.stat().st_size for path in job.folder.rglob("*") if path.is_file())
    found = {"num_train": num_train, "costs": costs, "report": report.facts}
    write_json(job.folder / FIT, found | ({"run": job.run} if job.run else {}))


def predict(job: MethodJob, say: Say) -> None:
    """Measure a saved method on the test inputs; everything known of it goes to RESULT."""
    asked, found = read_json(job.out / QUESTIONS), read_json(job.folder / FIT)
    settings = ComparisonSettings.model_validate(read_json(job.out / RECORD)["settings"])
    method = load_method(job.folder, job.options(settings))
    inputs = [method.task.input_from(value) for value in asked["inputs"]]
    say(f"measuring on {counted(len(inputs), 'example')}")
    method.predict(inputs[:1])  # warm-up
    most_s, before = settings.measure_seconds, CoreTimes.now()
    costs = _latency(method, inputs, most_s) if job.whole else {}
    done = Progress(len(inputs), "prediction", say, job.every_s)
    predictions, speed = _throughput(method, inputs, most_s / 20, done)
    costs |= speed
    crowd, known = crowded_by(before), method.costs() if job.whole else {}
    if crowd is not None and "latency_p50_s" not in known:
        costs["busy_cores"] = crowd
        say(timed_beside(costs))
    costs["predict_peak_bytes"] = peak_bytes()
    found["costs"] |= costs | known
    if note := "; ".join(filter(None, (predictions.note, method.cut_note(inputs)))):
        say(note)
    found["report"] = with_note(found["report"] | predictions.facts, found["report"].get("note"), note)
    pairs = zip(predictions.values, inputs, strict=True)
    if job.whole:
        found["confidences"] = method.confidences(inputs, predictions.values)
    found["predictions"] = [method.task.to_json(value, asked_for) for value, asked_for in pairs]
    done = Progress(len(inputs), "likelihood", say, job.every_s)
    found["log_likelihoods"] = _likelihoods(method, inputs, asked["texts"], done) if asked["texts"] else None
    write_json(job.folder / RESULT, found)


def _latency(method: Method, inputs: Sequence[Any], most_s: float) -> dict[str, float]:
    """Seconds of one prediction at a time."""
    times_s: list[float] = []
    for value in inputs[:SINGLES]:
        start_s = time.perf_counter()
        method.predict([value])
        times_s.append(time.perf_counter() - start_s)
        if sum(times_s) > most_s:
            break
    p50, p95 = np.percentile(times_s, (50, 95))
    return {"latency_p50_s": float(p50), "latency_p95_s": float(p95)}


def _likelihoods(
    method: Method, inputs: Sequence[Any], texts: Sequence[str], done: Done
) -> list[float] | None:
    """`Method.log_likelihood`, counted as it comes."""
    found: list[float] = []
    for start in range(0, len(inputs), PORTION):
        part = slice(start, start + PORTION)
        if (nats := method.log_likelihood(inputs[part], texts[part])) is None:
            return None
        found += nats
        done(len(found))
    return found


def _throughput(
    method: Method, inputs: Sequence[Any], least_s: float, done: Done
) -> tuple[Predictions, dict[str, float]]:
    """The predictions, and how many a second when many are asked for at once, and the processor's time."""
    rounds, start_s, start_cpu_s = 1, time.perf_counter(), processor_seconds()
    predictions = method.predict_counting(inputs, done)
    while time.perf_counter() - start_s < least_s:
        method.predict(inputs)
        rounds += 1
    count = rounds * len(inputs)
    return predictions, {
        "predictions_per_s": count / (time.perf_counter() - start_s),
        "predict_cpu_seconds_per_1000": 1000 * (processor_seconds() - start_cpu_s) / count,
    }


def peak_bytes() -> int:
    """The most memory that this process has held. Not ru_maxrss: on Linux that starts at the parent's."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return peak_memory_bytes()


def attempt(job: MethodJob, stage: str, say: Say) -> None:
    """Run a stage; where it fails, the reason is one line in RESULT, the traceback goes to standard error."""
    try:
        {"fit": fit, "predict": predict}[stage](job, say)
    except Exception as error:
        traceback.print_exc()
        text = " ".join(str(error).split())[:300]
        plain = isinstance(error, ValueError) and text  # our own errors speak for themselves
        reason = text if plain else f"{type(error).__name__}: {text}".rstrip(": ")
        write_json(job.folder / RESULT, {"error": reason})


def _end_with_parent() -> None:
    """Standard input is a pipe from the comparison; when that is gone, nobody holds the folder any more."""
    try:
        while os.read(0, 1024):
            pass
    except OSError:  # there is none: it was started by hand
        return
    os._exit(1)


def main(arguments: Sequence[str]) -> None:
    """Run one stage: OUT NAME SHARE SHOTS RUN PAUSE STAGE, where SHOTS may be empty and PAUSE is in seconds.

    Ends when standard input does.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    out, name, share, shots, run, pause, stage = arguments
    job = MethodJob(Path(out), name, float(share), int(shots) if shots else None, int(run), float(pause))
    attempt(job, stage, lambda line: print(line, flush=True))


if __name__ == "__main__":
    main(sys.argv[1:])
