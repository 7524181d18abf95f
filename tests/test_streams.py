"""Commands on a Korean console, on one that knows ASCII only, in broken pipes, with closed streams."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from malmoi.compare import runner as run
from malmoi.compare.worker import MethodJob
from malmoi.methods.folder import save_method
from malmoi.methods.registry import make_method
from malmoi.tasks import make_task
from malmoi.util.streams import json_line, prepare_streams

MALMOI = f"{sys.executable} -c 'from malmoi.cli.commands import main; main()'"
LETTERS = "거위 €10 ─ █ 🦆"
ROWS = [{"text": f"{LETTERS} {n}", "label": ("좋아 €", "싫어 █")[n % 2]} for n in range(60)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """rows.jsonl, a text, and a method that is fitted to the rows."""
    folder = tmp_path_factory.mktemp("streams")
    lines = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    (folder / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "text.txt").write_text("\n".join(row["text"] for row in ROWS), encoding="utf-8")
    task = make_task("classification")
    examples = task.load(folder / "rows.jsonl")
    lexicon = make_method("lexicon", task)
    lexicon.fit(examples, examples)
    save_method(folder / "fitted", lexicon)
    return folder


def shell(command: str, place: Path, encoding: str = "") -> tuple[int, bytes, bytes]:
    """Exit code, output and errors of a shell's line in which `malmoi` stands for the command."""
    environment = os.environ | ({"PYTHONIOENCODING": encoding} if encoding else {})
    line = command.replace("malmoi", MALMOI)
    found = subprocess.run(
        ["bash", "-c", line], cwd=place, env=environment, capture_output=True, check=False, timeout=300
    )
    for said in (found.stdout, found.stderr):
        assert b"Traceback" not in said
        assert b"Exception ignored" not in said
    return found.returncode, found.stdout, found.stderr


@pytest.mark.parametrize(
    ("encoding", "command"),
    [("cp949", "malmoi --help"), ("cp949", "malmoi data preview text.txt"), ("ascii", "malmoi fit --help"),
     ("cp949", f"malmoi predict fitted '{LETTERS}'"), ("ascii", "malmoi data check text.txt"),
     ("ascii", "malmoi predict fitted text.txt")],
)  # fmt: skip
def test_any_terminal_will_do(encoding: str, command: str, place: Path) -> None:
    code, output, _ = shell(command, place, encoding)
    assert code == 0
    assert output


def test_a_comparison_reads_whatever_its_workers_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "cp949")
    monkeypatch.setattr(run, "WORKER", ("-c", f"print({LETTERS!r})"))
    said: list[str] = []
    run._in_process(MethodJob(tmp_path, "lexicon"), "fit", said.append)
    assert said == [LETTERS]


def test_errors_are_one_line_on_any_terminal(place: Path) -> None:
    code, _, errors = shell("malmoi predict fitted €█.txt", place, "ascii")
    assert (code, errors.count(b"\n")) == (2, 1)


def test_a_closed_input_is_one_line(place: Path) -> None:
    code, _, errors = shell("malmoi predict fitted - <&-", place)
    assert (code, errors.count(b"\n")) == (2, 1)
    assert errors.startswith(b"malmoi: standard input is closed")


@pytest.mark.parametrize(("closed", "code"), [(">&-", 0), ("<&- >&- 2>&-", 0), ("2>&-", 2)])
def test_closed_outputs_take_nothing(closed: str, code: int, place: Path) -> None:
    asked = place / ("none.txt" if code else "text.txt")
    assert shell(f"malmoi predict fitted {asked} {closed}", place)[0] == code


@pytest.mark.parametrize(
    "command", ["malmoi data preview text.txt --count 60 | head -1",
                "malmoi predict fitted text.txt | head -1", "malmoi predict fitted none.txt 2>&1 | true",
                "malmoi predict fitted text.txt > /dev/full; test $? = 2"],
)  # fmt: skip
def test_a_pipe_that_nobody_reads_and_a_full_disk_leave_no_trace(command: str, place: Path) -> None:
    assert shell(command, place)[0] == 0


def test_bytes_that_are_no_text_are_one_line(place: Path) -> None:
    code, _, errors = shell("malmoi inside fitted $'\\xff' --out pictures", place)
    assert (code, errors.count(b"\n")) == (2, 1)


def test_what_cannot_be_shown_is_drawn_plainly_or_spelled() -> None:
    prepare_streams()
    text = "┏━┓│ 42% █▓░ 거위 … é 🦆"
    assert text.encode("ascii", "malmoi.plain") == (b"+-+| 42% ##. \\uac70\\uc704 ... \\xe9 \\U0001f986")
    assert text.encode("cp949", "malmoi.plain").decode("cp949").endswith(r"거위 … \xe9 \U0001f986")


@pytest.mark.parametrize("encoding", ["ascii", "cp949", "utf-8"])
def test_json_stays_json_and_the_same_value_on_any_terminal(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = {"input": f"{LETTERS} · “x”", "prediction": ["A·B", "🦆"]}
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    line = json_line(value)
    stream.write(line)
    assert json.loads(line) == value
    assert ("🦆" in line) == (encoding == "utf-8")
