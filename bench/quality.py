"""How good the recipes get, and in what time.

    python bench/quality.py shakespeare-char-cpu   nanoGPT's small recipe beside `transformers` GPT-2
    python bench/quality.py shakespeare-char       6x384: the best loss and the time to 1.47 (hours on a CPU)
    python bench/quality.py gutenberg              GPT, LSTM and n-gram bits per byte at equal training tokens

The text is ../shared/data/completion. Runs are kept under --out and resumed where they were cut off.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from malmoi.data.batches import batch, evaluation_batches
from malmoi.learn.cards import METRICS
from malmoi.learn.corpus import prepare_text
from malmoi.learn.counting import evaluate_ngrams
from malmoi.learn.job import Job, prepare
from malmoi.learn.loop import StepReport
from malmoi.learn.objectives.next_token import Pretraining
from malmoi.learn.run_config import load_run
from malmoi.models.ngram import KneserNey
from malmoi.util.hardware import cpu_name, keep_heap
from malmoi.util.units import human_seconds

DATA = Path(__file__).parents[2] / "shared" / "data" / "completion"
TARGET_LOSS = 1.47  # nanoGPT's for 6x384
console = Console()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    benches = {
        "shakespeare-char-cpu": small_shakespeare, "shakespeare-char": shakespeare, "gutenberg": gutenberg
    }  # fmt: skip
    parser.add_argument("bench", choices=benches)
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="a.b=c")
    options = parser.parse_args()
    console.print(f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    benches[options.bench](options.out / options.bench, options.settings)


def train(recipe: str, data: Path, out: Path, settings: list[str]) -> Job[Pretraining]:
    """A whole run, resumed if it was cut off, its evaluations printed. Returns it with the final weights."""
    run = prepare(Pretraining, load_run(recipe, settings), out, data=data, resume=True, say=console.print)
    if run is None:
        raise SystemExit(f"{out} is finished; remove it to measure again")
    start_s = time.perf_counter()

    def show(report: StepReport) -> None:
        if report.valid_loss is not None:
            spent = human_seconds(time.perf_counter() - start_s)
            console.print(f"step {report.step} {spent} valid {report.valid_loss:.4f}")

    run.run(show)
    return run


def small_shakespeare(out: Path, settings: list[str]) -> None:
    """2,000 iterations of the 0.8M model: loss on the whole validation text, and training time."""
    chosen = [
        "train.eval_every=1000000",
        "train.checkpoint_every=1000000",
        "train.eval_tokens=200000",
        *settings,
    ]
    data = DATA / "tinyshakespeare"
    start_s = time.perf_counter()
    run = train("shakespeare-char-cpu", data, out / "malmoi", chosen)
    ours_s = time.perf_counter() - start_s
    loss = run.loop.evaluate()["loss"]
    peer_loss, peer_s = plain_gpt2(run)
    table = Table("model", "validation loss", "seconds", "malmoi is faster by")
    table.add_row("malmoi", f"{loss:.4f}", f"{ours_s:.1f}", "1.00")
    table.add_row(
        "transformers GPT-2, plain loop", f"{peer_loss:.4f}", f"{peer_s:.1f}", f"{peer_s / ours_s:.2f}"
    )
    console.print(table)


def plain_gpt2(run: Job[Pretraining]) -> tuple[float, float]:
    """`GPT2LMHeadModel` of the same shape on the same batches with the same schedule: (loss, seconds)."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from malmoi.learn.optim import learning_rate_factor

    spec, text, context, shape = run.config.train, run.training.text, run.loop.context, run.config.model
    torch.manual_seed(spec.seed)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=run.tokenizer.vocab_size, n_positions=context, n_embd=shape["width"],
            n_layer=shape["layers"], n_head=shape["heads"], resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
        )
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), spec.lr, spec.betas, weight_decay=spec.weight_decay)

    def loss_of(ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(model(ids).logits.flatten(0, 1), targets.flatten())

    start_s = time.perf_counter()
    for step in range(spec.steps):
        part = batch(text.train, seed=spec.seed, step=step, rows=spec.batch, context=context)
        assert part.targets_BT is not None
        loss_of(part.ids_BT, part.targets_BT).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), spec.clip)
        factor = learning_rate_factor(
            step, steps=spec.steps, kind=spec.schedule, warmup_steps=spec.warmup_steps, floor=spec.floor,
            decay_fraction=spec.decay_fraction,
        )  # fmt: skip
        for group in optimizer.param_groups:
            group["lr"] = spec.lr * factor
        optimizer.step()
        optimizer.zero_grad()
    seconds = time.perf_counter() - start_s
    model.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for part in evaluation_batches(text.valid, context, 64, spec.eval_tokens):
            assert part.targets_BT is not None
            tokens = int((part.targets_BT >= 0).sum())
            total, count = total + loss_of(part.ids_BT, part.targets_BT).item() * tokens, count + tokens
    return total / count, seconds


def shakespeare(out: Path, settings: list[str]) -> None:
    """6x384: the best validation loss on the way, and when the target was reached."""
    train("shakespeare-char", DATA / "tinyshakespeare", out, ["train.eval_tokens=200000", *settings])
    rows = [json.loads(line) for line in (out / METRICS).read_text().splitlines()]
    spec = load_run("shakespeare-char", settings).train
    seconds, reached, best = 0.0, None, (float("inf"), 0)
    for row in rows:
        seconds += spec.batch * spec.context / row["tokens_per_s"]
        if row["valid_loss"] is not None:
            best = min(best, (row["valid_loss"], row["step"]))
            if reached is None and row["valid_loss"] <= TARGET_LOSS:
                reached = seconds
    console.print(
        f"best validation loss {best[0]:.4f} at step {best[1]}; training took {human_seconds(seconds)}"
    )
    console.print(
        f"{TARGET_LOSS} reached after {human_seconds(reached)}" if reached else f"{TARGET_LOSS} not reached"
    )


def gutenberg(out: Path, settings: list[str]) -> None:
    """GPT and LSTM of the micro size and a 5-gram: one tokenizer, the same training tokens, one table."""
    data = DATA / "gutenberg-en"
    chosen = ["train.eval_tokens=262144", *settings]
    table = Table("model", "bits per byte", "parameters", "training")
    for name in ("gpt-micro", "lstm-micro"):
        tokenizer = [f"tokenizer.path={out / 'gpt-micro'}"] if name == "lstm-micro" else []
        start_s = time.perf_counter()
        run = train(name, data, out / name, [*chosen, *tokenizer])
        seconds = time.perf_counter() - start_s
        bits = run.loop.evaluate()["bits_per_byte"]
        table.add_row(name, f"{bits:.4f}", f"{run.model.num_parameters():,}", human_seconds(seconds))
    spec = run.loop.spec
    num_tokens = spec.steps * spec.batch * run.loop.context
    config = load_run("ngram", [f"tokenizer.path={out / 'gpt-micro'}", "train.eval_tokens=262144"])
    text = prepare_text(config, data, out / "ngram", console.print)
    start_s = time.perf_counter()
    model = KneserNey.fit(text.train.ids, text.tokenizer.vocab_size, order=5, max_tokens=num_tokens)
    seconds = time.perf_counter() - start_s
    numbers = sum(tensor.size for tensor in model.tensors().values())
    bits = evaluate_ngrams(model, text.valid, 262_144)[1]
    table.add_row("5-gram", f"{bits:.4f}", f"{numbers:,}", human_seconds(seconds))
    console.print(table)
    console.print(f"{num_tokens:,} training tokens each")


if __name__ == "__main__":
    keep_heap()
    main()
