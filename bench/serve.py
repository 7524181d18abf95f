"""Decoding, prefill and serving speed beside `transformers`, in tokens/s and as ratios of one run.

    python bench/serve.py [SHAPE ...] [--only decode,batch,prefill,server] [--repeats 5]     shapes: 15m, 110m
    python bench/serve.py --model FILE.gguf [--only decode,batch,prefill] [--repeats 5]

The weights are the same random ones on both sides, in Llama shapes with a vocabulary of 32,000; decoding is
greedy, 16 prompt tokens and 64 new ones at batch 1. Contenders take turns, so that a change of the machine's
load meets all of them; a figure is the median over the repeats, a ratio the median of the repeats' own
ratios. `batch`: 16 requests of 16 to 64 prompt tokens and 32 to 96 new ones that arrive at once: one after
the other, together (continuous batching), and as `generate` does it, padded and until the last one ends. Only
tokens that were asked for count. `server`: the same 16 requests, and one of them, streamed over HTTP from a
running server, against the engine alone; by a client that only reads, and by OpenAI's, which needs more of
the processor that both share than the server does. llama.cpp takes part where llama-cpp-python is installed,
with the model exported to GGUF; its batch gets prompts of one length and reads and writes all tokens of a
step in one call.

--model: a real model's file as it is, beside llama.cpp where xllamacpp is installed, which serves it over
HTTP: one request of 16 tokens and 64 new ones, a prompt of 256, and 16 of the requests that arrive at once.
`--only file` does that with the random weights in q4_0.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from transformers import LlamaForCausalLM

from malmoi.engine.engine import Engine
from malmoi.engine.loaded import Loaded
from malmoi.engine.request import Sampling
from malmoi.hub.export import export
from malmoi.hub.folder import save_model
from malmoi.models.build import build_model
from malmoi.models.config import TransformerConfig
from malmoi.models.formats import DTYPES, QUANTIZED
from malmoi.text.tokenizer import Tokenizer, train_tokenizer
from malmoi.util.hardware import cpu_name, keep_heap

SHAPES = {"15m": (6, 288, 6, 768), "110m": (12, 768, 12, 2048)}  # layers, width, heads, feed-forward width
VOCAB, CONTEXT, PROMPT, NEW, ROWS, PREFILL = 32_000, 1024, 16, 64, 16, 256
Run = Callable[[], int]  # does the work, says how many tokens


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shapes", nargs="*", choices=[*SHAPES, []], default=[])
    parser.add_argument("--only", default="decode,batch,prefill,server")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--model", type=Path)
    options = parser.parse_args()
    keep_heap()
    print(f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    if options.model:
        of_file(options.model, options.only.split(","), options.repeats)
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in options.shapes or SHAPES:
            made = make(name, Path(folder) / name)
            for part in options.only.split(","):
                print(f"\n### {name}, {part}\n")
                PARTS[part](made, options.repeats)


def make(name: str, folder: Path) -> Path:
    """A model folder with random weights; a byte tokenizer, which uses the first ids of the vocabulary."""
    layers, width, heads, ff_width = SHAPES[name]
    torch.manual_seed(0)
    config = TransformerConfig(
        vocab_size=VOCAB, context=CONTEXT, layers=layers, width=width, heads=heads, ff_width=ff_width,
        tied=True,
    )  # fmt: skip
    save_model(folder, build_model(config), train_tokenizer([], "byte"))
    return folder


def ours(folder: Path) -> dict[str, Loaded]:
    plain = {f"malmoi {name}": Loaded(folder, dtype=name) for name in DTYPES if name != "fp16"}
    return plain | {f"malmoi {name}": Loaded(folder, quantize=name) for name in QUANTIZED}


def theirs(folder: Path) -> dict[str, LlamaForCausalLM]:
    made = {"fp32": torch.float32, "bf16": torch.bfloat16}
    return {
        f"transformers {name}": LlamaForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        for name, dtype in made.items()
    }


def decode(folder: Path, repeats: int) -> None:
    prompt = prompts(1, PROMPT, PROMPT)[0]
    params = Sampling(max_tokens=NEW, temperature=0)
    runs: dict[str, Run] = {name: engine_run(one, [prompt], [params]) for name, one in ours(folder).items()}
    runs |= {name: generate_run(one, [prompt], [NEW]) for name, one in theirs(folder).items()}
    runs |= {name: llama_cpp_run(path, 1, PROMPT, NEW) for name, path in in_gguf(folder).items()}
    table(runs, repeats, "transformers fp32", "transformers bf16")


def batch(folder: Path, repeats: int) -> None:
    asked, news, params = mixed()
    runs: dict[str, Run] = {}
    for name, one in ours(folder).items():
        runs[f"{name}, one after the other"] = in_turn(one, asked, params)
        runs[f"{name}, together"] = engine_run(one, asked, params)
    runs |= {f"{name}, padded": generate_run(one, asked, news) for name, one in theirs(folder).items()}
    mean_prompt, mean_new = sum(map(len, asked)) // ROWS, sum(news) // ROWS
    runs |= {
        f"{name}, together": llama_cpp_run(path, ROWS, mean_prompt, mean_new)
        for name, path in in_gguf(folder).items()
    }
    table(runs, repeats, "transformers fp32, padded", "malmoi fp32, one after the other")


def prefill(folder: Path, repeats: int) -> None:
    ids_BT = torch.tensor(prompts(1, PREFILL, PREFILL))

    def read(one: Loaded) -> Run:
        def run() -> int:
            one.model.step(ids_BT, torch.tensor([PREFILL]), one.model.new_state(1, PREFILL), last_only=True)
            return PREFILL

        return run

    def forward(one: LlamaForCausalLM) -> Run:
        @torch.inference_mode()
        def run() -> int:
            one(ids_BT, logits_to_keep=1)
            return PREFILL

        return run

    runs: dict[str, Run] = {name: read(one) for name, one in ours(folder).items()}
    runs |= {name: forward(one) for name, one in theirs(folder).items()}
    runs |= {name: llama_cpp_run(path, 1, PREFILL, 0) for name, path in in_gguf(folder).items()}
    table(runs, repeats, "transformers fp32", "transformers bf16")


def server(folder: Path, repeats: int) -> None:
    asked, news, params = mixed()
    alone = {"fp32": Loaded(folder), "int8": Loaded(folder, quantize="int8")}
    for name, one in alone.items():
        with serving(folder, *(["--quantize", "int8"] if name == "int8" else [])) as port:
            for rows in (ROWS, 1):
                of_rows = asked[:rows], news[:rows]
                runs: dict[str, Run] = {
                    f"{name}, {rows} at once, engine alone": engine_run(one, of_rows[0], params[:rows]),
                    "over HTTP": partial(asyncio_run, read_all, port, folder.name, *of_rows),
                    "over HTTP, openai's client": partial(
                        asyncio_run, stream_all, port, folder.name, *of_rows
                    ),
                }
                table(runs, repeats, next(iter(runs)))


def of_file(path: Path, parts: list[str], repeats: int) -> None:
    """A GGUF file, as it is and in 8 bits, beside llama.cpp."""
    ours = {"malmoi as stored": Loaded(path), "malmoi int8": Loaded(path, quantize="int8")}
    work = {"decode": (1, PROMPT, NEW), "prefill": (1, PREFILL, 1), "batch": (ROWS, PROMPT, NEW)}
    with llama_server(path) as url:
        for part, (rows, num_prompt, num_new) in work.items():
            if part not in parts:
                continue
            asked, params = (
                real_prompts(rows, num_prompt),
                [Sampling(max_tokens=num_new, temperature=0)] * rows,
            )
            made = {name: engine_run(one, asked, params) for name, one in ours.items()}
            if url:
                made["llama.cpp"] = partial(llama_server_run, url, asked, num_new)
            read = num_prompt if part == "prefill" else 0  # a prompt's tokens are what counts there
            print(f"\n### {path.name}, {part}\n")
            table({name: counting(run, read) for name, run in made.items()}, repeats, list(made)[-1])


def in_q4_0(folder: Path, repeats: int) -> None:
    path = folder.with_name(f"{folder.name}-q4_0.gguf")
    export(folder, "gguf", path, "q4_0")
    of_file(path, ["decode", "batch", "prefill"], repeats)


PARTS = {"decode": decode, "batch": batch, "prefill": prefill, "server": server, "file": in_q4_0}


def counting(run: Run, read: int) -> Run:
    """The same work, of which `read` tokens count if they are any."""

    def counted() -> int:
        made = run()
        return read or made

    return counted


def real_prompts(count: int, length: int) -> list[list[int]]:
    """Ids that a real vocabulary has, and that are no special ones."""
    random = Random(0)
    return [[random.randint(1000, 30_000) for _ in range(length)] for _ in range(count)]


# --- the contenders


LLAMA_SERVER = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_parallel, params.n_ctx, threads = map(int, sys.argv[2:])
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
server = xllamacpp.Server(params)
print("listening at", server.listening_address, flush=True)
sys.stdin.read()
"""


