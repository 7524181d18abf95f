"""The labelled data that the benchmarks of tasks read: ../shared/data, by the names that people give."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from malmoi.core.nouns import Example
from malmoi.data.splits import Splits, split_examples
from malmoi.tasks.base import Task

DATA = Path(__file__).parents[2] / "shared" / "data"


@dataclass(frozen=True)
class DataSet:
    """Folders of DATA, read as one: train.* and, where there is one, valid.*."""

    task: str
    folders: tuple[str, ...]
    fields: dict[str, str] = field(default_factory=dict)

    def read(self, task: Task[Any, Any], part: str) -> list[Example[Any, Any]]:
        files = [file for folder in self.folders for file in (DATA / folder).glob(f"{part}.*")]
        return [example for file in files for example in task.load(file)]


EN_KO, KO_EN = {"source": "en", "target": "ko"}, {"source": "ko", "target": "en"}
DOCS_AND_TALK = ("translation/tatoeba-enko", "translation/python-docs-enko")
SETS = {
    "nsmc": DataSet("classification", ("classification/nsmc",)),
    "goemotions": DataSet("classification", ("classification/goemotions",)),
    "clinc150": DataSet("classification", ("classification/clinc150",)),
    "wnut17": DataSet("ner", ("ner/wnut17",)),
    "btc": DataSet("ner", ("ner/btc",)),
    "python-docs-enko": DataSet("translation", ("translation/python-docs-enko",), EN_KO),
    "tatoeba-enko": DataSet("translation", ("translation/tatoeba-enko",), EN_KO),
    "tldr-enko": DataSet("translation", ("translation/tldr-enko",), EN_KO),
    "msdocs-enko": DataSet("translation", ("translation/msdocs-enko",), EN_KO),
    "translation-en-ko": DataSet("translation", DOCS_AND_TALK, EN_KO),
    "translation-ko-en": DataSet("translation", DOCS_AND_TALK, KO_EN),
    "gutenberg-en": DataSet("completion", ("completion/gutenberg-en",)),
    "mixed-ko": DataSet("completion", ("completion/mixed-ko",)),
    "scitldr": DataSet("summarization", ("summarization/scitldr",)),
    "squad": DataSet("question-answering", ("qa/squad",)),
    "songys-ko": DataSet("chat", ("chat/songys-ko",)),
    "self-dialogue-en": DataSet("chat", ("chat/self-dialogue-en",)),
}


def read(data: DataSet, task: Task[Any, Any], limit: int) -> Splits:
    """Without a validation file a part of the training file is for the report."""
    labels = task.kind.labels if task.kind.is_choice else None
    parts = data.read(task, "train"), data.read(task, "valid") or None
    splits = split_examples(*parts, key=task.key, group=task.group_of, labels=labels)
    return dataclasses.replace(splits, test=splits.test[: limit or None])
