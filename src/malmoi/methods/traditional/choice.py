"""Choosing constants by the held-out examples, and what the traditional methods share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from malmoi.core import Example
from malmoi.tasks.base import Task

Examples = Sequence[Example[Any, Any]]


def quality(task: Task[Any, Any], predictions: Sequence[Any], examples: Examples) -> float:
    """The task's primary metric; higher is better."""
    statistic = task.statistics(predictions, examples)[task.primary]
    return statistic.value if statistic.higher_is_better else -statistic.value
