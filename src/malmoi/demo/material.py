"""What the demo reads: the sample world or the user's own text, and how its models are to read it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from malmoi.core.config import as_setting
from malmoi.core.errors import UserError
from malmoi.data.opening import Errors
from malmoi.data.readers import open_corpus
from malmoi.demo.plan import DemoPlan
from malmoi.learn.run_config import RunConfig, load_run
from malmoi.show.comparison_report import REPORT
from malmoi.tasks import write_rows, write_samples
from malmoi.text.tokenizer import Tokenizer
from malmoi.util import files
from malmoi.world import LICENCE, documents, story
from malmoi.world.small_talk import small_talk

TABLE = "one_model.json"
MADE = (  # in the folder of a demo
    "world", "tokenizer", "ngram", "lstm", "gpt", "foundation", "chat", "examples", "tasks", REPORT, TABLE,
)  # fmt: skip
LEAST_CHARACTERS = 4000  # of the user's own text
SAMPLE_DOCUMENTS = 1500  # enough to learn a vocabulary of the sample world
VALID_DOCUMENTS = 60
DOCUMENTS, TEST_DOCUMENTS = 3000, 600  # of which a task takes as many rows as it needs
TALKS, HELD_OUT = 400, 24
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
    valid: Sequence[str]  # some texts of it
    reading: tuple[str, ...]  # settings of every run: how `data` is to be read
    tokenizer: Path  # of the small models


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
    valid = [document.with_views() for document in documents(VALID_DOCUMENTS, split="valid")]
    return DemoText(out / "world", sample, stories, PROMPTS, unseen, valid, (), out / "tokenizer")


def write_world(material: DemoText, num_tokens: int) -> None:
    """As much of the world as `num_tokens` tokens, so that every model reads every document once."""
    tokenizer = Tokenizer.load(material.tokenizer)
    per_document = np.mean([len(ids) + 1 for ids in tokenizer.encode_batch(material.sample)])
    count = max(SAMPLE_DOCUMENTS, int(num_tokens / per_document))
    write_samples(material.data / "train.jsonl", "completion", documents(count))
    write_samples(material.data / "valid.jsonl", "completion", documents(400, split="valid"))
    files.write_text(material.data / "LICENSE", LICENCE)


def write_examples(out: Path, plan: DemoPlan) -> None:
    """out/examples/TASK, rows in the formats of users' files, English and Korean by turns; and small talk.

    What is measured has combinations of facts, and names, that training never saw.
    """
    rows = out / "examples"
    held_out = small_talk(HELD_OUT, split="valid")
    write_rows(rows, "train", lambda _: documents(DOCUMENTS), lambda _: plan.rows, small_talk(TALKS))
    judged = (lambda _: documents(TEST_DOCUMENTS, split="valid")), (lambda _: plan.test_rows)
    write_rows(rows, "valid", *judged, held_out)
    files.write_text(rows / "LICENSE", LICENCE)


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
    reading = (as_setting("data.field", field), as_setting("data.errors", errors))
    stories = {"From your text": held_out[:800]}
    return DemoText(data, sample, stories, prompts, held_out[:1500], [held_out], reading, out / "tokenizer")


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


def run_config(name: str, steps: int, material: DemoText, most_s: float) -> RunConfig:
    """The run of the LSTM or the GPT; it has fewer steps where those would take more than `most_s`."""
    recipe, settings = RECIPES[name]
    lengths = (
        f"train.steps={steps}", f"train.eval_every={steps // 10}", f"train.checkpoint_every={steps}",
        f"budget_seconds={most_s}",
    )  # fmt: skip
    return load_run(recipe, [*SETTINGS, *settings, *lengths, *_text_settings(material)])


def ngram_config(material: DemoText) -> RunConfig:
    """The n-gram model's run."""
    return load_run("ngram", _text_settings(material))


def _text_settings(material: DemoText) -> list[str]:
    return [as_setting("tokenizer.path", str(material.tokenizer)), *material.reading]
