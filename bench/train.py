"""Training speed beside `transformers` (or a plain PyTorch LSTM), in tokens/s and as ratios of one run.

    python bench/train.py [SHAPE ...] [--repeats 5]      shapes: 23m, 6x384, shakespeare-cpu, lstm-2x512

Each contender is a process of its own, for the heap's settings hold for a whole process. They take turns, one
optimizer step each, so that a change of the machine's load meets all of them. A figure is the median over
the repeats, a ratio the median of the repeats' own ratios to malmoi. "as shipped" is a plain loop; "heap
kept" adds the setting of malloc that malmoi makes for itself.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional

from malmoi.data.shards import TokenFile
from malmoi.learn.loop import Loop
from malmoi.learn.objectives.next_token import NextToken
from malmoi.learn.run_config import TrainSpec
from malmoi.learn.trial import try_step
from malmoi.models.build import build_model
from malmoi.models.config import model_config_adapter
from malmoi.util.hardware import cpu_name, has_fast_bf16, keep_heap, peak_memory_bytes, pick_device
from malmoi.util.units import human_bytes

Step = Callable[[], object]


@dataclass(frozen=True)
class Shape:
    """What is trained. A batch is `batch` rows of `context` tokens."""

    vocab_size: int
    layers: int
    width: int
    heads: int
    context: int
    batch: int

    @property
    def tokens(self) -> int:
        return self.batch * self.context


SHAPES = {
    "23m": Shape(8192, 6, 512, 8, 512, 16),
    "6x384": Shape(65, 6, 384, 6, 256, 64),
    "shakespeare-cpu": Shape(65, 4, 128, 4, 64, 12),
    "lstm-2x512": Shape(10_000, 2, 512, 0, 128, 32),
}


def contenders(name: str) -> list[str]:
    """The first one is malmoi; the others are named by their precision and whether the heap is kept."""
    peer = "torch LSTM" if name.startswith("lstm") else "transformers"
    precisions = ["fp32", "bf16"] if has_fast_bf16(pick_device()) else ["fp32"]
    peers = [f"{peer} {p} {heap}" for p in precisions for heap in ("as shipped", "heap kept")]
    return ["malmoi", *peers]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shapes", nargs="*", choices=[*SHAPES, []], default=[])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, SHAPES[options.shapes[0]])
        return
    Console().print(f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for name in options.shapes or SHAPES:
        compare(name, options.repeats)


def compare(name: str, repeats: int) -> None:
    """Run one shape and print its table."""
    processes = {
        contender: subprocess.Popen(
            [sys.executable, __file__, name, "--worker", contender],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for contender in contenders(name)
    }  # fmt: skip
    for process in processes.values():
        ask(process)  # built, and the first step taken
    seconds: dict[str, list[float]] = {contender: [] for contender in processes}
    for _ in range(repeats):
        for contender, process in processes.items():
            seconds[contender].append(float(ask(process)))
    table = Table("contender", "tokens/s", "malmoi is faster by", "peak memory", title=name)
    for contender, process in processes.items():
        speed = SHAPES[name].tokens / statistics.median(seconds[contender])
        ratios = [s / ours for s, ours in zip(seconds[contender], seconds["malmoi"], strict=True)]
        memory, _ = process.communicate("memory\n")
        table.add_row(
            contender, f"{speed:,.0f}", f"{statistics.median(ratios):.2f}", human_bytes(float(memory))
        )
    Console().print(table)


def ask(process: subprocess.Popen[str]) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("step\n")
    process.stdin.flush()
    return process.stdout.readline()


def work(contender: str, shape: Shape) -> None:
    """A contender's process: for each line "step" on standard input, one step and its seconds."""
    if contender == "malmoi" or contender.endswith("heap kept"):
        keep_heap()
    torch.manual_seed(0)
    dtype = torch.bfloat16 if "bf16" in contender else torch.float32
    make = ours if contender == "malmoi" else plain_lstm if "LSTM" in contender else transformers_llama
    step = make(shape, dtype)
    for line in sys.stdin:
        if line == "memory\n":
            print(peak_memory_bytes())
            return
        start_s = time.perf_counter()
        step()
        print(time.perf_counter() - start_s, flush=True)


def ours(shape: Shape, _: torch.dtype) -> Step:
    """malmoi's trainer as `malmoi pretrain` uses it."""
    random = np.random.default_rng(0).integers(1, shape.vocab_size, 1_000_000).astype(np.uint16)
    tokens = TokenFile(random, 0, shape.vocab_size, 1, len(random))
    sizes: dict[str, Any] = {"vocab_size": shape.vocab_size, "layers": shape.layers, "width": shape.width}
    if shape.heads:
        config = sizes | {
            "family": "transformer",
            "heads": shape.heads,
            "context": shape.context,
            "tied": True,
        }
    else:
        config = sizes | {"family": "lstm", "tied": True}
    model = build_model(model_config_adapter.validate_python(config))
    never = 1_000_000
    spec = TrainSpec(
        batch=shape.batch, context=shape.context, steps=never, eval_every=never, checkpoint_every=never
    )
    objective = NextToken(tokens, tokens, spec, shape.context)
    spec = try_step(model, objective, spec).spec
    trainer = Loop(model, objective, spec, Path(tempfile.mkdtemp()))
    return trainer.run().__next__


def transformers_llama(shape: Shape, dtype: torch.dtype) -> Step:
    """`LlamaForCausalLM` of the same shape in a plain loop."""
    from transformers import LlamaConfig, LlamaForCausalLM

    feed_forward = -(-int(shape.width * 8 / 3) // 64) * 64
    config = LlamaConfig(
        vocab_size=shape.vocab_size, hidden_size=shape.width, intermediate_size=feed_forward,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, tie_word_embeddings=True,
        max_position_embeddings=shape.context, use_cache=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(dtype)
    return plain_loop(model, lambda ids: model(input_ids=ids, labels=ids).loss, shape)


def plain_lstm(shape: Shape, dtype: torch.dtype) -> Step:
    """Embedding, `nn.LSTM` and output matrix in a plain loop."""
    embed = nn.Embedding(shape.vocab_size, shape.width)
    lstm = nn.LSTM(shape.width, shape.width, shape.layers, batch_first=True)
    head = nn.Linear(shape.width, shape.vocab_size, bias=False)
    head.weight = embed.weight
    model = nn.ModuleList([embed, lstm, head]).to(dtype)

    def loss(ids: torch.Tensor) -> torch.Tensor:
        logits = head(lstm(embed(ids))[0])
        return functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

    return plain_loop(model, loss, shape)


def plain_loop(model: nn.Module, loss_of: Callable[[torch.Tensor], torch.Tensor], shape: Shape) -> Step:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        ids = torch.randint(1, shape.vocab_size, (shape.batch, shape.context), generator=generator)
        loss_of(ids).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


if __name__ == "__main__":
    main()
