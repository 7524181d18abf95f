"""What can be learned, each in one file: an `Objective`, and the `Training` that makes a run of it."""

from __future__ import annotations

from typing import Any

from malmoi.learn.job import Training
from malmoi.learn.objectives.conversations import Tuning
from malmoi.learn.objectives.next_token import Pretraining
from malmoi.learn.objectives.preferences import Alignment

# verb -> the run that it makes. Methods learn `malmoi.learn.objectives.examples:Examples`.
TRAININGS: dict[str, type[Training[Any]]] = {"pretrain": Pretraining, "finetune": Tuning, "align": Alignment}
