"""The verb `finetune`, as it is typed and as it speaks."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from malmoi.learn.tuned import ADAPTER
from malmoi.show import terminal
from malmoi.util.files import read_json
from tests.cli import test_cli
from tests.cli.test_cli import Run, fails
from tests.learn.test_finetune import TINY, WORDS, rows, save_base, write

run = test_cli.run
SETTINGS = [part for setting in TINY for part in ("--set", setting)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("models") / "base")


def test_a_preview_makes_nothing(run: Run, base: Path, tmp_path: Path) -> None:
    long = {"prompt": "긴 " * 80, "completion": "short"}
    data = write(tmp_path / "rows.jsonl", [*rows(), long])
    command = ("finetune", base, "--data", data, "--out", tmp_path / "out")
    fails(run(*command, "--preview"), f"{data}:37: the conversation takes", "--allow-skips")
    code, out, _ = run(*command, "--preview", "--allow-skips")
    assert code == 0
    assert "<|user|>say goose<|end|><|assistant|>goose<|end|>" in out
    assert "바다" in out
    assert "34 conversations of" in out
    assert "1 left out" in out
    assert not (tmp_path / "out").exists()


def test_what_is_learned_is_green(monkeypatch: pytest.MonkeyPatch, base: Path, tmp_path: Path) -> None:
    from malmoi.learn.objectives.conversations import preview
    from malmoi.learn.run_config import load_tuning

    data = write(tmp_path / "rows.jsonl", rows())
    shown = terminal.Console(force_terminal=True, color_system="standard", width=60)
    monkeypatch.setattr(terminal, "console", shown)
    with shown.capture() as captured:
        terminal.show_rows(*preview(load_tuning(base, [str(data)], [], []), count=1))
    assert "\x1b[2m<|user|>\x1b[0m\x1b[2msay goose\x1b[0m\x1b[2m<|end|><|assistant|>\x1b[0m" in captured.get()
    assert "\x1b[1;32mgoose\x1b[0m\x1b[1;32m<|end|>\x1b[0m" in captured.get()


@pytest.mark.parametrize("lora", [False, True])
def test_it_tunes_and_says_what_it_does(run: Run, base: Path, tmp_path: Path, lora: bool) -> None:
    labelled = [{"text": f"{word} {n}", "mood": "ab"[n % 2]} for n, word in enumerate(WORDS)]
    data = [write(tmp_path / "rows.jsonl", rows()), write(tmp_path / "labelled.jsonl", labelled)]
    out = tmp_path / "out"
    command = (
        "finetune", base, "--data", data[0], "--data", f"classification={data[1]}@0.5",
        "--fields", "label=mood", "--out", out, *SETTINGS, "--allow-skips", *(["--lora"] if lora else []),
    )  # fmt: skip
    code, said, error = run(*command)
    assert code == 0, error
    assert "parameters learn" in said
    assert ("LoRA of rank 8" in said) == lora
    assert "step 9/9  loss" in said
    assert "it ended its turn in" in said
    assert f"talk with it: malmoi chat {out}" in said
    assert (out / ADAPTER).is_dir() == lora
    assert len(read_json(out / "run.json")["data"]) == 2
    code, said, _ = run(*command, "--resume")
    assert (code, "is finished" in said) == (0, True)
    fails(run(*command), "already holds a run")


def test_few_ended_turns_are_warned_of(
    run: Run, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(tmp_path / "rows.jsonl", rows())
    command = ("finetune", base, "--data", data, *SETTINGS)
    for ended, warned in ((15, True), (16, False)):
        monkeypatch.setattr(
            "malmoi.learn.objectives.conversations.replies_ended", lambda *_, ended=ended: (ended, 20)
        )
        code, said, _ = run(*command, "--out", tmp_path / str(ended))
        assert code == 0
        assert f"in {ended} of 20 replies" in said
        assert ("which is few" in said) == warned


def test_ctrl_c_ends_it_and_resume_goes_on(
    run: Run, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(tmp_path / "rows.jsonl", rows())
    command = ("finetune", base, "--data", data, "--out", tmp_path / "out", *SETTINGS)
    show = terminal.Watch.show

    def press(watch: terminal.Watch, report: Any) -> None:
        show(watch, report)
        if report.step == 4:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(terminal.Watch, "show", press)
    code, said, _ = run(*command)
    assert code == 130
    assert "saved at step 4" in said
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        ([], (), "holds no example"),
        ([{"messages": [{"role": "user", "content": "a"}]}], (), "the last turn is not the assistant's"),
        (rows(), ("--set", "train.epoks=1"), "did you mean 'epochs'"),
        (rows(), ("--set", "lora.rank=2"), "no effect without --lora"),
        (rows(), ("--set", "lora.base=int4"), "no effect without --lora"),
        (rows(), ("--lora", "--set", "lora.base=stored"), "take int8 or int4"),
        (rows(), ("--fields", "label=mood"), "conversations have no fields"),
        (rows(), ("--data", "sumarization=x.jsonl"), "did you mean 'summarization'"),
        (rows(), ("--valid", "none.jsonl"), "none.jsonl"),
        (rows(), ("--budget", "9", "--set", "train.steps=2"), "give one of them"),
    ],
)
def test_a_mistake_is_one_line(
    content: list[Any], options: tuple[str, ...], said: str, run: Run, base: Path, tmp_path: Path
) -> None:
    data = write(tmp_path / "rows.jsonl", content)
    fails(run("finetune", base, "--data", data, "--out", tmp_path / "out", *options), said)
    assert not (tmp_path / "out").exists()
