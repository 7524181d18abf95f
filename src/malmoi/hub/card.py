"""The model card: README.md with the metadata that hubs read, and what a person should know before use.

Mitchell et al. 2019, "Model Cards for Model Reporting". One renderer for every model that malmoi makes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from malmoi.core.nouns import Metric
from malmoi.util import files
from malmoi.util.hardware import cpu_name
from malmoi.util.units import counted, human_seconds, measured
from malmoi.util.version import VERSION

UNKNOWN = "unknown"
UNICODE_BREAKS = frozenset("\x85\u2028\u2029")
# What licences say of themselves, the narrower first; the names are those of the hub.
_LICENCES = {
    "apache-2.0": r"Apache License,?\s+Version 2\.0",
    "mit": r"MIT License|Permission is hereby granted, free of charge",
    "cc0-1.0": r"CC0[- ]1\.0",
    "cc-by-nc-sa-4.0": r"Attribution-NonCommercial-ShareAlike 4\.0|CC[- ]BY-NC-SA[- ]4\.0",
    "cc-by-nc-4.0": r"Attribution-NonCommercial 4\.0|CC[- ]BY-NC[- ]4\.0",
    "cc-by-sa-4.0": r"Attribution-ShareAlike 4\.0|CC[- ]BY-SA[- ]4\.0",
    "cc-by-sa-3.0": r"Attribution-ShareAlike 3\.0|CC[- ]BY-SA[- ]3\.0",
    "cc-by-4.0": r"Attribution 4\.0|CC[- ]BY[- ]4\.0",
    "lgpl-3.0": r"GNU LESSER GENERAL PUBLIC LICENSE\s+Version 3",
    "gpl-3.0": r"GNU GENERAL PUBLIC LICENSE\s+Version 3",
    "bsd-3-clause": r"BSD 3-Clause|Neither the name of",
}
_FILE = re.compile(r"(?i)(licen[sc]e|copying)([.-].*)?")
_PART = re.compile(r"(?i)(train|valid|val|dev|test)(ing|ation)?")
_ENGLISH = frozenset(
    ("the", "of", "and", "to", "in", "is", "was", "that", "for", "it", "with", "as", "on", "at")
)
SAMPLE_CHARACTERS = 20_000  # enough text to see its languages


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file that a model learned from or was judged by, and the data set that it is of."""

    name: str
    sha256: str
    licence: str = UNKNOWN
    dataset: str = ""


@dataclass(frozen=True, slots=True)
class Card:
    """What a model card says. Only what is known is shown.

    kind: the hub's word for what the model does, such as text-generation. settings: name -> value. results:
    measured on what `measured_on` says. seconds: of training, None where it was not measured; cpu_s: of the
    processor's cores in them. use: lines of code. base: the model that it began with.
    """

    title: str
    summary: str
    kind: str
    languages: tuple[str, ...] = ()
    base: str = ""
    tags: tuple[str, ...] = ()
    data: tuple[DataFile, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[str, Metric] = field(default_factory=dict)
    measured_on: str = ""
    notes: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    seconds: float | None = None
    cpu_s: float | None = None
    machine: str = ""
    use: tuple[str, ...] = ()

    @property
    def licence(self) -> str:
        """Of the data, where all of them agree; the model's owner may have to say more."""
        found = {one.licence for one in self.data} or {UNKNOWN}
        if len(found) == 1:
            return found.pop()
        return UNKNOWN if UNKNOWN in found else "other"

    def render(self) -> str:
        """README.md: metadata between two lines of ---, then Markdown."""
        facts = self._metadata()
        metadata = yaml.safe_dump(facts, allow_unicode=True, sort_keys=False)
        if not UNICODE_BREAKS.isdisjoint(metadata):  # YAML would read them as ends of lines
            metadata = yaml.safe_dump(facts, sort_keys=False)
        parts = [f"---\n{metadata}---\n", f"# {self.title}", self.summary]
        for title, lines in self._sections():
            if lines:
                parts += [f"## {title}", "\n".join(lines)]
        return "\n\n".join(parts).replace("---\n\n\n", "---\n\n") + "\n"

    def _metadata(self) -> dict[str, Any]:
        found = {
            "license": self.licence,
            "language": list(self.languages),
            "library_name": "malmoi",
            "pipeline_tag": self.kind,
            "base_model": self.base,
            "tags": ["malmoi", *self.tags],
            "datasets": list(dict.fromkeys(one.dataset for one in self.data if one.dataset)),
            "metrics": list(self.results),
        }
        return {name: value for name, value in found.items() if value}

    def _sections(self) -> Iterable[tuple[str, list[str]]]:
        yield "Use", ["```python", *self.use, "```"] if self.use else []
        yield "Results", [*self._results(), *(f"- {note}" for note in self.notes)]
        yield "Limits", [f"- {limit}" for limit in self.limits]
        yield (
            "Data",
            table(("file", "SHA-256", "licence"), ((it.name, it.sha256, it.licence) for it in self.data)),
        )
        yield "Training settings", table(("setting", "value"), self.settings.items())
        yield "Cost", self._cost()

    def _results(self) -> list[str]:
        rows = (
            (name, measured(metric.value), interval(metric), metric_note(metric))
            for name, metric in self.results.items()
        )
        head = ("metric", "value", "95% interval", "")
        on = [f"On {self.measured_on}:", ""] if self.measured_on and self.results else []
        lines = table(head, rows)
        return [*on, *lines, *([""] if lines and self.notes else [])]

    def _cost(self) -> list[str]:
        took = UNKNOWN if self.seconds is None else human_seconds(self.seconds)
        took += "" if self.cpu_s is None else f", of all cores together {human_seconds(self.cpu_s)}"
        return [
            f"- training time: {took}",
            f"- machine: {self.machine or UNKNOWN}",
            "- energy: not measured",
            f"- made by malmoi {VERSION}",
        ]


def interval(metric: Metric) -> str:
    """A metric's 95% interval, in words."""
    return "not measured" if metric.interval is None else " to ".join(map(measured, metric.interval))


def metric_note(metric: Metric) -> str:
    """Which way is better, where that is not up, and the signature; or ''."""
    better = "" if metric.higher_is_better else "lower is better"
    return "; ".join(part for part in (better, metric.signature) if part)


def table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> list[str]:
    """The lines of a Markdown table; none where there are no rows."""
    found = [f"| {' | '.join(map(_cell, row))} |" for row in rows]
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *found] if found else []


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


