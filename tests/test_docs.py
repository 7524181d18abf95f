"""What the documentation names must exist, and what it says to type must work."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import socket
import sys
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from malmoi.cli import commands as cli
from malmoi.core.nouns import Finding
from malmoi.demo import language_models, material, story
from malmoi.inside import scaling_bench as bench
from malmoi.methods.registry import methods_for
from malmoi.serve.server import Server
from malmoi.tasks import TASKS, make_task, write_samples
from malmoi.world import documents
from tests.methods.tiny import write_model

ROOT = Path(__file__).parents[1]
SYMBOLS = sorted(
    {
        found
        for page in (ROOT / "docs").glob("*.md")
        for found in re.findall(r"`(malmoi[\w.]*:\w+)`", page.read_text())
    }
)
README = (ROOT / "README.md").read_text(encoding="utf-8")
FORMATS = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
ROAD = (ROOT / "docs" / "road.md").read_text(encoding="utf-8")


def commands(page: str) -> list[list[str]]:
    """The words of each command that a page says to type, in order."""
    blocks = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    return [words for words in lines if words]


QUICK = {  # what keeps a command of the road short in a test
    "plan": ["--methods", "lexicon"],
    "pretrain": ["--set", "train.steps=4", "--set", "train.batch=2", "--set", "train.eval_tokens=512"],
    "demo": ["--quick"],
    "compare": ["--methods", "tfidf,lexicon", "--test-limit", "20"],
    "compare --model": ["--methods", "tfidf,prompted", "--test-limit", "8"],
    "finetune": ["--set", "train.steps=2", "--set", "train.batch=2"],
    "align": ["--set", "train.steps=2", "--set", "train.batch=2"],
    "chat": ["--max-tokens", "8"],
    "serve": ["--port", "0", "--no-page"],
    "probe": ["--count", "4"],
    "cascade": ["--max-error", "0.9"],
}
QUICKER = (  # than --quick, for a test need not learn anything
    (story, "QUICK", replace(story.QUICK, models_s=4.0, network_s=0.3, rows=120, test_rows=12, pairs=4)),
    (material, "SETTINGS", (*material.SETTINGS, "train.eval_tokens=2048")),
    (language_models, "FINAL_EVAL_TOKENS", 2048),
    (bench, "QUICK", bench.Size((32, 64), recall_steps=2, read_steps=2, documents=20)),
)


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
    targets = [words[1] for words in commands(README) if words[0] == "make"]
    assert {"demo", "test"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    assert re.search(r"^demo:.*\n\t.*malmoi demo$", makefile, re.MULTILINE)
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("make test")


def test_the_order_of_imports_is_the_enforced_one() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    order = " -> ".join(contracts[0]["layers"]).replace("malmoi.", "")
    assert f"`{order}`" in " ".join((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split())


@pytest.mark.parametrize("name", TASKS)
def test_the_methods_of_the_road_are_the_tasks(name: str) -> None:
    task = make_task(name)
    listed = ", ".join(f"`{method}`" for method in methods_for(task))
    assert f"| `{name}` | {listed} | `{task.primary}` |" in ROAD
    assert {"rnn", "gru"} <= {*methods_for(task, all_known=True)}


@pytest.mark.parametrize("name", TASKS)
def test_formats_names_every_field(name: str) -> None:
    row = next(line for line in FORMATS.splitlines() if line.startswith(f"| `{name}` |"))
    for role, others in TASKS[name].roles.items():
        assert all(f"`{field}`" in row for field in (role, *others))


@pytest.mark.parametrize("name", TASKS)
def test_the_examples_of_formats_are_read(name: str, tmp_path: Path) -> None:
    """Each block is a file of the kind that it says it is, and every line of it is an example."""
    section = re.search(rf"^### {name}\n(.*?)^##", FORMATS, re.DOTALL | re.MULTILINE)
    assert section
    blocks = re.findall(r"```(\w+)\n(.*?)```", section[1], re.DOTALL)
    assert blocks[0][0] == "jsonl"
    assert re.search("[가-힣]", blocks[0][1])
    for number, (extension, text) in enumerate(blocks):
        path = tmp_path / f"{number}.{extension}"
        path.write_text(text, encoding="utf-8")
        findings: list[Finding] = []
        found = make_task(name).read(path, findings.append)
        assert not findings
        lines = text.count("\n") - (extension == "csv")  # which begins with its columns
        assert len(found) == (1 if extension in ("conll", "json") else lines)


def write_a_readers_files(folder: Path) -> None:
    """The files that the road's commands take as the reader's own."""
    (folder / "YOUR_TEXTS").mkdir()
    for number, document in enumerate(documents(300)):
        (folder / "YOUR_TEXTS" / f"{number}.txt").write_text(document.text, encoding="utf-8")
    write_samples(folder / "YOUR_REVIEWS.jsonl", "classification", documents(2000), 300)
    write_samples(folder / "MORE_REVIEWS.jsonl", "classification", documents(500, split="valid"), 40)
    write_samples(folder / "YOUR_NAMES.jsonl", "ner", documents(60))
    write_samples(folder / "YOUR_CHATS.jsonl", "chat", documents(300), 60)
    unlabelled = [document.text for document in documents(1000, split="test") if document.sentiment]
    (folder / "YOUR_UNLABELLED.txt").write_text("\n".join(unlabelled[:60]), encoding="utf-8")
    pairs = [
        {"prompt": asked.input, "chosen": asked.target.text, "rejected": "?"}
        for document in documents(40)
        for asked in document.questions
    ]
    lines = (json.dumps(pair, ensure_ascii=False) for pair in pairs)
    write_model(folder / "YOUR_MODEL", chat=False)
    (folder / "YOUR_PREFERENCES.jsonl").write_text("\n".join(lines), encoding="utf-8")


def serve_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `malmoi serve` stop once it has answered."""
    run = Server.run

    def visited(server: Server, sockets: list[socket.socket]) -> None:
        host, port = sockets[0].getsockname()[:2]

        def visit() -> None:
            try:
                while not server.started:
                    time.sleep(0.05)
                found = httpx.get(f"http://{host}:{port}/v1/models", timeout=60).raise_for_status()
                assert found.json()["data"]
            finally:
                server.stop()

        visitor = ThreadPoolExecutor(1)
        done = visitor.submit(visit)
        run(server, sockets=sockets)
        done.result()

    monkeypatch.setattr(Server, "run", visited)


