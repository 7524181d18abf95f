"""What can be learned, each in one file: an `Objective`, and the `Training` that makes a run of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from malmoi.util.tables import entry

if TYPE_CHECKING:
    from malmoi.learn.job import Training

# verb -> the run that it makes: a class, or where it is. A verb that has no options of its own takes its
# settings by `set`. Methods learn `malmoi.learn.objectives.examples:LabelledRows`.
TRAININGS: dict[str, str | type[Training[Any]]] = {
    "pretrain": "malmoi.learn.objectives.next_token:Pretraining",
    "finetune": "malmoi.learn.objectives.conversations:Tuning",
    "align": "malmoi.learn.objectives.preferences:Alignment",
}


def training_of(verb: str) -> type[Training[Any]]:
    """The run that a verb makes."""
    return entry(TRAININGS[verb])
