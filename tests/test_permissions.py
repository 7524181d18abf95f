"""What is written can be read by those whom the umask lets; what may not be read is not called missing."""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import malmoi
from malmoi.cli import commands as cli
from malmoi.compare.runner import run_comparison
from malmoi.compare.settings import ComparisonSettings
from malmoi.core.errors import UserError
from malmoi.data.readers import read_documents
from malmoi.show.comparison_report import write_comparison
from malmoi.text.tokenizer import Tokenizer
from malmoi.util import files
from tests.learn.conftest import TINY

GPT = [part for it in (*TINY, "model.heads=2") for part in ("--set", it)]
TUNE = [part for it in ("train.batch=2", "train.steps=2", "train.context=16") for part in ("--set", it)]
WORDS = ("fine", "warm", "good", "dull", "cold", "poor")


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.fixture
def without_privileges() -> Iterator[None]:
    """As root, nothing is denied; on Linux that can be given up for a while."""
    if os.geteuid() != 0:
        yield
        return
    if sys.platform != "linux":
        pytest.skip("root may read everything")
    libc = ctypes.CDLL(None)
    header, before = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, before) == 0
    fewer = (ctypes.c_uint32 * 6)(*before)
    fewer[0] &= ~0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, of the effective ones
    assert libc.capset(header, fewer) == 0
    yield
    assert libc.capset(header, before) == 0


def exit_code(*arguments: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["malmoi", *map(str, arguments)])
        try:
            cli.main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def malmoi_command(*arguments: object) -> None:
    assert exit_code(*arguments) == 0


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def reviews(path: Path) -> Path:
    texts = [(f"number {at} is {WORDS[at % 6]}", at % 6) for at in range(90)]
    return write(path, [{"text": text, "label": "bad" if of > 2 else "good"} for text, of in texts])


def everything(folder: Path, corpus: Path) -> None:
    """The outputs of every command that trains, measures or converts."""
    labelled, model, gguf = reviews(folder / "reviews.jsonl"), folder / "gpt", folder / "a" / "b" / "gpt.gguf"
    asked = [{"prompt": f"say {word}", "completion": word} for word in WORDS * 2]
    talks = write(folder / "talks.jsonl", asked)
    pairs = [it | {"chosen": it["completion"], "rejected": "no"} for it in asked]
    malmoi_command("pretrain", "gpt-nano", *GPT, "--data", corpus, "--out", model)
    malmoi_command("pretrain", "ngram", "--data", corpus, "--out", folder / "counts")
    malmoi_command("finetune", model, "--lora", *TUNE, "--data", talks, "--out", folder / "tuned")
    preferred = write(folder / "pairs.jsonl", pairs)
    malmoi_command("align", folder / "tuned", *TUNE[:4], "--data", preferred, "--out", folder / "aligned")
    malmoi_command("import", model, "--out", folder / "imported")
    malmoi_command("export", model, "--to", "hf", "--out", folder / "exported")
    malmoi_command("export", model, "--to", "gguf", "--out", gguf)
    malmoi_command("inside", model, "a goose", "--out", folder / "inside")
    malmoi_command("tokenizer", "train", corpus, "--vocab-size", 300, "--out", folder / "tokenizer")
    fitted = ["fit", "classification", "--method", "tfidf", "--train", labelled, "--out", folder / "fitted"]
    malmoi_command(*fitted)
    settings = ComparisonSettings(
        task="classification", train=labelled, methods={"tfidf": {}, "lexicon": {}}, measure_seconds=0.001
    )
    write_comparison(run_comparison(settings, folder / "compared", isolated=False))


@pytest.mark.parametrize("mask", [0o022, 0o027])
def test_every_output_honours_the_umask(mask: int, corpus: Path, tmp_path: Path) -> None:
    with umask(mask):
        place = tmp_path / "outputs"
        place.mkdir()
        everything(place, corpus)
    found = list(place.rglob("*"))
    names = {path.name for path in found}
    assert {"model.safetensors", "adapter_model.safetensors", "state.safetensors", "winner"} <= names
    assert {"gpt.gguf", "index.html", "report.html", "fit.json", "tokens.bin"} <= names
    modes = {str(path.relative_to(place)): path.stat().st_mode & 0o777 for path in found}
    wrong = {
        name: oct(mode) for name, mode in modes.items()
        if mode != (0o777 if (place / name).is_dir() else 0o666) & ~mask
    }  # fmt: skip
    assert not wrong


@pytest.fixture(scope="module")
def made(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    malmoi_command("pretrain", "gpt-nano", *GPT, "--data", corpus, "--out", folder / "gpt")
    labelled = reviews(folder / "reviews.jsonl")
    malmoi_command(
        "fit", "classification", "--method", "tfidf", "--train", labelled, "--out", folder / "fitted"
    )
    return folder


@contextmanager
def closed(path: Path) -> Iterator[None]:
    mode = path.stat().st_mode
    path.chmod(0)
    try:
        yield
    finally:
        path.chmod(mode)


@pytest.mark.usefixtures("without_privileges")
@pytest.mark.parametrize(
    ("name", "open_it"),
    [
        ("gpt/model.safetensors", lambda root: malmoi.load(root / "gpt")),
        ("gpt/config.json", lambda root: malmoi.load(root / "gpt")),
        ("gpt/tokenizer.json", lambda root: malmoi.load(root / "gpt")),
        ("gpt", lambda root: malmoi.load(root / "gpt")),
        ("", lambda root: malmoi.load(root / "gpt")),
        ("gpt/tokenizer.json", lambda root: Tokenizer.load(root / "gpt")),
        ("gpt", lambda root: Tokenizer.load(root / "gpt")),
        ("fitted/model.safetensors", lambda root: malmoi.load(root / "fitted")),
        ("fitted", lambda root: malmoi.load(root / "fitted")),
        ("gpt/tokens", lambda root: list(read_documents(root / "gpt"))),
        ("", lambda root: list(read_documents(root / "reviews.jsonl"))),
        ("reviews.jsonl", lambda root: list(read_documents(root / "reviews.jsonl"))),
    ],
)  # fmt: skip
def test_what_may_not_be_read_is_not_called_missing(
    name: str, open_it: Callable[[Path], object], made: Path
) -> None:
    with closed(made / name), pytest.raises(UserError, match=r"cannot be read \(permission denied\)"):
        open_it(made)


@pytest.mark.usefixtures("without_privileges")
def test_the_command_line_says_so_too(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = made / "lines.txt"
    lines.write_text("number 1 is fine\n")
    for path, verb in (
        (made / "gpt" / "model.safetensors", "complete"),
        (lines, "predict"),
        (made, "predict"),
    ):
        folder = made / ("gpt" if verb == "complete" else "fitted")
        with closed(path):
            assert exit_code(verb, folder, lines) == 2
        said = capsys.readouterr().err
        assert "permission denied" in said.lower()
        assert said.count("\n") == 1
        assert "exist" not in said


@pytest.mark.usefixtures("without_privileges")
def test_a_folder_that_is_closed_is_reported_from_one_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is no folder to write to"):
        files.check_folder(tmp_path / "file" / "out")
    with closed(tmp_path), pytest.raises(UserError, match="permission denied"):
        files.check_folder(tmp_path / "out")


def test_what_is_missing_is_called_missing(tmp_path: Path) -> None:
    assert files.unreadable(tmp_path) == files.unreadable(Path(__file__)) == ""
    assert files.unreadable(tmp_path / "none") == "does not exist"
    assert files.unreadable(tmp_path / ("n" * 300)) == "does not exist"
