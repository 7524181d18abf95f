"""Tuning speed and memory beside pre-training, in tokens/s and as ratios of one run.

    python bench/tune.py [SHAPE ...] [--repeats 7]      shapes: demo, 8m, 23m
    python bench/tune.py --model FILE.gguf|DIR [--peer DIR] [--contenders NAME ...]

Each contender is a process of its own, so that its peak memory is its own. They take turns, one optimizer
step each, so that a change of the machine's load meets all of them. A figure is the median over the repeats,
a ratio the median of the repeats' own ratios to pre-training. Tokens are positions that hold one: padding is
not counted. "fp32" and "bf16" are as malmoi chooses. Conversations are as long as short chats are. A batch
goes through in four parts, as where memory is short; memory is the peak above what the empty process holds.

--model tunes a real model with LoRA of rank 8 on all its matrices, beside `transformers` and PEFT (--peer:
the same model as a Hugging Face folder), on the same conversations of ../shared/data. PEFT runs as its users
run it (8 conversations at random, padded, the question's labels masked, bf16 under autocast where the
processor has it) and in the best shape that was found (4 of about one length, adapters in bf16, too). It does
not learn the rows of new turn markers, which malmoi does. Speeds count the process's processor time, all
threads together, as a shared machine changes it least; ratios are to PEFT as its users run it. Memory is the
process's peak.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from malmoi.core.nouns import Finding
from malmoi.core.tensors import IGNORE
from malmoi.data.batches import Packed
from malmoi.data.conversations import read_conversations
from malmoi.data.shards import TokenFile
from malmoi.hub.chat_models import load_tunable
from malmoi.hub.folder import stored_groups
from malmoi.learn.loop import Loop
from malmoi.learn.objectives.conversations import Conversations
from malmoi.learn.objectives.next_token import NextToken
from malmoi.learn.run_config import TrainSpec, TuneConfig, TuneSpec
from malmoi.learn.trial import held_bytes, try_step
from malmoi.models.build import build_model
from malmoi.models.config import TransformerConfig
from malmoi.models.lora import LoRASpec, add_lora, hold_base
from malmoi.text.chat import ChatFormat, ChatRow, new_markers
from malmoi.text.tokenizer import Tokenizer, train_tokenizer
from malmoi.util.hardware import (
    cpu_name,
    current_memory_bytes,
    has_fast_bf16,
    keep_heap,
    peak_memory_bytes,
    training_dtype,
)
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
BASES = {  # of malmoi's LoRA, by contender
    "malmoi": "auto", "malmoi, int8": "int8", "malmoi, int4": "int4", "malmoi, as stored": "stored",
}  # fmt: skip
BEST = "PEFT, best shape"
PEERS = ("PEFT", BEST)
DATA = Path(__file__).parents[1] / "../shared/data"
LLM_DATA = (
    "instruct/self-instruct-seeds/train.jsonl", "instruct/gsm8k/train.jsonl", "chat/songys-ko/train.jsonl",
)  # fmt: skip
ROWS_OF_EACH, LLM_CONTEXT, LLM_BATCH, PEER_TOKENS = 175, 512, 2, 800
LLMStep = Callable[[], tuple[int, int]]  # tells tokens, and those that are learned
BYTES = range(7, 263)  # ids of a byte tokenizer
NEVER = 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shapes", nargs="*", choices=[*SHAPES, []], default=[])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--model", type=Path, help="of an LLM: a GGUF file or a folder")
    parser.add_argument("--peer", type=Path, help="the same as a Hugging Face folder")
    parser.add_argument("--contenders", nargs="+", choices=(*BASES, *PEERS), default=[*BASES, *PEERS])
    parser.add_argument("--worker", choices=(*CONTENDERS, *BASES, *PEERS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker and options.model:
        work_on_llm(options.worker, options.model, options.peer or options.model)
        return
    if options.worker:
        work(options.worker, *SHAPES[options.shapes[0]])
        return
    print(f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    if options.model:
        compare_on_llm(options)
        return
    print("| model | | tokens/s | of pre-training | fill | peak memory |\n|---|---|---|---|---|---|")
    for name in options.shapes or SHAPES:
        compare(name, options.repeats)


def compare(name: str, repeats: int) -> None:
    """Run one shape and print its lines of the table."""
    processes = {contender: started(contender, name) for contender in CONTENDERS}
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


def started(contender: str, *arguments: str) -> subprocess.Popen[str]:
    """A contender's process."""
    command = [sys.executable, __file__, *arguments, "--worker", contender]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


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


# ---- a real model, beside transformers and PEFT


def compare_on_llm(options: argparse.Namespace) -> None:
    """Run the contenders by turns and print the table."""
    paths = ["--model", str(options.model), *(["--peer", str(options.peer)] if options.peer else [])]
    processes = {contender: started(contender, *paths) for contender in options.contenders}
    first = {contender: ask(process).split() for contender, process in processes.items()}
    found = {contender: list[list[float]]() for contender in processes}
    for _ in range(options.repeats):
        for contender, process in processes.items():
            found[contender].append([float(it) for it in ask(process).split()[:2]])
            print(f"{contender}: {found[contender][-1][0]:,.1f} tokens/s", file=sys.stderr, flush=True)
    beside = next((it for it in PEERS if it in found), options.contenders[0])
    print(f"| {options.model.name} | tokens/s | trained tokens/s | of {beside} | weights | peak memory |")
    print("|---|---|---|---|---|---|")
    for contender, process in processes.items():
        memory, _ = process.communicate("memory\n")
        speed, trained = (statistics.median(of) for of in zip(*found[contender], strict=True))
        ratios = [one[1] / other[1] for one, other in zip(found[contender], found[beside], strict=True)]
        weights = human_bytes(float(first[contender][2]))
        print(
            f"| {contender} | {speed:,.0f} | {trained:,.0f} | {statistics.median(ratios):.2f} | {weights} "
            f"| {human_bytes(float(memory))} |",
            flush=True,
        )


