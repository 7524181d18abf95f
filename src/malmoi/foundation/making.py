"""How the models that come with malmoi are made: by malmoi's own commands, one after the other.

Each stage that is finished stays, and training goes on where it was stopped.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from malmoi.cli.commands import app
from malmoi.core.nouns import Say
from malmoi.foundation.publish import publish
from malmoi.foundation.reading import Amounts, vocabulary, write_talks, write_text_to_complete
from malmoi.hub.shipped import BASE, CHAT, FOLDER
from malmoi.learn.mixture import sources

# On half of the rows. The rate falls to nothing, from half of what suits the first reading.
TUNING = ("train.steps=600", "train.batch=4", "train.context=1024", "train.lr=0.002")


def build(
    out: Path, shipped: Path = FOLDER, amounts: Amounts = Amounts(), *, pretraining: Sequence[str] = (),
    tuning: Sequence[str] = TUNING, say: Say = print,
) -> None:  # fmt: skip
    """Make the foundation model and the tuned one in `out`, and of them what ships.

    pretraining, tuning: settings `train.a=b` of the two runs. Takes hours; a stopped one goes on.
    """
    text, tokenizer, talks = out / "text", out / "tokenizer", out / "talks"
    if not (text / "LICENSE").exists():
        say(f"writing {text}")
        write_text_to_complete(text, amounts)
    if not tokenizer.exists():
        vocabulary(amounts).save(tokenizer)
    if not (talks / "LICENSE").exists():
        say(f"writing {talks}")
        write_talks(talks, amounts)
    base = ["pretrain", "noru", "--data", str(text), "--out", str(out / BASE)]
    base += _settings([f"tokenizer.path={tokenizer}", *pretraining])
    chat = ["finetune", str(out / BASE), "--out", str(out / CHAT), *_settings(tuning)]
    chat.append("--allow-skips")  # of pages whose names, as a list, are longer than the context
    chat += [word for source in sources(talks, "train") for word in ("--data", source)]
    chat += [word for source in sources(talks, "valid") for word in ("--valid", source)]
    for name, words in ((BASE, base), (CHAT, chat)):
        command = f"malmoi {shlex.join(words)}"
        say(f"$ {command} --resume")
        if code := app([*words, "--resume"], standalone_mode=False):
            raise SystemExit(code)
        publish(out / name, shipped / name, command, amounts.judged)


def _settings(found: Sequence[str]) -> list[str]:
    return [word for setting in found for word in ("--set", setting)]
