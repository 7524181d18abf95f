"""What every registered objective inherits from the one loop and the one harness, as its command is used."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from malmoi.cli import commands as cli
from malmoi.cli.training import verb_of
from malmoi.cli.words import app
from malmoi.learn import trial
from malmoi.learn.loop import Loop, StepReport
from malmoi.learn.objectives import TRAININGS
from malmoi.learn.objectives.examples import FitPlan
from tests.learn import test_align as pairs
from tests.learn import test_finetune as chats
from tests.learn.conftest import TINY

STEPS = 6
OWN = "backwards"  # the worked example of docs/extending.md, registered by a line
LABELLED = "fit"  # the command of `malmoi.learn.objectives.examples`
Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module", autouse=True)
def own_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the module of the worked example is."""
    folder = tmp_path_factory.mktemp("own")
    page = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
    [block] = [it for it in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "class Backwards(" in it]
    (folder / f"{OWN}.py").write_text(f"from __future__ import annotations\n{block}", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setitem(TRAININGS, OWN, f"{OWN}:Backwards")
        patch.setattr(app, "registered_commands", list(app.registered_commands))
        app.command(OWN)(verb_of(OWN))  # as cli/commands.py does for each line of the table
        yield folder


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> dict[str, list[str]]:
    """A short run of each kind; a new objective needs a line here."""
    folder = tmp_path_factory.mktemp("objectives")
    labelled = [{"text": f"{word} {n}", "label": "ab"[n % 2]} for n, word in enumerate(chats.WORDS * 6)]
    short = [f"train.steps={STEPS}", "train.eval_every=3", "train.checkpoint_every=2", "train.batch=4"]
    fit = ["width=16", "heads=2", "layers=1", "vocab_size=300", "batch=8", "epochs=1.5", "dropout=0"]
    found = {
        "pretrain": ["gpt-nano", "--data", str(corpus), *given([*TINY, "model.heads=2"])],
        "finetune": [
            str(chats.save_base(folder / "base")), "--data",
            str(chats.write(folder / "chats.jsonl", chats.rows())), *given(short),
        ],
        "align": [
            str(pairs.save_chat(folder / "chat")), "--data",
            str(pairs.write(folder / "pairs.jsonl", pairs.rows())), *given(short),
        ],
        OWN: given([f"text={corpus}", *short]),
        LABELLED: [
            "classification", "--method", "transformer", "--train",
            str(chats.write(folder / "labelled.jsonl", labelled)), *given([*fit, "word_dropout=0"]),
        ],
    }  # fmt: skip
    assert found.keys() == {*TRAININGS, LABELLED}
    assert OWN in found
    return {verb: [verb, *rest] for verb, rest in found.items()}


def given(settings: list[str]) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def malmoi(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["malmoi", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        return int(end.value.code or 0), printed.out + printed.err

    return malmoi


@pytest.fixture
def saved_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit as short as these would keep no checkpoint."""
    monkeypatch.setattr(FitPlan, "save_s", 0.0)
    monkeypatch.setattr(FitPlan, "saves_after", lambda _, step: step % 2 == 0)


def again(command: list[str]) -> list[str]:
    """What goes on: a fit is resumed by its own command."""
    return command if command[0] == LABELLED else [*command, "--resume"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same(a: Path, b: Path, **tolerance: float) -> None:
    left, right = weights(a), weights(b)
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], **(tolerance or {"atol": 0, "rtol": 0}))


every_verb = pytest.mark.parametrize("verb", [*TRAININGS, OWN, LABELLED])


@every_verb
@pytest.mark.usefixtures("saved_often")
def test_a_killed_run_ends_with_the_same_weights(
    verb: str, commands: dict[str, list[str]], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, real, begun = commands[verb], Loop[Any, Any].take_step, list[int]()
    assert run(*command, "--out", tmp_path / "whole")[0] == 0
    for stop in (3, 5):

        def killed(loop: Loop[Any, Any], stop: int = stop) -> StepReport:
            begun.append(loop.step)
            if loop.step == stop:
                raise RuntimeError("killed")
            return real(loop)

        monkeypatch.setattr(Loop, "take_step", killed)
        with pytest.raises(RuntimeError, match="killed"):
            run(*again(command), "--out", tmp_path / "parts")
    assert begun == [0, 1, 2, 3, 2, 3, 4, 5]
    monkeypatch.setattr(Loop, "take_step", real)
    assert run(*again(command), "--out", tmp_path / "parts")[0] == 0
    assert_same(tmp_path / "whole", tmp_path / "parts")


@every_verb
def test_ctrl_c_saves(
    verb: str, commands: dict[str, list[str]], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, real, begun = commands[verb], Loop[Any, Any].take_step, list[int]()
    before = signal.getsignal(signal.SIGINT)

    def pressed(loop: Loop[Any, Any]) -> StepReport:
        begun.append(loop.step)
        if len(begun) == 3:
            signal.raise_signal(signal.SIGINT)
        return real(loop)

    monkeypatch.setattr(Loop, "take_step", pressed)
    code, said = run(*command, "--out", tmp_path / "out")
    assert code == 130
    assert "stopped" in said
    assert run(*again(command), "--out", tmp_path / "out")[0] == 0
    assert begun == list(range(len(begun)))
    assert signal.getsignal(signal.SIGINT) is before


@every_verb
def test_little_memory_means_fewer_rows_at_once(
    verb: str, commands: dict[str, list[str]], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, real = dict[str, int](), Loop.__init__

    def seen(loop: Loop[Any, Any], *rest: Any, **more: Any) -> None:
        real(loop, *rest, **more)
        found[name] = loop.micro_rows

    monkeypatch.setattr(Loop, "__init__", seen)
    for name in ("roomy", "tight"):
        if name == "tight":
            monkeypatch.setattr(trial, "memory_limit_bytes", trial.current_memory_bytes)
        assert run(*commands[verb], "--out", tmp_path / name)[0] == 0
    assert found["tight"] == 1 < found["roomy"]
    assert_same(tmp_path / "roomy", tmp_path / "tight", atol=2e-2, rtol=2e-2)


@every_verb
def test_the_card_is_written(verb: str, commands: dict[str, list[str]], run: Run, tmp_path: Path) -> None:
    assert run(*commands[verb], "--out", tmp_path / "out")[0] == 0
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "malmoi" in card
    assert "seed" in card or verb == LABELLED


@every_verb
def test_two_processes_equal_one(
    verb: str, commands: dict[str, list[str]], own_folder: Path, tmp_path: Path
) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(own_folder)!r})\n"
        f"from malmoi.learn.objectives import TRAININGS; TRAININGS[{OWN!r}] = '{OWN}:Backwards'\n"
        "from malmoi.cli.commands import main; main()"
    )
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for start_with, out in ((launcher, "two"), ([sys.executable], "one")):
        found = subprocess.run(
            [*start_with, str(script), *commands[verb], "--out", str(tmp_path / out)],
            env=environment, capture_output=True, check=False, text=True,
        )  # fmt: skip
        assert found.returncode == 0, found.stderr
    assert_same(tmp_path / "one", tmp_path / "two", atol=1e-3, rtol=1e-3)
