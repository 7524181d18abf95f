"""What another program on the machine costs: tokens/s alone, and beside one process that never rests.

    python bench/busy.py [WORK ...] [--seconds 1] [--others]

"before" is OpenMP's own way to wait, in a loop; "after" is malmoi's: threads that wait sleep while others
want the cores (`malmoi.util.threads`). --others adds what else there is: fewer turns of the loop, and one
thread. Each figure is measured in a process of its own, after a warm-up of two looks at the machine. A fair
share of n cores beside one busy program is (n - 1) / n of the speed alone: half on two cores.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from malmoi.data.shards import TokenFile
from malmoi.engine.engine import Engine
from malmoi.engine.request import Sampling
from malmoi.learn.loop import Loop
from malmoi.learn.objectives.next_token import NextToken
from malmoi.learn.run_config import RunConfig, load_run
from malmoi.models.build import build_model
from malmoi.models.packed import pack
from malmoi.text.tokenizer import train_tokenizer
from malmoi.util.hardware import cpu_name, keep_heap, training_dtype
from malmoi.util.threads import LOOK_S, MOST_OTHERS, CoreTimes

WORKS = ("train gpt-nano", "train gpt-small", "decode gpt-nano", "decode gpt-small", "prompt gpt-small")
# how threads wait: OpenMP's settings, without which malmoi watches the machine
WAYS = {"before": {"GOMP_SPINCOUNT": "300000"}, "after": {}}
OTHERS = {
    **{f"{turns} turns": {"GOMP_SPINCOUNT": turns} for turns in ("30000", "3000", "300")},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
PROMPT, NEW, READ = 16, 64, 256
BUSY = "while True: pass"  # the other program

Step = Callable[[], int]  # does some work, says how many tokens


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("works", nargs="*", choices=[*WORKS, []], default=[])
    parser.add_argument("--seconds", type=float, default=1)
    parser.add_argument("--others", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(*tokens_per_s(options.worker, options.seconds))
        return
    ways = WAYS | (OTHERS if options.others else {})
    Console().print(f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    table = Table("tokens/s", "threads wait", "alone", "beside another", "is of alone before")
    for work in options.works or WORKS:
        before = 0.0
        for way, environment in ways.items():
            alone, others = measured(work, options.seconds, environment)
            before = before or alone
            with busy_machine():
                beside, _ = measured(work, options.seconds, environment)
            star = "*" * (others > MOST_OTHERS / 2)
            table.add_row(work, way, f"{alone:,.0f}{star}", f"{beside:,.0f}", f"{beside / before:.0%}")
    Console().print(table, "* not alone: other programs used the machine, too")


def measured(work: str, seconds: float, environment: dict[str, str]) -> list[float]:
    """Tokens/s of some work in a process of its own, and how many cores others used meanwhile."""
    command = [sys.executable, __file__, "--worker", work, "--seconds", str(seconds)]
    said = subprocess.check_output(command, text=True, env=os.environ | environment)
    return [float(number) for number in said.split()]


@contextmanager
def busy_machine() -> Iterator[None]:
    """A second program, which never rests."""
    other = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        yield
    finally:
        other.kill()
        other.wait()


def tokens_per_s(work: str, seconds: float) -> tuple[float, float]:
    keep_heap()
    torch.manual_seed(0)
    kind, _, recipe = work.partition(" ")
    step = {"train": training, "decode": decoding, "prompt": reading}[kind](load_run(recipe))
    done_in(step, 2.5 * LOOK_S)  # so that the machine has been looked at
    before = CoreTimes.now()
    found, after = done_in(step, seconds), CoreTimes.now()
    return found, after.others_since(before) if before and after else 0.0


def done_in(step: Step, seconds: float) -> float:
    """Tokens/s of steps that take some seconds, one at least."""
    start_s, tokens = time.perf_counter(), 0
    while tokens == 0 or time.perf_counter() - start_s < seconds:
        tokens += step()
    return tokens / (time.perf_counter() - start_s)


def training(run: RunConfig) -> Step:
    """A batch of 2,048 tokens that mean nothing, at the precision that suits the machine."""
    context = min(512, run.train.context)
    model = build_model(run.model_config_for(run.tokenizer.vocab_size, context))
    spec = run.train.model_copy(update={
        "context": context, "batch": 2048 // context, "micro_batch": 2048 // context,
        "dtype": training_dtype("auto", model.device, model.config.width),
    })  # fmt: skip
    vocab_size = run.tokenizer.vocab_size
    ids = np.random.default_rng(0).integers(0, vocab_size, 100_000).astype(np.uint16)
    tokens = TokenFile(ids, 0, vocab_size, 1, 1)
    loop = Loop(model, NextToken(tokens, tokens, spec, context), spec)

    def step() -> int:
        loop.take_step()
        return 2048

    return step


def engine_of(run: RunConfig) -> Engine:
    """One with a model of random weights, in bf16."""
    model = build_model(run.model_config_for(run.tokenizer.vocab_size, 1024)).eval()
    model = model.to(torch.bfloat16)
    pack(model)
    return Engine(model, train_tokenizer([], "byte"), lookup=False)


def decoding(run: RunConfig) -> Step:
    """One reply after the other."""
    engine = engine_of(run)
    never = tuple((id, -100.0) for id in engine.tokenizer.specials.ends)
    params = Sampling(max_tokens=NEW, temperature=0, logit_bias=never)
    return lambda: sum(len(found.ids) for found in engine.generate([list(range(PROMPT))], [params]))


def reading(run: RunConfig) -> Step:
    """One prompt after the other, of which one token follows."""
    engine, prompt = engine_of(run), torch.randint(0, 256, (READ,)).tolist()

    def step() -> int:
        engine.generate([prompt], [Sampling(max_tokens=1, temperature=0)])
        return READ

    return step


if __name__ == "__main__":
    main()
