"""What ships of a finished run: its weights in bf16, its tokenizer, and its card, which says all about it."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from malmoi.foundation.quality import Scored, quality_of_base, quality_of_chat
from malmoi.hub.card import interval, metric_note, table
from malmoi.hub.folder import load_model, save_model
from malmoi.learn.record import METRICS
from malmoi.show.charts import Curve, loss_curves
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
    with files.new_folder(out) as folder:
        save_model(folder, model, tokenizer, ends=named_ends(run)[1:])
        chats = tokenizer is not None and chat_template(tokenizer) is not None
        found = (quality_of_chat if chats else quality_of_base)(folder, count)
        files.write_text(folder / CURVE, loss_curves(curves_of(run), x_label="steps", y_label="loss (nats)"))
        card = (run / CARD).read_text(encoding="utf-8")
        files.write_text(folder / CARD, card_with(card, out.name, command, found, count))


def curves_of(run: Path) -> list[Curve]:
    """The loss by steps, of the validation rows, and of the training batches between two looks at those."""
    steps, train, valid = list[float](), list[float](), list[float]()
    batches: list[float] = []
    for line in (run / METRICS).read_text(encoding="utf-8").splitlines():
        found = json.loads(line)
        batches.append(found["loss"])
        if found["valid_loss"] is not None:
            steps.append(found["step"])
            valid.append(found["valid_loss"])
            train.append(sum(batches) / len(batches))
            batches = []
    return [("training", steps, train), ("validation", steps, valid)]


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
