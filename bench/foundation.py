"""The foundation model's training beside GPT-2 of `transformers` in a plain loop, for the same time.

    python bench/foundation.py runs/foundation [--minutes 15] [--out bench-out/foundation]

runs/foundation is what `make foundation` makes; its text and tokenizer are read. Both models have 7 layers
of 320 and compute in bf16 where malmoi does. Theirs sees shuffled windows, with AdamW, a warm-up and a
cosine, as the usual scripts have it. Then both complete what training never saw: bits per byte of documents,
and questions asked as the text asks them, exact, in all and by names that are new.
"""

from __future__ import annotations

import argparse
import math
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from rich.console import Console
from rich.table import Table

from malmoi.data.shards import TokenFile
from malmoi.engine import Engine, Sampling
from malmoi.engine.loaded import open_model
from malmoi.engine.score import bits_per_byte
from malmoi.learn.job import prepare
from malmoi.learn.objectives.next_token import Pretraining
from malmoi.learn.run_config import load_run
from malmoi.util.hardware import cpu_name, has_fast_bf16, keep_heap
from malmoi.world import documents

ROWS, CONTEXT, WARMUP, LR = 4, 1024, 100, 1e-3
QUESTIONS = {"en": ("Question:", "Answer:"), "ko": ("질문:", "대답:")}
NUM_DOCUMENTS, SEED = 150, 5


def train_ours(runs: Path, out: Path, seconds: float) -> int:
    """Tokens read."""
    settings = [f"tokenizer.path={runs / 'tokenizer'}", f"budget_seconds={seconds}"]
    run = prepare(Pretraining, load_run("noru", settings), out, data=runs / "text", resume=False, say=print)
    assert run is not None
    run.run(lambda _: None)
    return run.loop.step * ROWS * CONTEXT


def train_theirs(tokens: Path, tokenizer: Path, out: Path, seconds: float) -> int:
    """Tokens read. The rate falls with the share of the time that is over."""
    ids = TokenFile.open(tokens).ids
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=4096, n_positions=CONTEXT, n_embd=320, n_layer=7, n_head=5, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=2, eos_token_id=2,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.95), weight_decay=0.1)
    rng, start_s, step = np.random.default_rng(0), time.perf_counter(), 0
    while (share := (time.perf_counter() - start_s) / seconds) < 1:
        rate = min(1.0, (step + 1) / WARMUP) * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * share)))
        optimizer.param_groups[0]["lr"] = LR * rate
        starts = rng.integers(0, len(ids) - CONTEXT, ROWS)
        batch = torch.from_numpy(np.stack([ids[at : at + CONTEXT] for at in starts]).astype(np.int64))
        with torch.autocast("cpu", torch.bfloat16) if has_fast_bf16(torch.device("cpu")) else nullcontext():
            loss = model(batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
    model.save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (out / name).write_bytes((tokenizer / name).read_bytes())
    return step * ROWS * CONTEXT


def judged(folder: Path) -> dict[str, str]:
    """What a model knows, in words."""
    engine = Engine.for_many(*open_model(folder))
    texts = [one.with_views() for one in documents(NUM_DOCUMENTS, split="test", seed=SEED, pages=0.2)]
    found = {"bits per byte": f"{bits_per_byte(engine, texts):.4f}"}
    for language, (question, answer) in QUESTIONS.items():
        asked: list[tuple[str, str, bool]] = []
        for one in documents(NUM_DOCUMENTS, split="test", language=language, seed=SEED):
            names = {one.facts[slot] for slot in one.unseen}
            for item in one.questions[:1]:
                prompt = f"{one.text}\n\n{question} {item.input}\n{answer}"
                asked.append((prompt, item.target.text, item.target.text in names))
        sampling = Sampling(temperature=0, max_tokens=24, stop=("\n",))
        replies = engine.generate([prompt for prompt, _, _ in asked], sampling)
        right = [
            reply.text.strip(" .").lower() == gold.lower()
            for reply, (_, gold, _) in zip(replies, asked, strict=True)
        ]
        new = [it for it, (_, _, unseen) in zip(right, asked, strict=True) if unseen]
        found[f"questions, {language}"] = f"{sum(right)} of {len(right)}; new names {sum(new)} of {len(new)}"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--out", type=Path, default=Path("bench-out/foundation"))
    given = parser.parse_args()
    keep_heap()
    seconds, out = 60 * given.minutes, given.out
    read: dict[str, Any] = {"malmoi": train_ours(given.runs, out / "malmoi", seconds)}
    theirs = out / "transformers"
    read["transformers"] = train_theirs(
        out / "malmoi/tokens/train", given.runs / "tokenizer", theirs, seconds
    )
    columns = {name: {"tokens read": f"{count:,}"} | judged(out / name) for name, count in read.items()}
    table = Table("", *columns)
    for name in columns["malmoi"]:
        table.add_row(name, *(column[name] for column in columns.values()))
    console = Console(width=140)
    console.print(table)
    console.print(f"{cpu_name()}, {torch.get_num_threads()} threads, {given.minutes:g} minutes each")


if __name__ == "__main__":
    main()