@contextmanager
def llama_server(path: Path) -> Iterator[str]:
    """The address of llama.cpp's server; '' where xllamacpp is not installed.

    In a process of its own: where two pools of OpenMP's threads are in one, neither's wait busily any more.
    """
    if find_spec("xllamacpp") is None:
        yield ""
        return
    numbers = map(str, (ROWS, ROWS * 512, torch.get_num_threads()))
    process = subprocess.Popen(
        [sys.executable, "-c", LLAMA_SERVER, str(path), *numbers],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        said = next((line for line in process.stdout if line.startswith("listening at ")), None)
        if said is None:
            raise SystemExit(f"llama.cpp does not serve {path}")
        yield said.split()[-1]
    finally:
        process.terminate()
        process.wait()


def llama_server_run(url: str, asked: list[list[int]], num_new: int) -> int:
    import httpx

    def one(ids: list[int]) -> int:
        body = {
            "prompt": ids, "n_predict": num_new, "temperature": 0, "cache_prompt": False, "ignore_eos": True
        }  # fmt: skip
        found = httpx.post(f"{url}/completion", json=body, timeout=600).raise_for_status().json()
        return int(found["timings"]["predicted_n"])

    with ThreadPoolExecutor(len(asked)) as pool:
        return sum(pool.map(one, asked))


def prompts(count: int, least: int, most: int) -> list[list[int]]:
    """Ids of the byte tokenizer that are letters."""
    random = Random(0)
    letters = train_tokenizer([], "byte").encode("abcdefghijklmnopqrstuvwxyz ")
    return [[random.choice(letters) for _ in range(random.randint(least, most))] for _ in range(count)]


def mixed() -> tuple[list[list[int]], list[int], list[Sampling]]:
    random = Random(1)
    news = [random.randint(32, 96) for _ in range(ROWS)]
    return prompts(ROWS, 16, 64), news, [Sampling(max_tokens=new, temperature=0) for new in news]


def unending(params: Sampling, tokenizer: Tokenizer) -> Sampling:
    """The same without the ids that would end it, so that all produce as many tokens."""
    return replace(params, logit_bias=tuple((id, -100.0) for id in tokenizer.specials.ends))


def engine_run(one: Loaded, asked: list[list[int]], params: list[Sampling]) -> Run:
    engine = Engine(one.model, one.tokenizer, max_rows=ROWS, lookup=False)
    params = [unending(each, one.tokenizer) for each in params]

    def run() -> int:
        return sum(len(found.ids) for found in engine.generate(asked, params))

    return run


def in_turn(one: Loaded, asked: list[list[int]], params: list[Sampling]) -> Run:
    runs = [engine_run(one, [ids], [each]) for ids, each in zip(asked, params, strict=True)]
    return lambda: sum(run() for run in runs)


def generate_run(one: LlamaForCausalLM, asked: list[list[int]], news: list[int]) -> Run:
    longest = max(map(len, asked))
    ids_BT = torch.tensor([[0] * (longest - len(ids)) + ids for ids in asked])
    mask_BT = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in asked])

    @torch.inference_mode()
    def run() -> int:
        one.generate(
            ids_BT, attention_mask=mask_BT, max_new_tokens=max(news), min_new_tokens=max(news),
            do_sample=False, pad_token_id=0,
        )  # fmt: skip
        return sum(news)

    return run