def work_on_llm(contender: str, model: Path, peer: Path) -> None:
    """As `work`; tells tokens/s, trained tokens/s, and what the weights take."""
    torch.manual_seed(0)
    step, weight_bytes = (
        peer_step(peer, best=contender == BEST) if contender in PEERS else llm_step(model, BASES[contender])
    )
    step()
    for line in sys.stdin:
        if line == "memory\n":
            print(peak_memory_bytes())
            return
        start_s = time.process_time()
        num_tokens, num_trained = step()
        seconds = time.process_time() - start_s
        print(num_tokens / seconds, num_trained / seconds, weight_bytes, flush=True)


def conversations(form: ChatFormat) -> list[ChatRow]:
    """Short and long ones, English and Korean, in a random order."""
    rows: list[ChatRow] = []
    for name in LLM_DATA:
        found = read_conversations(DATA / name, list[Finding]().append)
        rows += [form.training_row(one.messages) for one in found[:ROWS_OF_EACH]]
    rows = [row for row in rows if len(row.ids) <= LLM_CONTEXT + 1]
    return [rows[at] for at in np.random.default_rng(0).permutation(len(rows))]


def llm_step(path: Path, base: str) -> tuple[LLMStep, int]:
    """A step of malmoi's, and the bytes of the weights."""
    keep_heap()
    model, form = load_tunable(path)
    rows = conversations(form)
    spec = TuneSpec.model_validate({
        "batch": LLM_BATCH, "context": LLM_CONTEXT, "steps": NEVER, "eval_every": NEVER, "optimizer": "adamw",
        "lr": 1e-3,
    })  # fmt: skip
    config = TuneConfig(model=str(path), weights="", data=(), lora=LoRASpec(base=base), train=spec)  # type: ignore[arg-type]
    add_lora(model, LoRASpec(), new_markers(form.tokenizer))
    if held := config.base_of(model):
        hold_base(model, held, stored_groups(path) if held == "stored" else {})
    packed = Packed(rows, LLM_CONTEXT, seed=0)
    objective = Conversations(packed, packed, LLM_BATCH, form.tokenizer)
    dtype = training_dtype("auto", model.device, model.config.width)
    loop = Loop(model, objective, spec.model_copy(update={"micro_batch": LLM_BATCH, "dtype": dtype}))

    def step() -> tuple[int, int]:
        part = objective.part(loop.step, 0, LLM_BATCH)
        loop.take_step()
        assert part.documents_BT is not None
        assert part.targets_BT is not None
        return int((part.documents_BT >= 0).sum()), int((part.targets_BT != IGNORE).sum())

    return step, held_bytes(model)


def peer_step(peer: Path, *, best: bool) -> tuple[LLMStep, int]:
    """A step as PEFT's users take it, over as many tokens as ours; and the bytes of the weights."""
    import peft
    import transformers

    tokenizer = Tokenizer.find(peer)
    assert tokenizer is not None
    rows = conversations(ChatFormat.for_tuning(tokenizer))
    fast = has_fast_bf16(torch.device("cpu"))
    base = transformers.AutoModelForCausalLM.from_pretrained(
        peer, dtype=torch.bfloat16 if fast else torch.float32
    )
    adapter = peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(base, adapter, autocast_adapter_dtype=not best).train()
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=1e-3)
    batches = padded(rows, 4 if best else 8, alike=best)

    def step() -> tuple[int, int]:
        num_tokens = num_trained = 0
        while num_tokens < PEER_TOKENS:
            ids_BT, mask_BT, labels_BT = next(batches)
            with torch.autocast("cpu", torch.bfloat16, enabled=fast and not best):
                model(input_ids=ids_BT, attention_mask=mask_BT, labels=labels_BT).loss.backward()
            num_tokens += int(mask_BT.sum())
            num_trained += int((labels_BT != IGNORE).sum())
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return num_tokens, num_trained

    return step, sum(parameter.nbytes for parameter in model.parameters())


def padded(rows: list[ChatRow], size: int, *, alike: bool) -> Iterator[tuple[torch.Tensor, ...]]:
    """ids_BT, mask_BT and labels_BT without end; alike: rows of about one length together."""
    order = sorted(rows, key=lambda row: len(row.ids)) if alike else rows
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    for number in cycle(np.random.default_rng(1).permutation(len(batches)).tolist()):
        batch = batches[number]
        shape = (len(batch), max(len(row.ids) for row in batch))
        ids_BT, mask_BT, labels_BT = (torch.full(shape, value) for value in (0, 0, IGNORE))
        for at, row in enumerate(batch):
            ids, learns = torch.tensor(row.ids), torch.tensor(row.trained)
            ids_BT[at, : len(ids)], mask_BT[at, : len(ids)] = ids, 1
            labels_BT[at, : len(ids)] = ids.where(learns, IGNORE)
        yield ids_BT, mask_BT, labels_BT


if __name__ == "__main__":
    main()
