"""The last act: seven tasks on the sample world, small methods of every family beside the one model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape

from malmoi.compare.runner import run_comparison
from malmoi.compare.settings import ComparisonSettings
from malmoi.demo.material import TABLE
from malmoi.demo.plan import DemoPlan
from malmoi.demo.task_lines import ONE, one_model_line, task_line
from malmoi.methods.registry import methods_for
from malmoi.show.comparison_report import write_comparison
from malmoi.show.demo_report import Answers, Exchange, OneModelLine, TaskLine
from malmoi.show.terminal import console
from malmoi.tasks import make_task, sampled_tasks
from malmoi.tasks.kinds import CONTINUATION, LABEL, LABELS, SPAN, TAGS, TEXT, Kind
from malmoi.util.files import write_json

MEASURE_S = 0.2
# What suits networks that have seconds to learn, by the kind of task.
SMALL: dict[Kind, dict[str, Any]] = {
    LABEL: {"vocab_size": 2048, "width": 64},
    LABELS: {"vocab_size": 2048, "width": 64},
    TAGS: {"width": 64},
    SPAN: {"width": 64, "batch": 16},
    TEXT: {"vocab_size": 2048, "width": 128, "layers": 1, "beams": 2, "max_target": 64},
    CONTINUATION: {
        "vocab_size": 2048, "width": 128, "layers": 1, "lr": 0.02, "batch": 8, "max_new_tokens": 24,
        "context": 256,
    },
}  # fmt: skip


def answer_tasks(out: Path, one_model: Path, plan: DemoPlan, exchanges: Sequence[Exchange]) -> Answers:
    """Compare the methods of every task, each network with its seconds to learn, and the one model.

    Reads out/examples/TASK (see `malmoi.demo.material:write_examples`), writes out/tasks/TASK, a comparison,
    and out/one_model.json.
    """
    console.print("\nIn English and Korean, by small methods and by the one model:")
    shown, lines = list[TaskLine](), list[OneModelLine]()
    for name in sampled_tasks():
        settings = _settings(name, out, one_model, plan)
        found = run_comparison(settings, out / "tasks" / name, isolated=False)
        write_comparison(found)
        console.print(f"[bold]{name}[/] {escape(found.advice)}")
        shown.append(task_line(found))
        lines += [line] if (line := one_model_line(found)) else []
    write_json(out / TABLE, {line.task: line.figures for line in lines})
    return Answers(shown, exchanges, lines)


def _settings(name: str, out: Path, one_model: Path, plan: DemoPlan) -> ComparisonSettings:
    task, folder = make_task(name), out / "examples" / name
    neural: dict[str, dict[str, Any]] = dict.fromkeys(("lstm", "transformer"), SMALL[task.kind])
    return ComparisonSettings(
        task=name, train=folder / "train.jsonl", valid=folder / "valid.jsonl",
        methods={method: neural.get(method, {}) for method in methods_for(task)} | {
            ONE: {"model": str(one_model), "shots": 0}
        },
        budget_seconds=plan.others_s, budgets=dict.fromkeys(neural, plan.network_s),
        measure_seconds=MEASURE_S, test_limit=plan.test_rows,
    )  # fmt: skip
