"""What ships of a finished run: its weights in bf16, its tokenizer, and its card, which says all about it."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from malmoi.core.nouns import Json
from malmoi.foundation.quality import Scored, quality_of_base, quality_of_chat
from malmoi.hub.card import interval, metric_note, table
from malmoi.hub.folder import load_model, save_model
from malmoi.hub.shipped import TRAINING
from malmoi.learn.record import METRICS
from malmoi.models.language import LanguageModel
from malmoi.show.charts import loss_curves
from malmoi.text.chat import chat_template
from malmoi.text.tokenizer_files import named_ends
from malmoi.util import files
from malmoi.util.files import CARD
from malmoi.util.units import measured

CURVE = "curve.svg"


def publish(run: Path, out: Path, command: str, count: int = 200) -> None:
    """Make `out`, a folder to ship, of a finished run's. command: what made it.

    count: examples of each task, in each language, by which the model is judged.
    """
    model, tokenizer = load_model(run, dtype=torch.bfloat16)
    assert isinstance(model, LanguageModel)
    with files.new_folder(out) as folder:
        save_model(folder, model, tokenizer, ends=named_ends(run)[1:])
        chats = tokenizer is not None and chat_template(tokenizer) is not None
        found = (quality_of_chat if chats else quality_of_base)(folder, count)
        training = losses_of(run)
        files.write_json(folder / TRAINING, training | {"parameters": model.num_parameters()})
        curves = [(name, training["steps"], training[name]) for name in ("training", "validation")]
        files.write_text(folder / CURVE, loss_curves(curves, x_label="steps", y_label="loss (nats)"))
        card = (run / CARD).read_text(encoding="utf-8")
        files.write_text(folder / CARD, card_with(card, out.name, command, found, count))


def losses_of(run: Path) -> Json:
    """The tokens read, the seconds it took, and the losses by steps.

    Of the validation rows, and of the training batches between two looks at those.
    """
    spec = files.read_object(run / files.RUN_RECORD, "config")["config"]["train"]
    per_step = spec["batch"] * spec["context"]
    lines = [json.loads(line) for line in (run / METRICS).read_text(encoding="utf-8").splitlines()]
    found: Json = {
        "tokens": per_step * len(lines),
        "seconds": sum(per_step / line["tokens_per_s"] for line in lines),
        "steps": [], "training": [], "validation": [],
    }  # fmt: skip
    batches: list[float] = []
    for line in lines:
        batches.append(line["loss"])
        if line["valid_loss"] is not None:
            found["steps"].append(line["step"])
            found["validation"].append(line["valid_loss"])
            found["training"].append(sum(batches) / len(batches))
            batches = []
    return found


def card_with(card: str, name: str, command: str, found: Scored, count: int) -> str:
    """A run's card under the model's name, with what it can do and how it was made before its limits."""
    head, heading, rest = card.partition("\n# ")
    before, limits, after = rest.partition("\n## Limits")
    assert heading
    assert limits
    rows = ((key, measured(one.value), interval(one), metric_note(one)) for key, one in found.items())
    about = f'On {count} examples of each, whose facts (and "names") training never saw, asked plainly:'
    made = "It read text of malmoi's sample world only. `make foundation` makes it again, by this command:"
    shown = [
        "## What it can do", about, "\n".join(table(("", "value", "95% interval", ""), rows)),
        f"![loss]({CURVE})", "## How it was made", made, f"```sh\n{command}\n```",
    ]  # fmt: skip
    _, newline, body = before.partition("\n")  # its title
    return f"{head}{heading}{name}{newline}{body}\n" + "\n\n".join(shown) + f"\n{limits}{after}"