def test_the_readme_shows_a_part_of_the_road() -> None:
    """In its order, on one screen; so what it says to type is run where the road is."""
    short, road = commands(README), commands(ROAD)
    shown = [words for words in short if words[0] == "malmoi"]
    assert shown == [words for words in road if words in shown]
    assert 6 <= len(shown) <= 10


def test_the_commands_of_the_road_and_the_readmes_python_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In order, in one folder, as a reader would; the demo among them is a very quick one."""
    monkeypatch.chdir(tmp_path)
    for module, name, value in QUICKER:
        monkeypatch.setattr(module, name, value)
    write_a_readers_files(tmp_path)
    serve_for_a_moment(monkeypatch)
    ran: set[str] = set()
    for words in commands(ROAD):
        assert words[0] == "malmoi", words
        verb = " ".join(words[1:2] + (["--model"] if "--model" in words else []))
        short = [] if "ngram" in words else QUICK.get(verb, [])
        monkeypatch.setattr(sys, "argv", [*words, *short])
        assert exit_code() == 0, (words, capsys.readouterr().err)
        ran.add(words[1])
    assert ran >= {"demo", "pretrain", "complete", "fit", "predict", "evaluate", "compare"}
    assert ran >= {"finetune", "align", "chat", "distill", "serve", "inside", "probe", "import", "export"}
    for page in ("demo", "my-comparison"):
        assert "<svg" in (tmp_path / page / "report.html").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(block, {})
