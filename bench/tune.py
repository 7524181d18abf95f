"""Tuning speed and memory beside pre-training, in tokens/s and as ratios of one run.

    python bench/tune.py [SHAPE ...] [--repeats 7]      shapes: demo, 8m, 23m

Each contender is a process of its own, so that its peak memory is its own. They take turns, one optimizer
step each, so that a change of the machine's load meets all of them. A figure is the median over the repeats,
a ratio the median of the repeats' own ratios to pre-training. Tokens are positions that hold one: padding is
not counted. "fp32" and "bf16" are as malmoi chooses. Conversations are as long as short chats are. A batch
goes through in four parts, as where memory is short; memory is the peak above what the empty process holds.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from malmoi.data.batches import Packed
from malmoi.data.shards import TokenFile
from malmoi.learn.loop import Loop
from malmoi.learn.objectives.conversations import Conversations
from malmoi.learn.objectives.next_token import NextToken
from malmoi.learn.run_config import TrainSpec, TuneSpec
from malmoi.learn.trial import try_step
from malmoi.models.build import build_model
from malmoi.models.config import TransformerConfig
from malmoi.models.lora import LoRASpec, add_lora
from malmoi.text.chat import ChatRow
from malmoi.text.tokenizer import train_tokenizer
from malmoi.util.hardware import cpu_name, current_memory_bytes, keep_heap, peak_memory_bytes
from malmoi.util.units import human_bytes

SHAPES = {  # vocabulary, layers, width, heads, context, batch
    "demo": (2560, 4, 128, 4, 256, 16),
    "8m": (8192, 6, 256, 4, 512, 16),
    "23m": (8192, 6, 512, 8, 512, 16),
}
PARTS = 4  # of a batch
CONTENDERS = (
    "pre-training",
    "tuning, packed",
    "tuning, one conversation a row",
    "LoRA, packed",
    "LoRA and turn markers, packed",
)
BYTES = range(7, 263)  # ids of a byte tokenizer
NEVER = 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shapes", nargs="*", choices=[*SHAPES, []], default=[])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--worker", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, *SHAPES[options.shapes[0]])
        return
    print(f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| model | | tokens/s | of pre-training | fill | peak memory |\n|---|---|---|---|---|---|")
    for name in options.shapes or SHAPES:
        compare(name, options.repeats)


def compare(name: str, repeats: int) -> None:
    """Run one shape and print its lines of the table."""
    processes = {
        contender: subprocess.Popen(
            [sys.executable, __file__, name, "--worker", contender],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for contender in CONTENDERS
    }  # fmt: skip
    settled = {contender: ask(process) for contender, process in processes.items()}
    speeds: dict[str, list[float]] = {contender: [] for contender in processes}
    for _ in range(repeats):
        for contender, process in processes.items():
            speeds[contender].append(float(ask(process).split()[0]))
    for contender, process in processes.items():
        ratio = statistics.median(
            speed / beside for speed, beside in zip(speeds[contender], speeds[CONTENDERS[0]], strict=True)
        )
        _, fill, dtype = settled[contender].split()
        memory, _ = process.communicate("memory\n")
        speed = statistics.median(speeds[contender])
        print(
            f"| {name}, {dtype} | {contender} | {speed:,.0f} | {ratio:.2f} | {float(fill):.1%} "
            f"| {human_bytes(float(memory))} |",
            flush=True,
        )


def ask(process: subprocess.Popen[str]) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("step\n")
    process.stdin.flush()
    return process.stdout.readline()


def work(contender: str, *shape: int) -> None:
    """A contender's process: for each line "step" on standard input one step; tells tokens/s, fill, dtype."""
    keep_heap()
    torch.manual_seed(0)
    empty_bytes = current_memory_bytes()
    vocab_size, layers, width, heads, context, batch = shape
    model: Any = build_model(
        TransformerConfig(
            vocab_size=vocab_size, layers=layers, width=width, heads=heads, context=context, tied=True
        )
    )
    if contender.startswith("LoRA"):
        add_lora(model, LoRASpec(), [3, 4, 5, 6] if "markers" in contender else [])
    step, fill, dtype = made(contender, model, context, batch)
    step()
    for line in sys.stdin:
        if line == "memory\n":
            print(peak_memory_bytes() - empty_bytes)
            return
        start_s = time.perf_counter()
        step()
        print(fill * batch * context / (time.perf_counter() - start_s), fill, dtype, flush=True)


def made(contender: str, model: Any, context: int, batch: int) -> tuple[Callable[[], object], float, str]:
    """A step as malmoi's verbs take it, the share of positions that are no padding, the precision."""
    wanted: dict[str, Any] = {
        "batch": batch, "context": context, "steps": NEVER, "eval_every": NEVER, "checkpoint_every": NEVER,
        "optimizer": "adamw" if contender.startswith("LoRA") else "muon", "micro_batch": batch // PARTS,
    }  # fmt: skip
    spec: Any
    objective: Any
    if contender == "pre-training":
        spec = TrainSpec.model_validate(wanted)
        ids = np.random.default_rng(0).integers(BYTES.start, BYTES.stop, 1_000_000).astype(np.uint16)
        ids[::200] = 0  # documents of that length
        tokens = TokenFile(ids, 0, BYTES.stop, 1, len(ids))
        objective, fill = NextToken(tokens, tokens, spec, context), 1.0
    else:
        spec = TuneSpec.model_validate(wanted)
        packed = Packed(chats(20_000, context), context, seed=0, together=contender.endswith("packed"))
        objective = Conversations(packed, packed, batch, train_tokenizer(["거위"], "byte", 300))
        fill = packed.fill
    spec = try_step(model, objective, spec).spec
    return Loop(model, objective, spec, Path(tempfile.mkdtemp())).run().__next__, fill, spec.dtype


def chats(count: int, context: int) -> list[ChatRow]:
    """Questions and answers of about 60 tokens together, the second half trained."""
    random = np.random.default_rng(0)
    lengths = np.clip(np.exp(random.normal(4, 0.6, count)).astype(int), 4, context + 1).tolist()
    return [
        ChatRow(random.integers(BYTES.start, BYTES.stop, n).tolist(), [at >= n // 2 for at in range(n)])
        for n in lengths
    ]


if __name__ == "__main__":
    main()