# ---- what is known of data


def data_files(found: Mapping[str, Path], licence: str | None = None) -> tuple[DataFile, ...]:
    """Each file with its hash, and its licence: the given one, or what a LICENSE beside it says."""
    return tuple(
        DataFile(name, files.sha256(path), licence or licence_beside(path), _dataset(path))
        for name, path in found.items()
    )


def _dataset(path: Path) -> str:
    """What to call the data set of a file: its folder, or the one above where that is a part's.

    Those of the hub lie in folders named owner--name (see `malmoi.data.arrow`).
    """
    folder = path.absolute().parent
    folder = folder.parent if _PART.fullmatch(folder.name) else folder
    return folder.name.replace("--", "/", 1)


def licence_beside(path: Path) -> str:
    """The licence that a LICENSE or COPYING in a file's folder says; "other" for one that is not known here.

    Without such a file there, the folder above is asked, for a data set's parts have folders of their own.
    What may not be read (a home's folder above) says nothing: a model that is fitted shall not be lost by it.
    """
    for folder in (path.absolute().parent, path.absolute().parent.parent):
        with suppress(OSError):
            for file in sorted(folder.iterdir()):
                if file.is_file() and _FILE.fullmatch(file.name):
                    return _named(file.read_text(encoding="utf-8", errors="replace"))
    return UNKNOWN


def _named(text: str) -> str:
    if spdx := re.search(r"SPDX-License-Identifier:\s*([\w.+-]+)", text):
        return spdx[1].lower()
    for name, pattern in _LICENCES.items():
        if re.search(pattern, text, re.IGNORECASE):
            return name
    return "other"


def languages_of(texts: Iterable[str]) -> tuple[str, ...]:
    """ "ko" and "en", as far as the texts hold them: Hangul, and the commonest English words."""
    text = ""
    for one in texts:
        text += one[:SAMPLE_CHARACTERS] + "\n"
        if len(text) >= SAMPLE_CHARACTERS:
            break
    words = re.findall(r"[a-z]+|[가-힣]+", text.lower())
    korean = sum(word[0] >= "가" for word in words)
    english = sum(word in _ENGLISH for word in words)
    latin = len(words) - korean
    return tuple(
        name for name, holds in (("en", english > 0.05 * latin and latin > 0.02 * len(words)),
                                 ("ko", korean > 0.02 * len(words))) if holds
    )  # fmt: skip


def load_call(folder: Path) -> str:
    """The Python expression that opens the model of that folder, from where the folder stands."""
    return f"malmoi.load({json.dumps(folder.name, ensure_ascii=False)})"


def this_machine() -> str:
    """The processor, its threads, and the GPU where there is one."""
    import torch

    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{cpu_name()}, {counted(torch.get_num_threads(), 'thread')}{gpu}"
