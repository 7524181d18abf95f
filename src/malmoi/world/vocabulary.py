"""The words of the town: people, places, companies, dates and things, by the name of their pool."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from typing import Any

import yaml

from malmoi.world.names import Pool, TermPool, read_pools, read_terms
from malmoi.world.patterns import Term

WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
WEEKDAYS_KO = ["월요일", "화요일", "수요일", "목요일", "금요일", "토요일", "일요일"]
MONTHS = [
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
    "November", "December",
]  # fmt: skip


def load_yaml(name: str) -> Any:
    """A YAML file of this folder; the C parser reads it ten times faster where it is built in."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    text = files(__package__ or "malmoi.world").joinpath(name).read_text(encoding="utf-8")
    return yaml.load(text, Loader=loader)


def _dates() -> Pool:
    days = [Term(en, ko, "DATE") for en, ko in zip(WEEKDAYS, WEEKDAYS_KO, strict=True)]
    months = [
        Term(f"{day} {month}", f"{number}월 {day}일", "DATE")
        for number, month in enumerate(MONTHS, 1)
        for day in range(1, 29)
    ]
    return Pool(days * 40 + months)  # weekdays a little less than half of the time


@lru_cache(maxsize=1)
def pools() -> dict[str, TermPool]:
    """Every pool of the town by name."""
    words: dict[str, str] = load_yaml("words.yaml")
    found = read_pools(load_yaml("names.yaml")) | {"date": _dates()}
    return found | {name: Pool(read_terms(block)) for name, block in words.items()}
