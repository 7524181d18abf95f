"""`malmoi bench scaling`: three old arguments about sequence models, measured on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from malmoi.core.errors import UserError
from malmoi.core.nouns import Say
from malmoi.hub.folder import load_model
from malmoi.inside import beyond, recall, scaling
from malmoi.models.build import build_model
from malmoi.models.config import RecurrentConfig, TransformerConfig
from malmoi.models.language import LanguageModel
from malmoi.text.tokenizer import Tokenizer
from malmoi.util.files import is_free, write_json
from malmoi.util.hardware import cpu_name
from malmoi.world import documents

RESULTS = "scaling.json"
SMALL = ("RNN", "LSTM", "GPT")  # what is made here
MOST_DOCUMENTS = 20_000  # far more than the rows of a long context take


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured. recall_steps, read_steps: of training for each model; context: of the readers."""

    lengths: tuple[int, ...] = tuple(128 << i for i in range(7))
    recall: recall.RecallTask = field(default_factory=recall.RecallTask)
    recall_steps: int = 800
    read_steps: int = 400
    context: int = 128
    documents: int = 400


QUICK = Size(tuple(128 << i for i in range(5)), recall_steps=500, read_steps=150, documents=150)


@dataclass(frozen=True, slots=True)
class Costs:
    """Time and memory of each model. crossing: from where on the LSTM trains faster than the GPT."""

    found: dict[str, scaling.Measured]
    crossing: scaling.Crossing | None
    sentences: list[str]


@dataclass(frozen=True, slots=True)
class Curves:
    """A value for each model between two `edges` each (distances or positions, in tokens)."""

    edges: list[int]
    curves: dict[str, list[float]]
    sentences: list[str]


@dataclass(frozen=True, slots=True)
class Scaling:
    """What was found. context: of the models that read beyond it."""

    costs: Costs
    recall: Curves
    beyond: Curves
    context: int

    @property
    def sentences(self) -> list[str]:
        """All of it in words."""
        return [*self.costs.sentences, *self.recall.sentences, *self.beyond.sentences]


def run_scaling(folders: Sequence[Path], out: Path, *, size: Size = Size(), say: Say) -> Scaling:
    """Measure, and write scaling.json into `out`.

    folders: language models to measure beside the small ones that are made here, by their names. Raises
    UserError for one that is no network, two of one name, and for a folder `out` that holds something else.
    """
    if not is_free(out) and not (out / RESULTS).exists():
        raise UserError(f"{out} exists and is not a benchmark's folder; choose another `out`")
    names = [folder.resolve().name for folder in folders]
    for name in names:
        if [*SMALL, *names].count(name) > 1:
            raise UserError(f"{name} would name two models in the plots; rename or copy the folder")
    given = {name: _opened(folder) for name, folder in zip(names, folders, strict=True)}
    context = min((model.context for model, _ in given.values() if model.context), default=size.context)
    found = Scaling(
        time_and_memory({name: model for name, (model, _) in given.items()}, size, say),
        recall_by_distance(size, say),
        beyond_the_context(given, size, context, say),
        context,
    )
    machine = {"processor": cpu_name(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    recalled, read = found.recall, found.beyond
    numbers = {
        "scaling": {name: asdict(one) for name, one in found.costs.found.items()},
        "recall": {"edges": recalled.edges, "right": recalled.curves},
        "beyond": {"edges": read.edges, "bits_per_byte": read.curves},
    }
    write_json(out / RESULTS, {"machine": machine, **numbers, "sentences": found.sentences})
    return found


def _opened(folder: Path) -> tuple[LanguageModel, Tokenizer]:
    model, tokenizer = load_model(folder)
    if not isinstance(model, LanguageModel):
        raise UserError(f"{folder} is an n-gram model, which has no steps to time; give a GPT or an LSTM")
    if tokenizer is None:
        raise UserError(
            f"{folder} has no tokenizer.json, so it cannot read a text; give a whole model folder"
        )
    return model, tokenizer


def time_and_memory(given: Mapping[str, LanguageModel], size: Size, say: Say) -> Costs:
    """Training and writing against length, of the small models and those given."""
    models = {**scaling.small_models(), **given}
    found = {name: scaling.measure(name, model, size.lengths, say) for name, model in models.items()}
    gpt, lstm = found["GPT"], found["LSTM"]
    crossed = scaling.crossing(gpt.lengths, gpt.train_seconds, lstm.train_seconds)
    return Costs(found, crossed, scaling.sentences(found))


def recall_by_distance(size: Size, say: Say) -> Curves:
    """How many facts an RNN, an LSTM and a GPT look up, by how far back they were stated."""
    task, vocab_size = size.recall, recall.VOCABULARY
    shapes = {
        "RNN": (RecurrentConfig(family="rnn", vocab_size=vocab_size, layers=1, width=128), 1e-3),
        "LSTM": (RecurrentConfig(family="lstm", vocab_size=vocab_size, layers=1, width=128), 5e-3),
        "GPT": (
            TransformerConfig(vocab_size=vocab_size, context=task.length, layers=2, width=64, heads=2), 3e-3,
        ),
    }  # fmt: skip
    edges = [edge for edge in (2, 4, 8, 16, 32, 64) if edge < task.length] + [task.length]
    curves = {}
    for name, (config, lr) in shapes.items():
        torch.manual_seed(0)
        model = build_model(config)
        recall.train_recall(
            model, task, size.recall_steps, lr=lr, say=lambda line, n=name: say(f"{n} recalls: {line}")
        )
        curves[name] = recall.recall_at(model, task, edges)
    lines = [
        f"Recall, {name}: {shares[0]:.0%} of the facts told {edges[0]} to {edges[1] - 1} tokens ago, "
        f"{shares[-1]:.0%} of those told {edges[-2]} and more."
        for name, shares in curves.items()
    ]
    return Curves(edges, curves, lines)


def beyond_the_context(
    given: Mapping[str, tuple[LanguageModel, Tokenizer]], size: Size, context: int, say: Say
) -> Curves:
    """Bits per byte within and beyond the context, of the models given or, of none, of two trained here."""
    models = dict(given)
    if not models:
        train = [document.text for document in documents(size.documents)]
        trained, tokenizer = beyond.trained_readers(train, context=context, steps=size.read_steps, say=say)
        models = {name: (model, tokenizer) for name, model in trained.items()}
    edges, curves, lines = beyond.edges_of(context), {}, []
    for name, (model, tokenizer) in models.items():
        unseen = (document.text for document in documents(MOST_DOCUMENTS, split="valid"))
        rows_BT = beyond.long_rows(unseen, tokenizer, edges[-1])
        try:
            curves[name] = beyond.bits_by_position(model, rows_BT, beyond.bytes_of(tokenizer), edges)
        except UserError as error:
            lines.append(f"Beyond the context, {name}: {error}.")
            continue
        lines.append(_beyond(name, edges, curves[name], context))
    return Curves(edges, curves, lines)


def _beyond(name: str, edges: Sequence[int], bits: Sequence[float], context: int) -> str:
    inside = [value for value, end in zip(bits, edges[1:], strict=True) if context / 2 < end <= context]
    return (
        f"Beyond the context, {name}: {sum(inside) / len(inside):.2f} bits per byte up to position "
        f"{context}, {bits[-1]:.2f} at {edges[-1]}."
    )
