"""Tiny untrained language models in folders, and examples of the sample world."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch

from malmoi.core.nouns import Budget, Example, Examples, Work
from malmoi.hub.folder import save_model
from malmoi.methods.base import Method
from malmoi.models.build import build_model
from malmoi.models.config import RecurrentConfig, TransformerConfig
from malmoi.tasks import make_task, write_samples
from malmoi.tasks.base import Task
from malmoi.text.chat import ChatFormat
from malmoi.text.tokenizer import Tokenizer, train_tokenizer
from malmoi.world import documents


@cache
def tokenizer_of(kind: str) -> str:
    """tokenizer.json, of the sample world's texts."""
    return train_tokenizer((it.text for it in documents(200)), kind, 263 if kind == "byte" else 700).to_json()


def write_model(
    folder: Path, *, chat: bool = False, kind: str = "bpe", context: int = 512, seed: int = 0,
    family: Literal["transformer", "lstm"] = "transformer", width: int = 32,
) -> Path:  # fmt: skip
    """An untrained model; chat: with our chat template."""
    tokenizer = Tokenizer.from_json(tokenizer_of(kind))
    if chat:
        ChatFormat.for_tuning(tokenizer).adopt()
    torch.manual_seed(seed)
    size = tokenizer.vocab_size
    config = (
        TransformerConfig(vocab_size=size, context=context, layers=1, width=width, heads=2, tied=True)
        if family == "transformer" else RecurrentConfig(family=family, vocab_size=size, layers=1, width=width)
    )  # fmt: skip
    save_model(folder, build_model(config), tokenizer)
    return folder


@cache
def world(task: str, count: int = 70) -> tuple[Task[Any, Any], list[Example[Any, Any]]]:
    """A task and examples of it, half of them Korean."""
    made = make_task(task)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "world.jsonl"
        write_samples(path, task, documents(6 * count), count)
        return made, made.load(path)[:count]


def fitted_to(method: Method, train: Examples, valid: Examples, budget: Budget = Budget()) -> Any:
    """The method, fitted, with what its fit found as `report`."""
    method.report = method.fit(train, valid, Work(budget)).facts  # type: ignore[attr-defined]
    return method