def in_gguf(folder: Path) -> dict[str, Path]:
    """The model in llama.cpp's files, by the name of the contender; none where it is not installed."""
    if find_spec("llama_cpp") is None:
        return {}
    found: dict[str, Path] = {}
    for dtype in ("f32", "bf16", "q8_0"):
        out = folder.with_name(f"{folder.name}-{dtype}")
        if not out.exists():
            export(folder, "gguf", out, dtype)
        found[f"llama.cpp {dtype}"] = out / "model.gguf"
    return found


def llama_cpp_run(path: Path, rows: int, num_prompt: int, num_new: int) -> Run:
    """Read `rows` prompts at once, then take the best token of each, num_new times."""
    import llama_cpp as c

    threads, most = torch.get_num_threads(), rows * (num_prompt + num_new)
    c.llama_backend_init()
    params = c.llama_model_default_params()
    model = c.llama_model_load_from_file(str(path).encode(), params)
    options = c.llama_context_default_params()
    options.n_ctx, options.n_batch, options.n_ubatch, options.n_seq_max = most + 64, 2048, 512, rows
    options.n_threads = options.n_threads_batch = threads
    context = c.llama_init_from_model(model, options)
    batch = c.llama_batch_init(max(rows * num_prompt, rows), 0, 1)

    def put(tokens: list[tuple[int, int, int]], wanted: bool) -> None:
        batch.n_tokens = len(tokens)
        for i, (token, position, row) in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, position, 1, row
            batch.logits[i] = (wanted and position == num_prompt - 1) or position >= num_prompt
        assert c.llama_decode(context, batch) == 0

    def best(i: int) -> int:
        return int(np.ctypeslib.as_array(c.llama_get_logits_ith(context, i), shape=(VOCAB,)).argmax())

    def run() -> int:
        c.llama_memory_clear(c.llama_get_memory(context), True)
        put([(100 + p % 50, p, row) for row in range(rows) for p in range(num_prompt)], wanted=True)
        if not num_new:
            return num_prompt
        places = [(row + 1) * num_prompt - 1 for row in range(rows)]
        for n in range(num_new):
            tokens = [best(place) for place in places]
            if n + 1 < num_new:
                put([(token, num_prompt + n, row) for row, token in enumerate(tokens)], wanted=True)
            places = list(range(rows))
        return rows * num_new

    return run


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[int]:
    """A server of its own process. Yields its port."""
    port = 8917
    start = [sys.executable, "-c", "from malmoi.cli.commands import main; main()"]
    command = [*start, "serve", str(folder), "--port", str(port), "--no-page", *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        import httpx

        for _ in range(1200):
            try:
                httpx.get(f"http://127.0.0.1:{port}/health").raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait()


def asyncio_run(function: Callable[..., Coroutine[Any, Any, int]], *arguments: Any) -> int:
    return asyncio.run(function(*arguments))


def request_of(model: str, ids: list[int], new: int) -> dict[str, Any]:
    return {
        "model": model, "prompt": ids, "max_tokens": new, "temperature": 0, "stream": True,
        "stream_options": {"include_usage": True}, "logit_bias": {str(id): -100 for id in range(3)},
    }  # fmt: skip


async def read_all(port: int, model: str, asked: list[list[int]], news: list[int]) -> int:
    """All tokens, by a client that only reads: it shares the server's processor, so it must take little."""

    async def one(ids: list[int], new: int) -> int:
        body = json.dumps(request_of(model, ids, new)).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        reply = (await reader.read()).decode()
        writer.close()
        return int(reply.rpartition('"completion_tokens":')[2].partition(",")[0])

    return sum(await asyncio.gather(*map(one, asked, news)))


async def stream_all(port: int, model: str, asked: list[list[int]], news: list[int]) -> int:
    from openai import AsyncOpenAI

    async with AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none") as client:

        async def one(ids: list[int], new: int) -> int:
            stream = await client.completions.create(**request_of(model, ids, new))
            return [part.usage.completion_tokens async for part in stream if part.usage][-1]

        return sum(await asyncio.gather(*map(one, asked, news)))


# --- the table


def table(runs: dict[str, Run], repeats: int, *bases: str) -> None:
    """Time all runs by turns and print a line for each."""
    for run in runs.values():
        run()  # warm
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start_s = time.perf_counter()
            num_tokens = run()
            speeds[name].append(num_tokens / (time.perf_counter() - start_s))
    heads = "".join(f" of {base} |" for base in bases)
    print(f"| | tokens/s |{heads}\n|---|---|" + "---|" * len(bases))
    for name, found in speeds.items():
        ratios = [
            statistics.median(a / b for a, b in zip(found, speeds[base], strict=True)) for base in bases
        ]
        print(
            f"| {name} | {statistics.median(found):,.0f} |" + "".join(f" {r:.2f} |" for r in ratios),
            flush=True,
        )


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
