"""How fast text becomes ids, beside the `tokenizers` library and `tiktoken`, and in how much memory.

    python bench/tokenizer.py [PATH ...]      default: the English and the Korean completion text
    python bench/tokenizer.py --memory [MB]   tokenize a generated text file (default 1000 MB), print the peak

All three encode the same text with the same vocabulary: one byte-level BPE, trained on the text's beginning.
Each repeat takes the next slice of the text, so nobody meets a slice twice, and the three take turns at it.
A figure is the median over the repeats; a ratio is the median of the repeats' own ratios.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import tiktoken
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer as Library

from malmoi.data.readers import open_corpus, read_documents
from malmoi.data.shards import write_shards
from malmoi.text.tokenizer import Tokenizer, train_tokenizer

DATA = Path(__file__).parents[2] / "shared" / "data" / "completion"
VOCAB_SIZE = 8192
REPEATS, SLICE_CHARACTERS = 7, 1_500_000
DOCUMENT_CHARACTERS = 4_000  # a text to encode; batches are lists of them
GPT2_SPLIT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

Encode = Callable[[list[str]], list[list[int]]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", nargs="*", type=Path, default=[DATA / "gutenberg-en", DATA / "mixed-ko"])
    parser.add_argument("--memory", nargs="?", type=int, const=1000, metavar="MB")
    parser.add_argument("--tokenize", type=Path, help=argparse.SUPPRESS)  # the subprocess of --memory
    options = parser.parse_args()
    if options.tokenize:
        print_peak_memory(options.tokenize)
    elif options.memory:
        run_memory(options.memory)
    else:
        for path in options.path:
            run_speed(path)


def run_speed(path: Path) -> None:
    """Print one table: MB/s of UTF-8 for each encoder, and how many times the library's speed it is."""
    slices = list(islice(read_slices(path), REPEATS))
    tokenizer = train_tokenizer(slices[0], "bpe", VOCAB_SIZE)
    encoders, same = make_encoders(tokenizer), 0.0
    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    for number, texts in enumerate(slices):
        names = list(encoders)
        ids = {}
        for name in names[number % len(names) :] + names[: number % len(names)]:
            started_s = time.perf_counter()
            ids[name] = encoders[name](texts)
            seconds[name].append(time.perf_counter() - started_s)
        assert ids["malmoi encode"] == ids["tokenizers encode"] == ids["malmoi encode_batch"]
        first = len(tokenizer.specials.ids)
        pairs = zip(ids["malmoi encode"], ids["tiktoken encode"], strict=True)
        same += statistics.fmean(ours == [id + first for id in theirs] for ours, theirs in pairs) / len(
            slices
        )
    sizes_mb = [sum(len(text.encode()) for text in texts) / 1e6 for texts in slices]
    print_table(f"{path.name}, {sum(sizes_mb):.0f} MB, {os.cpu_count()} cores", sizes_mb, seconds)
    print(f"texts with equal ids: tokenizers 100%, tiktoken {same:.1%}\n")


def read_slices(path: Path) -> Iterator[list[str]]:
    """Lists of NFC texts of DOCUMENT_CHARACTERS each, SLICE_CHARACTERS a list."""
    texts: list[str] = []
    for document in open_corpus(path).train():
        text = unicodedata.normalize("NFC", document)  # tiktoken does not
        texts += [text[at : at + DOCUMENT_CHARACTERS] for at in range(0, len(text), DOCUMENT_CHARACTERS)]
        if sum(map(len, texts)) >= SLICE_CHARACTERS:
            yield texts
            texts = []


def make_encoders(tokenizer: Tokenizer) -> dict[str, Encode]:
    """The same vocabulary in three libraries. Ours is opened anew, its cache empty."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder))
        ours, ours_batch = Tokenizer.load(Path(folder)), Tokenizer.load(Path(folder))
        library = Library.from_file(str(Path(folder) / "tokenizer.json"))
        library_batch = Library.from_file(str(Path(folder) / "tokenizer.json"))
    first = len(tokenizer.specials.ids)  # our ids begin with the specials, tiktoken's with the bytes
    ranks = {tokenizer._pieces[id]: id - first for id in range(first, tokenizer.vocab_size)}
    encoding = tiktoken.Encoding("malmoi", pat_str=GPT2_SPLIT, mergeable_ranks=ranks, special_tokens={})

    def raw(texts: list[str]) -> list[list[int]]:
        return [library.encode(text, add_special_tokens=False).ids for text in texts]

    def raw_batch(texts: list[str]) -> list[list[int]]:
        return [found.ids for found in library_batch.encode_batch_fast(texts, add_special_tokens=False)]

    return {
        "malmoi encode": lambda texts: [ours.encode(text) for text in texts],
        "tokenizers encode": raw,
        "tiktoken encode": lambda texts: [encoding.encode_ordinary(text) for text in texts],
        "malmoi encode_batch": ours_batch.encode_batch,
        "tokenizers encode_batch": raw_batch,
        "tiktoken encode_batch": encoding.encode_ordinary_batch,
    }


def print_table(title: str, sizes_mb: Sequence[float], seconds: Mapping[str, Sequence[float]]) -> None:
    table = Table("encoder", "MB/s", "times tokenizers", "times tiktoken", title=title, title_justify="left")
    for name, elapsed_s in seconds.items():
        call = name.split()[1]
        speeds = [size / second for size, second in zip(sizes_mb, elapsed_s, strict=True)]
        ratios = [
            statistics.median(theirs / mine for theirs, mine in zip(seconds[peer], elapsed_s, strict=True))
            for peer in (f"tokenizers {call}", f"tiktoken {call}")
        ]
        table.add_row(name, f"{statistics.median(speeds):.1f}", *(f"{ratio:.2f}" for ratio in ratios))
    Console().print(table)


def run_memory(size_mb: int) -> None:
    """Write a text file of `size_mb` MB and tokenize it in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.txt"
        with path.open("w", encoding="utf-8") as file:
            for line in generated_lines():
                file.write(line)
                if file.tell() >= size_mb * 1_000_000:
                    break
        print(f"text: {path.stat().st_size / 1e6:.0f} MB")
        subprocess.run([sys.executable, __file__, "--tokenize", str(path)], check=True)


def generated_lines() -> Iterator[str]:
    """Lines of English and Korean made-up words without end: ever new ones, as in real text."""
    draw = random.Random(0)
    letters = ["etaoinshrdlu", "".join(chr(0xAC00 + 28 * number) for number in range(300))]
    words = ["".join(draw.choices(draw.choice(letters), k=draw.randint(1, 9))) for _ in range(50_000)]
    while True:
        yield " ".join([*draw.choices(words, k=2000), str(draw.random())]) + "\n"


def print_peak_memory(path: Path) -> None:
    """Train on the beginning and tokenize all of `path`; the peaks are of the whole process."""
    tokenizer = train_tokenizer(islice(read_documents(path), 2), "bpe", VOCAB_SIZE)
    before_mb, started_s = peak_mb(), time.perf_counter()
    tokens = write_shards(read_documents(path), tokenizer, path.parent / "tokens")
    elapsed_s = time.perf_counter() - started_s
    print(f"tokens: {tokens.num_tokens / 1e6:.1f} M at {tokens.num_bytes / 1e6 / elapsed_s:.1f} MB/s")
    print(f"peak memory: {before_mb:.0f} MB after training, {peak_mb():.0f} MB after tokenizing")


def peak_mb() -> float:
    """The largest resident size so far, in MB (Linux counts in KiB, macOS in bytes)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


if __name__ == "__main__":
    main()
