"""Every method on the same data: train, measure, judge, and keep the winner ready to use.

Each method is trained and measured in processes of its own (`malmoi.compare.worker`), so that memory is known
apart and a method that fails, or is killed, is a row with its reason. What is finished is not done again.
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from zlib import crc32

import numpy as np
import torch

from malmoi.compare.comparison import Comparison, confusions, contrasts
from malmoi.compare.judging import judge_texts, make_judge
from malmoi.compare.settings import ComparisonSettings, Material, check_currency, load_material
from malmoi.compare.verdict import (
    SAME_COST,
    MethodRow,
    Verdict,
    advice,
    best_possible,
    floor_of,
    judge,
    points,
    show,
    timed_beside,
)
from malmoi.compare.worker import FIT, QUESTIONS, RECORD, RESULT, MethodJob, attempt, keep
from malmoi.core.errors import UserError, nearest
from malmoi.core.nouns import FitReport, Json, Metric, Say, silent
from malmoi.data.labelled import lines_about
from malmoi.methods.base import Method
from malmoi.methods.folder import load_report, write_card
from malmoi.methods.registry import make_method, settled_options
from malmoi.methods.use import RESULTS, learned_from, method_card, task_files
from malmoi.metrics.statistics import Statistic
from malmoi.tasks.checks import refuse_too_few_labels
from malmoi.util.files import is_free, read_json, write_json
from malmoi.util.hardware import cpu_name, pick_device
from malmoi.util.locks import hold
from malmoi.util.units import counted

WORKER = ("-m", "malmoi.compare.worker")
SHARES = (0.1, 0.3)  # of the training examples, for the learning curve
PARTS = ("train", "valid", "test")
# may change
FREE = {
    *PARTS, "methods", "metric", "good_enough", "margin", "price_per_hour", "currency", "curve",
    "shots_curve", "licence", "seeds", "judge", "judge_options", "judge_limit",
}  # fmt: skip
TRAINING_COSTS = ("train_seconds", "train_cpu_seconds", "train_peak_bytes")
PACKAGES = ("malmoi", "torch", "numpy", "tokenizers", "scikit-learn", "python-crfsuite", "sacrebleu")


def run_comparison(
    settings: ComparisonSettings, out: Path, say: Say = silent, isolated: bool = True,
    fitted: Mapping[str, tuple[Method, FitReport]] | None = None,
) -> Comparison:  # fmt: skip
    """Compare; writes results.json and winner/ into `out` and goes on where it stopped.

    isolated: False trains in this process, where peak memory is everyone's. fitted: of the methods in the
    settings, those that have learned already and are only measured. Raises UserError for data, options or
    metrics that cannot be, and for a folder that holds something else or that another process writes.
    """
    with hold(out):
        return _run(settings, out, say, isolated, fitted or {})


def _run(
    settings: ComparisonSettings, out: Path, say: Say, isolated: bool,
    fitted: Mapping[str, tuple[Method, FitReport]],
) -> Comparison:  # fmt: skip
    material = load_material(settings)
    if not fitted:
        refuse_too_few_labels(material.parts["train"], material.task.kind)
    methods = {name: make_method(name, material.task, options) for name, options in settings.methods.items()}
    metric, wanted = settings.good_enough or (settings.metric or material.task.metric, None)
    if wanted is not None and settings.margin:
        raise UserError("`good_enough` is a goal and `margin` what may be lost to the best; give one of them")
    if settings.metric not in (None, metric):
        raise UserError(f"`good_enough` is of {metric} and `metric` is {settings.metric}; give one of them")
    _check_metric(metric, wanted, material)
    _check_currencies(methods, settings)
    judge_model = make_judge(settings, material.task, out)
    for method in methods.values():
        method.check(material.parts["train"])
    if settings.shots_curve and not any(method.family == "prompted" for method in methods.values()):
        raise UserError("`shots_curve` is of the prompted method, which is not compared; give `model` DIR")
    _claim(out, settings, material)
    for note in material.notes:
        say(note)
    for line in lines_about(material.findings, material.task.name):
        say(line)
    for name, (method, report) in fitted.items():
        if not ((job := MethodJob(out, name)).folder / FIT).exists():
            keep(job, method, report, 0, dict.fromkeys(TRAINING_COSTS, 0.0))
    runs = {name: _measure_runs(MethodJob(out, name), settings.seeds, say, isolated) for name in methods}
    price, found = settings.price_per_hour, {name: each[0] for name, each in runs.items()}
    rows = [_row(name, methods[name].family, runs[name], material, metric, price) for name in runs]
    if settings.seeds > 1 and not any(row.seeds for row in rows):
        say(f"`seeds` {settings.seeds}: none of these methods depends on its seed")
    floor = floor_of(material.task, material.parts["train"], material.test)
    verdict = judge(rows, metric, wanted, floor, settings.margin, material.right_adequacy)
    judged = judge_texts(judge_model, verdict, material, settings, say) if judge_model else None
    words = " ".join(filter(None, (advice(verdict, len(material.test)), judged and judged.words)))
    comparison = Comparison(
        settings, out, material, verdict, words,
        _curve(verdict, found, material, out, say, isolated) if settings.curve else {},
        *_shots_curve(verdict, found, material, settings.shots_curve, out, say, isolated),
        contrasts(verdict, material), confusions(verdict, material),
        f"{cpu_name()}, {counted(torch.get_num_threads(), 'thread')}, {pick_device()}",
        {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}, isolated, judged,
    )  # fmt: skip
    _keep_winner(comparison)
    write_json(out / RESULTS, _results(comparison, runs))
    return comparison


def _check_metric(name: str, wanted: float | None, material: Material) -> None:
    """Before any training: perfect predictions show which metrics there are."""
    likelihoods = [-1.0] * len(material.test) if material.texts else None
    known = material.statistics([example.target for example in material.test], likelihoods)
    if name not in known:
        raise UserError(f"{material.task.name} has no metric {name!r}; {nearest(name, known)}")
    if not known[name].has_interval:
        raise UserError(f"{name} has no interval to judge by; take {material.task.metric}")
    most = best_possible(name, known[name])
    if wanted is not None and not (0 <= wanted <= most and isfinite(wanted)):
        fix = f"; write {wanted / 100:g} or {wanted:g}%" if most == 1 < wanted <= 100 else ""
        bounds = f"goes from 0 to {most:g}" if isfinite(most) else "is a number of 0 or more"
        raise UserError(f"`good_enough` {name}={wanted:g}: {name} {bounds}{fix}")


def _check_currencies(methods: Mapping[str, Method], settings: ComparisonSettings) -> None:
    """What is paid for answers must be in the money that this machine is paid in, where that has a price."""
    check_currency(settings.currency, settings.price_per_hour)
    for name, method in methods.items():
        paid_in = getattr(method.options, "currency", settings.currency)
        if settings.price_per_hour and paid_in != settings.currency:
            here = f"this machine in {settings.currency or 'no currency'}"
            raise UserError(f"{name} is paid in {paid_in or 'no currency'}, {here}; give the same to both")


def _claim(out: Path, settings: ComparisonSettings, material: Material) -> None:
    """Write what was asked, and the test inputs. Raises UserError where `out` holds another comparison."""
    record = {"settings": settings.model_dump(mode="json"), "data": material.hashes()}
    if (out / RECORD).exists():
        old = read_json(out / RECORD)
        if changed := _changed(old, record):
            raise UserError(f"{out} holds a comparison with other {', '.join(changed)}; choose another `out`")
        asked, before = record["settings"]["methods"], old["settings"]["methods"]
        for name in asked.keys() & before.keys():
            if asked[name] != before[name]:  # such as a price: what was learned stays, what it costs does not
                (MethodJob(out, name).folder / RESULT).unlink(missing_ok=True)
        record["settings"]["methods"] = before | asked
    elif not is_free(out):
        raise UserError(f"{out} holds something else than a comparison; choose another `out`")
    inputs = [material.task.input_json(example.input) for example in material.test]
    for value, example in zip(inputs, material.test, strict=True):
        assert material.task.input_from(value) == example.input, example.source
    write_json(out / QUESTIONS, {"inputs": inputs, "texts": material.texts})
    write_json(out / RECORD, record)


def _changed(old: Json, new: Json) -> list[str]:
    """The names of what differs and would change a measurement."""
    after, before = new["settings"], old["settings"]
    found = [name for name in after if name not in FREE and after[name] != before.get(name)]
    methods = before["methods"] | after["methods"]
    found += [
        f"options of {name}" for name, it in before["methods"].items()
        if settled_options(name, methods[name]) != settled_options(name, it)
    ]  # fmt: skip
    return [*found, *(f"{part} data" for part in PARTS if new["data"][part] != old["data"][part])]


def _measure_runs(job: MethodJob, seeds: int, say: Say, isolated: bool) -> list[Json]:
    """As `_measure`, with each seed where that matters. The run that is kept comes first and lies in
    `job.place`: the best one by the examples held out to choose by."""
    found = [_measure(job, say, isolated)]
    if "error" in found[0] or _chosen_by(found[0]) is None:
        return found
    found += [_measure(replace(job, run=run), say, isolated) for run in range(1, seeds)]
    whole = [run for run, one in enumerate(found) if "error" not in one]
    kept = max(whole, key=lambda run: (_chosen_by(found[run]), -run))
    if kept != job.run_in_place:
        aside, folder = replace(job, run=job.run_in_place).aside, replace(job, run=kept).folder
        aside.parent.mkdir(exist_ok=True)
        if job.place.exists():
            job.place.rename(aside)
        folder.rename(job.place)
    return [found.pop(kept), *found]


def _chosen_by(found: Json) -> float | None:
    return FitReport(found["report"]).best


def _measure(job: MethodJob, say: Say, isolated: bool) -> Json:
    """Train and measure one method, as far as that is not done yet. A failure is {"error": reason}."""
    result, name = job.folder / RESULT, job.title
    if result.exists() and "error" not in (found := read_json(result)):
        say(f"{name}: measured before")
        return found
    result.unlink(missing_ok=True)
    stages = ("predict",) if (job.folder / FIT).exists() else ("fit", "predict")
    if "fit" in stages:
        shutil.rmtree(job.folder, ignore_errors=True)
    for stage in stages:
        if not result.exists():
            (_in_process if isolated else attempt)(job, stage, lambda line: say(f"{name}: {line}"))
    found = read_json(result)
    say(f"{name}: failed: {found['error']}" if "error" in found else f"{name}: done")
    return found


def _in_process(job: MethodJob, stage: str, say: Say) -> None:
    """`attempt` in a new process, which may be killed. Its standard error goes to a log."""
    log = job.out / "logs" / f"{job.unfinished.name}-{stage}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    shots = "" if job.shots is None else str(job.shots)
    pause = str(job.every_s)  # the worker's own output is a pipe
    command = [sys.executable, *WORKER, str(job.out), job.name, str(job.share), shots, str(job.run), pause]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [*command, stage], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            env=os.environ | {"PYTHONIOENCODING": "utf-8"}, encoding="utf-8", errors="replace",
        )  # fmt: skip
        with process:
            for line in process.stdout or ():
                say(line.rstrip())
    if process.returncode and not (job.folder / RESULT).exists():
        write_json(job.folder / RESULT, {"error": _end(process.returncode, log)})


def _end(code: int, log: Path) -> str:
    """What an exit code means, in words."""
    if code >= 0:
        return f"its process ended with code {code}; see {log}"
    name = signal.Signals(-code).name
    return f"its process was killed ({name}{', most often for want of memory' if name == 'SIGKILL' else ''})"


def _row(
    name: str, family: str, runs: Sequence[Json], material: Material, metric: str,
    price_per_hour: float | None,
) -> MethodRow:  # fmt: skip
    """What is known of a method: the figures are the mean of its runs, the rest is that of the first.

    One that is paid for its answers costs that, where the others cost money.
    """
    found = runs[0]
    if "error" in found:
        return MethodRow(name, family, found["error"])
    statistics, costs = _statistics(runs, material, crc32(name.encode())), found["costs"]
    metrics = {metric: statistic.metric() for metric, statistic in statistics.items()}
    seconds, paid = 1000 / costs["predictions_per_s"], costs.get("price_per_1000")
    costs["cost_per_1000"] = paid if paid and price_per_hour else seconds * (price_per_hour or 3600) / 3600
    predictions = [material.task.from_json(value) for value in found["predictions"]]
    spread = _spread(runs, metric, statistics[metric]) if len(runs) > 1 and metric in statistics else ""
    note = "; ".join(filter(None, (found["report"].get("note"), timed_beside(costs))))
    seeds = 0 if _chosen_by(found) is None else len(runs)
    sure = found.get("confidences")
    return MethodRow(name, family, "", statistics, metrics, costs, predictions, note, seeds, spread, sure)


def _spread(runs: Sequence[Json], metric: str, statistic: Statistic) -> str:
    """How far the runs with different seeds lie apart, and which one is kept, in a line for people."""
    values, mean = statistic.values, statistic.metric()
    least, most = (show(metric, mean, end(values)) for end in (min, max))
    line = f"the mean of {counted(len(values), 'seed')}, from {least} to {most}"
    if len(values) > 1:
        line += f" (standard deviation {points(metric, mean, float(np.std(values, ddof=1)))})"
    line += f"; the run kept is number {runs[0].get('run', 0) + 1}, the best on the examples to choose by"
    failed = [f"; one failed: {one['error']}" for one in runs if "error" in one]
    return line + "".join(failed)


def _statistics(runs: Sequence[Json], material: Material, stream: int = 0) -> dict[str, Statistic]:
    """Of the runs that did not fail, the first of which is the one that is kept."""

    def of_run(found: Json) -> dict[str, Statistic]:
        predictions = [material.task.from_json(value) for value in found["predictions"]]
        return material.statistics(predictions, found["log_likelihoods"], found.get("confidences"))

    first, *others = [of_run(one) for one in runs if "error" not in one]
    return {
        name: replace(one, others=tuple(other[name] for other in others), stream=stream)
        for name, one in first.items()
    }


def _curve(
    verdict: Verdict, found: Mapping[str, Json], material: Material, out: Path, say: Say, isolated: bool
) -> dict[str, list[tuple[int, Metric]]]:
    """The metric after a tenth, a third and all of the training examples, at the same budget."""
    curve: dict[str, list[tuple[int, Metric]]] = {}
    for row in verdict.ranking:
        measured = [_measure(MethodJob(out, row.name, share), say, isolated) for share in SHARES]
        curve[row.name] = [
            (one["num_train"], _metric(verdict, one, material)) for one in measured if "error" not in one
        ]
        curve[row.name].append((found[row.name]["num_train"], row.metrics[verdict.metric]))
    return curve


def _shots_curve(
    verdict: Verdict, found: Mapping[str, Json], material: Material, shots: Sequence[int], out: Path,
    say: Say, isolated: bool,
) -> tuple[dict[str, list[tuple[int, Metric]]], list[str]]:  # fmt: skip
    """The metric of each prompted method with each number of solved examples; what to know of these."""
    curve: dict[str, list[tuple[int, Metric]]] = {}
    notes: list[str] = []
    for name in (row.name for row in verdict.ranking if shots and row.family == "prompted"):
        measured = [
            found[name] if found[name]["report"]["shots"] == count
            else _measure(MethodJob(out, name, shots=count), say, isolated)
            for count in shots
        ]  # fmt: skip
        points = [pair for pair in zip(shots, measured, strict=True) if "error" not in pair[1]]
        curve[name] = [(count, _metric(verdict, it, material)) for count, it in points]
        noted = [(count, note) for count, it in points if (note := it["report"].get("note"))]
        notes += [f"{name} with {counted(count, 'shot')}: {note}" for count, note in noted]
    return curve, notes


def _metric(verdict: Verdict, found: Json, material: Material) -> Metric:
    return _statistics([found], material)[verdict.metric].metric()


def _keep_winner(comparison: Comparison) -> None:
    shutil.rmtree(comparison.winner_folder, ignore_errors=True)
    if winner := comparison.verdict.winner:
        keep_apart(comparison, winner, comparison.winner_folder)


def keep_apart(comparison: Comparison, row: MethodRow, folder: Path) -> None:
    """Copy the folder of one method, ready to use, with a card that tells what was measured."""
    settings, material = comparison.settings, comparison.material
    job = MethodJob(comparison.out, row.name)
    job, source = replace(job, run=job.run_in_place), job.place
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(FIT, RESULT))
    paths = (settings.train, settings.valid, settings.test)
    learned = learned_from(load_report(source), material.parts["train"], material.parts["valid"])
    card = method_card(
        make_method(row.name, material.task, job.options(settings)), row.metrics,
        learned, folder=folder, data=task_files(paths, settings.licence),
        measured_on=counted(len(material.test), "test example"),
        notes=tuple(filter(None, (comparison.advice, row.spread))),
        seconds=row.costs.get("train_seconds"), cpu_s=row.costs.get("train_cpu_seconds"),
    )  # fmt: skip
    write_card(folder, card.render())


def _results(comparison: Comparison, runs: Mapping[str, Sequence[Json]]) -> Json:
    """The content of results.json. "behind": how much better the best, and the one before it, are."""
    verdict, material, judged = comparison.verdict, comparison.material, comparison.judgement
    curve, shots_curve = (
        {name: [(count, asdict(it)) for count, it in points] for name, points in curves.items()}
        for curves in (comparison.curve, comparison.shots_curve)
    )
    return {
        "advice": comparison.advice, "winner": verdict.winner.name if verdict.winner else None,
        "metric": verdict.metric, "front": [row.name for row in verdict.front], "same_cost": SAME_COST,
        "margin": verdict.margin, "shown": sorted(verdict.shown),
        "doubts": {name: asdict(doubt) for name, doubt in verdict.doubts.items()},
        "claims": {name: asdict(claim) for name, claim in verdict.claims.items()},
        "floor": {"answer": verdict.floor.words, "metrics": {
            name: metric.value for name, metric in verdict.floor.metrics.items()
        }},
        "methods": {row.name: _measures(row, runs[row.name]) for row in comparison.rows},
        "lead_of_the_best": {name: asdict(lead) for name, lead in verdict.against_best.items()},
        "lead_over_the_next": {name: asdict(lead) for name, lead in verdict.against_next.items()},
        "judgement": judged and asdict(judged) | {"inconsistent": judged.inconsistent, "first": judged.first},
        "curve": curve, "shots_curve": shots_curve, "shots_notes": comparison.shots_notes,
        "cost_unit": comparison.cost_unit, "hashes": material.hashes(),
        "sizes": {name: len(part) for name, part in material.parts.items()}, "notes": material.notes,
        "findings": [asdict(finding) for finding in material.findings],
        "settings": comparison.settings.model_dump(mode="json"), "machine": comparison.machine,
        "versions": comparison.versions,
    }  # fmt: skip


def _measures(row: MethodRow, runs: Sequence[Json]) -> Json:
    """All of a method, and what each of its runs reached, the kept one first, where it has several."""
    found = {"family": row.family, "metrics": {name: asdict(metric) for name, metric in row.metrics.items()}}
    found |= runs[0]
    if len(runs) == 1:
        return found
    values = iter(zip(*(statistic.values for statistic in row.statistics.values()), strict=True))
    found["seeds"] = [
        {"run": one.get("run", 0)} | ({"error": one["error"]} if "error" in one else {
            "chosen_by": _chosen_by(one), "metrics": dict(zip(row.statistics, next(values), strict=True)),
        }) for one in runs
    ]  # fmt: skip
    return found
