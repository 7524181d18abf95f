"""What the documentation names must exist, and what the README says to type must work."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest

from malmoi import cli
from malmoi.data.world import documents

ROOT = Path(__file__).parents[1]
SYMBOLS = sorted(
    {
        found
        for page in (ROOT / "docs").glob("*.md")
        for found in re.findall(r"`(malmoi[\w.]*:\w+)`", page.read_text())
    }
)
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]
QUICK = {  # what keeps a command of the README short in a test
    "pretrain": ["--set", "train.steps=4", "--set", "train.batch=2", "--set", "train.eval_tokens=512"],
    "demo": ["--quick"],
}


def exit_code() -> int:
    """Of the command line, run in this process."""
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_every_symbol_exists(symbol: str) -> None:
    module, name = symbol.split(":")
    assert hasattr(importlib.import_module(module), name)


def test_links_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_make_knows_the_readmes_targets() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = [command.split()[1] for command in COMMANDS if command.startswith("make ")]
    assert {"demo", "test"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    assert re.search(r"^demo:.*\n\t.*malmoi demo$", makefile, re.MULTILINE)
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("make test")


def test_the_readmes_commands_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In order, in one folder, as a reader would; the demo among them is the quick one."""
    monkeypatch.chdir(tmp_path)
    texts = tmp_path / "YOUR_TEXTS"
    texts.mkdir()
    for number, document in enumerate(documents(300)):
        (texts / f"{number}.txt").write_text(document.text, encoding="utf-8")
    ran = 0
    for command in COMMANDS:
        words = shlex.split(command, comments=True)
        if not words or words[0] == "make":
            continue
        if words[0] != "malmoi":
            assert words[0] in ("git", "cd", "pip", ".", "source"), command
            continue
        short = [] if "ngram" in words else QUICK.get(words[1], [])
        monkeypatch.setattr(sys, "argv", [*words, *short])
        assert exit_code() == 0, (command, capsys.readouterr().err)
        ran += 1
    assert ran >= 5
    assert "<svg" in (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")


def test_the_readmes_python_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus: Path) -> None:
    from .train.conftest import tiny, train

    monkeypatch.chdir(tmp_path)
    train(tiny(), corpus, tmp_path / "my-model")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(block, {})
