"""The tab with the reports of comparisons: a table of the methods, and the report itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from malmoi.compare.verdict import PER, count_of_costs, one_latency, show, show_cost
from malmoi.core.errors import UserError
from malmoi.core.nouns import Metric
from malmoi.methods.use import COMPARISON, RESULTS
from malmoi.serve.page.look import note, panel
from malmoi.show.templates import piece
from malmoi.util.files import read_json
from malmoi.util.units import human_bytes

DEEPEST = 3  # folders below a runs folder
MOST_REPORTS = 200
REPORT = "report.html"


@dataclass(frozen=True, slots=True)
class Run:
    """A folder with a report."""

    name: str
    folder: Path

    @property
    def report(self) -> Path:
        """The page that was written when the run ended."""
        return self.folder / REPORT

    @property
    def compares(self) -> bool:
        """Whether there are results of methods, too."""
        return (self.folder / RESULTS).is_file()


def find_runs(roots: Iterable[Path], served: Iterable[Path]) -> list[Run]:
    """The reports in runs folders and in the folders that are served, each once, by name.

    Links are not followed out of a runs folder. Only what is found here is ever sent to a browser.
    """
    found: dict[Path, str] = {}
    for root in roots:
        for folder in _with_report(root.resolve(), DEEPEST):
            found.setdefault(folder, _name(folder, root.resolve()))
    for folder in map(Path.resolve, served):
        near = [folder, *folder.parents[:2]]  # a winner lies within its comparison
        for one in near:
            if (one / COMPARISON).is_file() and (one / REPORT).is_file():
                found.setdefault(one, one.name)
    runs = [Run(name, folder) for folder, name in found.items()]
    return sorted(runs, key=lambda run: (not run.compares, run.name))[:MOST_REPORTS]


def _name(folder: Path, root: Path) -> str:
    return root.name if folder == root else str(folder.relative_to(root))


def _with_report(folder: Path, depth: int) -> Iterable[Path]:
    report = folder / REPORT
    if report.is_file() and not report.is_symlink():
        yield folder
    if depth:
        try:
            below = sorted(it for it in folder.iterdir() if it.is_dir() and not it.is_symlink())
        except OSError:
            return
        for one in below:
            yield from _with_report(one, depth - 1)


def compare_tab(runs: Sequence[Run], base: str) -> None:
    """Build the tab, within gr.Blocks. base: the path below which report n is sent as `base/n`."""
    if not runs:
        fix = "Give a folder of runs: malmoi serve DIR --runs FOLDER. Make one: malmoi compare --help"
        panel(note(f"No reports here. {fix}"))
        return
    panel(note("Which method is good enough, and what it costs: the comparisons of the runs folder."))
    chosen = gr.Dropdown(
        [(run.name, at) for at, run in enumerate(runs)], value=0, label="Comparison", filterable=len(runs) > 8
    )

    def framed(at: int) -> str:
        return piece("report", source=f"{base}/{at}")

    table = panel(table_of(runs[0]), elem_id="compare-table")
    frame = panel(framed(0), sanitize=False, elem_id="compare-report")
    chosen.change(
        lambda at: (table_of(runs[at]), framed(at)), chosen, [table, frame], api_visibility="private"
    )


def table_of(run: Run) -> str:
    """The methods of a comparison as an HTML table, the best first, or a note that there is none."""
    if not run.compares:
        return note("This report has no table of methods.")
    try:
        return _table(read_json(run.folder / RESULTS))
    except (UserError, OSError, KeyError, TypeError, AttributeError):  # another program's, or an older form
        return note(f"{RESULTS} of {run.name} cannot be read as a comparison's.", kind="warn")


def _table(results: Mapping[str, Any]) -> str:
    metric, winner = results["metric"], results["winner"]
    methods = sorted(results["methods"].items(), key=lambda it: _rank(it[1], metric))
    count = count_of_costs(of["costs"]["cost_per_1000"] for _, of in methods if of.get("costs"))
    heads = (
        "Method", "Family", metric.replace("_", " "), "95% interval", "Latency", "Size",
        f"{PER[count]} predictions ({results['cost_unit']})",
    )  # fmt: skip
    lines = [
        {
            "name": name, "wins": name == winner, "family": of["family"],
            "figures": _figures(of, metric, count), "error": of.get("error") or "no such measure",
        }
        for name, of in methods
    ]  # fmt: skip
    return piece("results", advice=results["advice"], heads=heads, lines=lines)


def _rank(of: Mapping[str, Any], metric: str) -> float:
    found = of.get("metrics", {}).get(metric)
    return float("inf") if found is None else -found["value"] * (1 if found["higher_is_better"] else -1)


def _figures(of: Mapping[str, Any], metric: str, count: int) -> list[str]:
    """What stands below the heads of figures; nothing where the metric was not measured."""
    if (found := of.get("metrics", {}).get(metric)) is None:
        return []
    costs = of["costs"]
    measure = Metric(found["value"], tuple(found["interval"] or ()) or None, found["higher_is_better"])
    ends = " to ".join(show(metric, measure, end) for end in measure.interval or ())
    return [
        show(metric, measure), ends or "-", one_latency(costs), human_bytes(costs["disk_bytes"]),
        show_cost(costs["cost_per_1000"], count),
    ]  # fmt: skip
