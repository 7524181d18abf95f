"""Choosing constants by the held-out examples, and what the traditional methods share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeVar

from malmoi.core import Example
from malmoi.tasks.base import Task

Examples = Sequence[Example[Any, Any]]
Setting = TypeVar("Setting", bound=NamedTuple)


def quality(task: Task[Any, Any], predictions: Sequence[Any], examples: Examples) -> float:
    """The task's primary metric; higher is better."""
    statistic = task.statistics(predictions, examples)[task.primary]
    return statistic.value if statistic.higher_is_better else -statistic.value


def best_setting(
    setting: Setting, fields: Mapping[str, Sequence[Any]], value: Callable[[Setting], float]
) -> Setting:
    """`setting` with one field after another at the best of its values by `value`, of equals the first."""
    known = cache(value)
    for name, values in fields.items():
        candidates = [setting._replace(**{name: it}) for it in values]
        setting = max(candidates, key=known) if len(values) > 1 else candidates[0]
    return setting
