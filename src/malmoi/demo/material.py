"""What the demo reads: the sample world or the user's own text, and how its models are to read it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from malmoi.core.config import as_setting
from malmoi.core.errors import UserError
from malmoi.data.readers import Errors, open_corpus
from malmoi.learn.run_config import RunConfig, load_run
from malmoi.show.comparison_report import REPORT
from malmoi.tasks import write_samples
from malmoi.text.tokenizer import Tokenizer
from malmoi.util import files
from malmoi.world import documents, story

MADE = (  # in the folder of a demo
    "world", "tokenizer", "ngram", "lstm", "gpt", "chat", "examples", "tasks", REPORT,
)  # fmt: skip
LEAST_CHARACTERS = 4000  # of the user's own text
SAMPLE_DOCUMENTS = 1500  # enough to learn a vocabulary of the sample world
WORLD_LICENCE = "SPDX-License-Identifier: Apache-2.0\n"  # of the sample world, for the cards of its models
PROMPTS = ("On Monday,", "토요일에")
BATCH, CONTEXT = 8, 256
RECIPES = {
    "LSTM": ("lstm-micro", ("model.layers=1", "model.width=256", "train.optimizer=muon", "train.lr=0.01")),
    "GPT": (
        "gpt-micro",
        ("model.width=128", "model.heads=4", "model.tied=true", "train.lr=0.008", "train.decay_fraction=0.5"),
    ),
}
SETTINGS = (
    f"train.batch={BATCH}", f"train.context={CONTEXT}", "train.warmup_steps=20",
    "train.eval_tokens=16384",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class DemoText:
    """What the demo works on: the sample world, or the user's text."""

    data: Path  # what is trained on
    sample: Sequence[str]  # to learn vocabularies from
    stories: dict[str, str]  # name -> the text to colour
    prompts: Sequence[str]
    unseen: str  # a text of the validation part
    settings: tuple[str, ...]  # of every run: its tokenizer, and how `data` is to be read


def claim(out: Path) -> None:
    """Take `out`: a new folder, or the one of an earlier demo, which is emptied."""
    if not files.is_free(out):
        if not (out / files.DEMO_MARK).exists():
            raise UserError(f"{out} exists and is not a demo's folder; choose another `out`")
        for name in MADE:
            shutil.rmtree(out / name) if (out / name).is_dir() else (out / name).unlink(missing_ok=True)
    files.write_json(out / files.DEMO_MARK, {"made_by": "malmoi demo"})


def sample_world(out: Path) -> DemoText:
    """The sample world, which `write_world` writes to out/world."""
    sample = [document.with_views() for document in documents(SAMPLE_DOCUMENTS)]
    stories = {"A story of the town": story("en"), "The same story in Korean": story("ko")}
    tests = documents(20, split="test", language="en")
    unseen = next(text for found in tests if (text := found.with_views()).startswith(found.text))
    return DemoText(out / "world", sample, stories, PROMPTS, unseen, (_tokenizer_in(out),))


def write_world(material: DemoText, tokenizer: Tokenizer, num_tokens: int) -> None:
    """As much of the world as `num_tokens` tokens, so that every model reads every document once."""
    per_document = np.mean([len(ids) + 1 for ids in tokenizer.encode_batch(material.sample)])
    count = max(SAMPLE_DOCUMENTS, int(num_tokens / per_document))
    write_samples(material.data / "train.jsonl", "completion", documents(count))
    write_samples(material.data / "valid.jsonl", "completion", documents(400, split="valid"))
    files.write_text(material.data / "LICENSE", WORLD_LICENCE)


def users_text(data: Path, out: Path, field: str, errors: Errors) -> DemoText:
    """The user's own text. Raises UserError where there is too little of it, or it is inside `out`."""
    if data.resolve().is_relative_to(out.resolve()):
        raise UserError(f"{data} is inside {out}, which the demo would empty; choose another `out`")
    corpus = open_corpus(data, field=field, errors=errors)
    sample = list(_up_to(corpus.train(), 4_000_000))
    held_out = "\n".join(_up_to(corpus.valid(), 20_000)).strip()
    if sum(map(len, sample)) < LEAST_CHARACTERS or len(held_out) < LEAST_CHARACTERS // 20:
        raise UserError(
            f"{data} holds too little text for a demo; give at least {LEAST_CHARACTERS} characters"
        )
    middle = held_out.find(" ", len(held_out) // 2) + 1
    prompts = [_first_words(held_out), _first_words(held_out[middle:])]
    settings = (_tokenizer_in(out), as_setting("data.field", field), as_setting("data.errors", errors))
    return DemoText(data, sample, {"From your text": held_out[:800]}, prompts, held_out[:1500], settings)


def _tokenizer_in(out: Path) -> str:
    return as_setting("tokenizer.path", str(out / "tokenizer"))


def _first_words(text: str) -> str:
    """Three words, or as much of them as a prompt may be long in any language."""
    return " ".join(text.split()[:3])[:40]


def _up_to(texts: Iterable[str], num_characters: int) -> Iterator[str]:
    """The first texts, the last one cut, of `num_characters` characters in all."""
    for text in texts:
        yield text[:num_characters]
        num_characters -= len(text)
        if num_characters <= 0:
            return


def run_config(name: str, steps: int, material: DemoText) -> RunConfig:
    """The run of the LSTM or the GPT."""
    recipe, settings = RECIPES[name]
    lengths = (f"train.steps={steps}", f"train.eval_every={steps // 10}", f"train.checkpoint_every={steps}")
    return load_run(recipe, [*SETTINGS, *settings, *lengths, *material.settings])


def ngram_config(material: DemoText) -> RunConfig:
    """The n-gram model's run."""
    return load_run("ngram", material.settings)
