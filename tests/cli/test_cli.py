from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import malmoi
from malmoi.cli import commands as cli
from malmoi.cli.words import with_flags
from tests.learn.conftest import TINY

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `malmoi ARGUMENTS`; returns exit code, standard output and standard error."""

    def go(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["malmoi", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    return go


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.learn.conftest import tiny, train

    folder = tmp_path_factory.mktemp("models") / "gpt"
    train(tiny(), corpus, folder)
    return folder


def settings(*more: str) -> list[str]:
    return [part for item in (*TINY, "model.heads=2", *more) for part in ("--set", item)]


def fails(found: tuple[int, str, str], *words: str) -> None:
    """One line on standard error that holds the words, no traceback, exit code 2."""
    code, _, errors = found
    assert code == 2, errors
    assert errors.count("\n") == 1, errors
    assert "Traceback" not in errors
    for word in words:
        assert word in errors


def test_version_and_help(run: Run) -> None:
    assert run("--version") == (0, f"malmoi {malmoi.__version__}\n", "")
    code, out, _ = run("--help")
    assert code == 0
    for verb in ("doctor", "pretrain", "complete", "demo", "data", "tokenizer"):
        assert verb in out


def test_help_loads_nothing_heavy() -> None:
    heavy = {"torch", "numpy", "matplotlib", "rich.table"}
    program = f"import sys, malmoi.cli; print({heavy} & {{*sys.modules}})"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_doctor_names_the_machine(run: Run) -> None:
    code, out, _ = run("doctor")
    assert code == 0
    for name in ("processor", "fast bf16", "AMX", "own kernels", "device", "memory limit", "torch"):
        assert re.search(rf"^{name} +\S", out, re.MULTILINE), name


def test_pretrain_then_complete(run: Run, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    code, said, errors = run("pretrain", "gpt-nano", "--data", corpus, "--out", out, *settings())
    assert code == 0, errors
    for word in ("parameters", "tokens/s", "MFU", "bits/byte", "valid", "expected"):
        assert word in said
    code, said, _ = run("complete", out, "거위", "--max-tokens", 5, "--seed", 1)
    assert code == 0
    assert said.startswith("거위")
    assert run("complete", out, "거위", "--max-tokens", 5, "--seed", 1)[1] == said
    code, said, _ = run("pretrain", "gpt-nano", "--data", corpus, "--out", out, "--resume", *settings())
    assert code == 0
    assert "finished" in said


def test_a_dry_run_does_not_stand_in_the_way(run: Run, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "m"
    arguments = ("pretrain", "gpt-nano", "--data", corpus, "--out", out, *settings())
    assert run(*arguments, "--dry-run")[0] == 0
    code, _, errors = run(*arguments, "--set", "tokenizer.kind=character")
    assert code == 0, errors
    assert len(malmoi.load(out).tokenizer.encode("거위")) == 2  # the dry run's tokens were bytes


def test_other_peoples_files_are_not_overwritten(run: Run, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    fails(run("pretrain", "gpt-nano", "--data", corpus, "--out", tmp_path, *settings()), "not a run's")
    assert (tmp_path / "README.md").read_text() == "mine"
    (tmp_path / "tokenizer.json").write_text("{}")
    fails(run("tokenizer", "train", corpus, "--out", tmp_path), "tokenizer.json", "--out")


def test_settings_without_effect_are_refused(run: Run, corpus: Path, tmp_path: Path) -> None:
    arguments = ("--data", corpus, "--out", tmp_path / "m")
    fails(run("pretrain", "ngram", *arguments, "--set", "train.steps=5"), "train.steps", "counted")
    chosen = ("--set", "tokenizer.path=x", "--set", "tokenizer.kind=byte")
    fails(run("pretrain", "gpt-nano", *arguments, *chosen), "tokenizer.kind", "tokenizer.path")
    fails(run("pretrain", "ngram", *arguments, "--set", "model.ordr=4"), "model.ordr", "'order'")
    fails(run("pretrain", "ngram", *arguments, "--set", "model.order=abc"), "model.order")
    fails(run("pretrain", "gpt-nano", *arguments, "--set", "train.betas=[0.9,1.0]"), "train.betas")


def test_divergence_is_one_line_and_saves_nothing(
    run: Run, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from malmoi.learn import loop

    real = loop.compute_loss

    def explode(model: torch.nn.Module, *rest: object) -> object:
        loss = real(model, *rest)  # type: ignore[arg-type]
        return replace(loss, sum=loss.sum * float("inf")) if model.training else loss

    monkeypatch.setattr(loop, "compute_loss", explode)
    out = tmp_path / "m"
    code, _, errors = run("pretrain", "gpt-nano", "--data", corpus, "--out", out, *settings())
    assert code == 2
    assert "train.lr" in errors
    assert not list((out / "checkpoints").glob("*"))


@pytest.mark.parametrize("context", [1, 2, 8])
@pytest.mark.parametrize("prompt", [[], ["--set", 'train.sample_prompt="a very long prompt indeed"']])
def test_samples_fit_any_context(
    run: Run, corpus: Path, tmp_path: Path, prompt: list[str], context: int
) -> None:
    arguments = ("--data", corpus, "--out", tmp_path / "m", *settings(f"train.context={context}"), *prompt)
    code, _, errors = run("pretrain", "gpt-nano", *arguments)
    assert code == 0, errors


def test_standard_input_that_is_not_utf8(run: Run, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("거위".encode("cp949"))))
    fails(run("complete", trained, "-"), "UTF-8", "looks like cp949")


def test_dry_run_trains_nothing(run: Run, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    code, said, _ = run("pretrain", "gpt-nano", "--data", corpus, "--out", out, "--dry-run", *settings())
    assert code == 0
    assert "expected" in said
    assert not (out / "model.safetensors").exists()
    assert not (out / "checkpoints").exists()


def test_resume_without_a_checkpoint_starts_fresh(run: Run, corpus: Path, tmp_path: Path) -> None:
    found = run("pretrain", "gpt-nano", "--data", corpus, "--out", tmp_path / "m", "--resume", *settings())
    assert found[0] == 0
    assert "starts fresh" in found[1]


def test_size_prints_what_it_stands_for(run: Run, corpus: Path, tmp_path: Path) -> None:
    found = run(
        "pretrain", "lstm-micro", "--size", "nano", "--data", corpus, "--out", tmp_path / "m", "--dry-run",
        "--set", "tokenizer.kind=byte",
    )  # fmt: skip
    assert found[0] == 0
    assert "model.width=128" in found[1]


def test_ngram_from_the_command_line(run: Run, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "m"
    code, said, _ = run("pretrain", "ngram", "--data", corpus, "--out", out, "--set", "model.order=3")
    assert code == 0
    assert "bits/byte" in said
    assert run("complete", out, "goose", "--max-tokens", 3)[0] == 0


def test_complete_options(run: Run, trained: Path) -> None:
    options = ("-n", 2, "--max-tokens", 3, "--logprobs", 2)
    code, said, _ = run("complete", trained, "goose", *options)
    assert code == 0
    assert "--- 2" in said
    assert len(re.findall(r"\d%", said)) in range(2 * 3, 2 * 3 * 3 + 1, 3)  # fewer where a text ends early


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--temperature", -1], ["temperature", "0 is greedy"]),
        (["--top-p", 0], ["top_p"]),
        (["-n", 0], ["n is 0"]),
        (["--max-tokens", 0], ["max_tokens"]),
    ],
)
def test_bad_sampling_is_one_line(run: Run, trained: Path, arguments: list[object], words: list[str]) -> None:
    found = run("complete", trained, "goose", *arguments)
    fails(found, *words)
    assert found[1] == ""


def test_a_prompt_longer_than_the_context(run: Run, trained: Path) -> None:
    fails(run("complete", trained, "goose " * 50), "context")


def test_an_empty_prompt(run: Run, trained: Path) -> None:
    fails(run("complete", trained, ""), "empty")


def test_a_folder_that_is_no_model(run: Run, tmp_path: Path) -> None:
    fails(run("complete", tmp_path, "goose"), "config.json")
    fails(run("complete", tmp_path / "none", "goose"), "not a folder")


def test_unknown_recipe_and_key(run: Run, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "m"
    fails(run("pretrain", "gtp-nano", "--data", corpus, "--out", out), "gpt-nano")
    fails(run("pretrain", "gpt-nano", "--data", corpus, "--out", out, "--set", "train.step=1"), "steps")
    assert not out.exists()


def test_where_there_is_no_lstm_in_bf16_it_is_in_fp32_and_a_line_says_so(
    run: Run, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from malmoi.models import cells

    monkeypatch.setattr(cells, "has_bf16_lstm", lambda: False)
    small = [part for change in ("train.dtype=bf16", *TINY) for part in ("--set", change)]
    code, out, errors = run("pretrain", "lstm-nano", "--data", corpus, "--out", tmp_path / "m", *small)
    assert code == 0, errors
    assert "bf16 (LSTM layers in fp32: this processor has none in bf16)" in " ".join(out.split())


@pytest.mark.parametrize("content", ["missing", "empty", "folder", "binary", "latin"])
def test_bad_texts(run: Run, tmp_path: Path, content: str) -> None:
    data, out = tmp_path / "text.txt", tmp_path / "m"
    if content == "empty":
        data.write_text("")
    elif content == "folder":
        data.mkdir()
    elif content == "binary":
        data.write_bytes(bytes(range(256)) * 40)
    elif content == "latin":
        data.write_bytes("a café\n".encode("latin-1") * 100)
    found = run("pretrain", "gpt-nano", "--data", data, "--out", out, *settings())
    fails(found, str(data))
    if content == "latin":
        fails(found, "0xe9", "5", "--errors replace")


def test_errors_replace_goes_on(run: Run, tmp_path: Path) -> None:
    data = tmp_path / "text.txt"
    data.write_bytes("a café by the mill\n".encode("latin-1") * 100)
    found = run(
        "pretrain", "gpt-nano", "--data", data, "--out", tmp_path / "m", "--errors", "replace", *settings()
    )
    assert found[0] == 0, found[2]


def test_a_broken_line_is_named(run: Run, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text('{"text": "one"}\n{"text": \n{"text": "three"}\n')
    fails(run("pretrain", "gpt-nano", "--data", data, "--out", tmp_path / "m"), f"{data}:2")


def test_a_full_disk_is_one_line(
    run: Run, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from malmoi.hub import weights

    real, calls = weights.save_file, []

    def full_the_second_time(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(weights, "save_file", full_the_second_time)
    out = tmp_path / "m"
    command = ("pretrain", "gpt-nano", "--data", corpus, "--out", out, *settings())
    fails(run(*command), "No space left")
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000002"]
    monkeypatch.undo()
    assert run(*command, "--resume")[0] == 0
    assert (out / "model.safetensors").exists()


def test_data_verbs(run: Run, corpus: Path, trained: Path, tmp_path: Path) -> None:
    code, said, _ = run("data", "stats", corpus, "--tokenizer", trained, "--context", 8)
    assert code == 0
    for word in ("documents", "Hangul", "UTF-8", "over 8 tokens"):
        assert word in said
    code, said, _ = run("data", "preview", corpus, "--count", 1, "--tokens", 8)
    assert code == 0
    assert "8 tokens shown, 8 of them trained" in said
    broken = tmp_path / "rows.jsonl"
    broken.write_text('{"text": "one"}\n{"txt": "two"}\n' + '{"text": "three"}\n' * 3)
    code, said, _ = run("data", "check", broken)
    assert code == 1
    assert f"{broken}:2" in said
    assert run("data", "check", tmp_path / "none")[0] == 2


def test_tokenizer_verbs(run: Run, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "tokenizer"
    code, said, _ = run("tokenizer", "train", corpus, "--kind", "unigram", "--vocab-size", 200, "--out", out)
    assert code == 0
    assert (out / "tokenizer.json").exists()
    found = run(
        "pretrain", "gpt-nano", "--data", corpus, "--out", tmp_path / "m", "--dry-run",
        "--set", f"tokenizer.path={out}",
    )  # fmt: skip
    learned = re.search(r"unigram, (\d+) tokens", said)
    assert learned
    assert f"vocabulary {learned[1]}" in found[1]
    picture = tmp_path / "kinds.png"
    code, said, _ = run("tokenizer", "compare", corpus, "--vocab-size", 300, "--out", picture)
    assert code == 0
    for kind in ("word", "character", "byte", "bpe", "unigram", "wordpiece"):
        assert kind in said
    assert picture.read_bytes().startswith(b"\x89PNG")
    fails(run("tokenizer", "train", corpus, "--kind", "bpee", "--out", tmp_path / "t"), "bpe")


def test_a_message_shows_our_flags() -> None:
    line = "choose another `out`; `allow_skips` goes on, `max_new` is none of ours"
    assert with_flags(line) == "choose another --out; --allow-skips goes on, `max_new` is none of ours"


def test_a_misspelt_model_that_comes_with_malmoi_is_named(run: Run) -> None:
    code, _, errors = run("chat", "malmoi-nori")
    assert code == 2
    assert "did you mean 'malmoi-noru'" in " ".join(errors.replace("│", " ").split())
