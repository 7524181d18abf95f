"""Where one label outnumbers the others: what a comparison is judged by, and what a fitted method keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from malmoi.compare.comparison import Comparison
from malmoi.compare.runner import run_comparison
from malmoi.compare.settings import ComparisonSettings
from malmoi.core.errors import UserError
from malmoi.methods.folder import load_method
from malmoi.methods.use import evaluate, fit_method
from malmoi.tasks import make_task

WHY = (
    "measured by macro f1: 'ham' is 90% of the labels in training, "
    "and accuracy is high for saying nothing else"
)


@pytest.fixture
def mails(tmp_path: Path) -> Path:
    texts = [f"win a prize {n}" if n % 10 == 0 else f"see you at lunch {n}" for n in range(300)]
    rows = [{"text": text, "label": "spam" if "prize" in text else "ham"} for text in texts]
    path = tmp_path / "mails.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def compared(mails: Path, **settings: Any) -> Comparison:
    given = {"task": "classification", "train": mails, "methods": {"lexicon": {}}, "measure_seconds": 0.01}
    return run_comparison(ComparisonSettings(**given | settings), mails.parent / "out", isolated=False)


def test_macro_f1_decides_and_a_line_says_why(mails: Path) -> None:
    found = compared(mails)
    assert found.verdict.metric == "macro_f1"
    assert WHY in found.material.notes
    assert found.verdict.floor.metrics["macro_f1"].value < 0.5


@pytest.mark.parametrize(
    ("settings", "metric"),
    [
        ({"good_enough": ("accuracy", 0.85)}, "accuracy"),
        ({"metric": "accuracy"}, "accuracy"),
        ({"metric": "balanced_accuracy"}, "balanced_accuracy"),
        ({"metric": "accuracy", "good_enough": ("accuracy", 0.85)}, "accuracy"),
    ],
)
def test_what_the_user_names_holds(settings: dict[str, Any], metric: str, mails: Path) -> None:
    found = compared(mails, **settings)
    assert found.verdict.metric == metric
    assert WHY not in found.material.notes


def test_a_metric_that_is_not_there_or_another_one_is_reported(mails: Path) -> None:
    with pytest.raises(UserError, match="has no metric 'acuracy'; did you mean 'accuracy'"):
        compared(mails, metric="acuracy")
    with pytest.raises(UserError, match="`good_enough` is of accuracy and `metric` is macro_f1"):
        compared(mails, metric="macro_f1", good_enough=("accuracy", 0.85))


def test_a_fitted_method_keeps_what_it_is_measured_by(mails: Path) -> None:
    said: list[str] = []
    task, out = make_task("classification"), mails.parent / "fitted"
    found = fit_method(
        task, "lexicon", mails, None, out, options={}, budget_seconds=None, allow_skips=False, say=said.append
    )
    assert WHY in said
    assert next(iter(found.metrics)) == "macro_f1"
    assert WHY in (out / "README.md").read_text(encoding="utf-8")
    loaded = load_method(out)
    assert loaded.task.metric == "macro_f1"
    assert next(iter(evaluate(loaded, task.load(mails)))) == "macro_f1"
