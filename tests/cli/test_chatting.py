"""Talking with a model: the command parser, the loop, pipes, and a real terminal."""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from malmoi.cli.chatting import COMMANDS, ChatLoop, meter, parse_command, read_message
from malmoi.core.errors import UserError
from malmoi.engine.session import ChatSession
from malmoi.hub.folder import save_model
from malmoi.models.build import build_model
from malmoi.models.config import RecurrentConfig, TransformerConfig
from malmoi.models.language import LanguageModel
from malmoi.text.chat import ChatFormat
from malmoi.text.tokenizer import train_tokenizer
from tests.cli import test_cli
from tests.cli.test_cli import Run, fails
from tests.engine.scripted import FORM, Scripted, echo, engine
from tests.engine.test_session import Interrupting

run = test_cli.run


@given(
    st.text()
    | st.builds("/{}".format, st.text())
    | st.builds("{} {}".format, st.sampled_from([*COMMANDS]), st.text())
)
def test_no_message_breaks_the_parser(message: str) -> None:
    try:
        found = parse_command(message)
    except UserError:
        assert message.startswith("/")
        return
    assert (found is None) == (not message.startswith("/"))
    assert found is None or found[0] in COMMANDS


@pytest.mark.parametrize(
    ("message", "found"),
    [
        ("/quit", ("/quit", "")),
        ("/quit  ", ("/quit", "")),
        ("/save  my chat.json ", ("/save", "my chat.json")),
        ("/system 짧게\n답해.", ("/system", "짧게\n답해.")),
        ("/system", ("/system", "")),
        (" /quit", None),
        ("뭐/", None),
    ],
)
def test_commands(message: str, found: tuple[str, str] | None) -> None:
    assert parse_command(message) == found


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("/rest", "'/reset'"), ("/시스템", "known: /help"), ("/", "known"), ("/save", "/save chat.json"),
        ("/load ", "file"), ("/reset all", "'all'"),
    ],
)  # fmt: skip
def test_what_is_no_command(message: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_command(message)


def lines(found: Iterable[str | type[BaseException] | None]):
    """A reader of these lines; an exception among them is raised, and the end is the end for good."""
    left = iter(found)

    def read(prompt: str) -> str | None:
        assert prompt
        line = next(left, None)
        if isinstance(line, type):
            raise line
        return line

    return read


@given(st.lists(st.text(alphabet="ab\\ 가", max_size=3)))
def test_a_backslash_joins_lines(found: list[str]) -> None:
    read, messages = lines(found), []
    while (message := read_message(read)) is not None:
        messages.append(message)
    assert (
        "\n".join(messages).split("\n") == [line.removesuffix("\\") for line in found] or not found
    )  # nothing is lost
    ends = [number for number, line in enumerate(found, 1) if not line.endswith("\\")]
    assert len(messages) == len(ends) + (bool(found) and len(found) not in ends)


def test_the_meter() -> None:
    assert meter(132, 256) == "[ctx 132/256 ▓▓▓▓░░░░]"
    assert meter(300, 256) == "[ctx 300/256 ▓▓▓▓▓▓▓▓]"
    assert meter(7, None) == "[ctx 7]"


class Told:
    """What a conversation with a scripted model puts out."""

    def __init__(self, scorer: Scripted, *, terminal: bool = False) -> None:
        self.session = ChatSession(engine(scorer), FORM)
        self.stderr = io.StringIO()
        self.talk = ChatLoop(self.session, Console(file=self.stderr, soft_wrap=True), terminal=terminal)

    def run(self, *found: str | type[BaseException]) -> str:
        """The notes that these lines lead to."""
        at = len(self.stderr.getvalue())
        self.talk.run(lines(found))
        return self.stderr.getvalue()[at:]


def test_replies_go_to_standard_output_and_all_else_to_standard_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = Told(Scripted(context=80))
    notes = told.run("안녕", "", "  ", "go\\", "on", " /help")
    said = capsys.readouterr()
    assert said.out == "".join(echo(text) + "\n" for text in ("안녕", "go\non", "/help"))
    assert said.err == ""
    assert notes.count("[ctx ") == notes.count(" tokens/s") == 3
    assert notes.count("the context is full") == 1
    assert "oldest 2 turns (2 in all)" in notes
    assert len(told.session.messages) == 6


def test_every_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    told, path = Told(Scripted()), tmp_path / "내 chat.json"
    assert all(name in told.run("/help") for name in COMMANDS)
    assert told.run("/system") == "no system prompt\n"
    assert told.run("/system 존댓말로.") == "system: 존댓말로.\n"
    assert "say something first" in told.run("/regenerate")
    told.run("하나", "둘")
    assert "saved" in told.run("/save ~/내 chat.json")
    assert [turn["role"] for turn in json.loads(path.read_text())["messages"]] == [
        "system", *("user", "assistant") * 2,
    ]  # fmt: skip
    assert "[ctx " in told.run("/regenerate")
    assert told.run("/system -") == "no system prompt\n"
    assert "forgotten" in told.run("/reset")
    assert told.session.messages == []
    assert "loaded 5 turns [ctx " in told.run(f"/load {path}")
    assert told.session.system == "존댓말로."
    failures = told.talk.failures
    assert "did you mean '/save'?" in told.run("/sav x", "/load none.json", "/save", "/quit", "never read")
    assert told.talk.failures == failures + 3
    assert len(told.session.messages) == 5


def test_ctrl_c_ends_the_reply_and_twice_at_the_prompt_the_chat(capsys: pytest.CaptureFixture[str]) -> None:
    scorer = Interrupting(lambda _: "abcdef")
    scorer.after = 4
    told = Told(scorer, terminal=True)
    again = KeyboardInterrupt
    notes = told.run("first", again, "second", again, "/system", again, again, "never read")
    assert capsys.readouterr().out.split() == ["abc", "abcdef"]
    assert notes.count("stopped") == 1
    assert notes.count("once more") == 3
    assert [message.content for message in told.session.messages] == ["first", "abc", "second", "abcdef"]


def test_a_pipe_ends_at_ctrl_c() -> None:
    scorer = Interrupting()
    scorer.after = 1
    with pytest.raises(Exception, match="130"):
        Told(scorer).run("first", "never read")


def test_what_a_reply_ended_with_is_reported() -> None:
    assert "no reply, so the message is forgotten" in Told(Scripted(lambda _: "")).run("hi")
    assert "cut at 48 tokens" in Told(Scripted(lambda _: "x" * 99, context=64)).run("a" * 13)


def test_a_terminal_gets_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    for terminal in (True, False):
        Told(Scripted(lambda _: "a\x1b[2J\r\x07\tb\n가"), terminal=terminal).run("hi")
    found = capsys.readouterr().out
    assert found.startswith("a[2J\tb\n가\n")
    assert found.endswith("a\x1b[2J\r\x07\tb\n가\n")


# ---- the verb


def chat_model(folder: Path, family: str, *, template: bool = True) -> Path:
    """Saves a model that never learned to end a turn: greedy, it talks on."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer([], "byte")
    size = tokenizer.vocab_size
    if family == "gpt":
        config = TransformerConfig(vocab_size=size, context=64, layers=1, width=32, heads=2)
    else:
        config = RecurrentConfig(family="lstm", vocab_size=size, layers=1, width=32)
    model = build_model(config)
    assert isinstance(model, LanguageModel)
    with torch.no_grad():
        model.head.weight[sorted(tokenizer.specials.ids)] = 0.0
    if template:
        ChatFormat.for_tuning(tokenizer).adopt()
    save_model(folder, model, tokenizer)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {family: chat_model(root / family, family) for family in ("gpt", "lstm")}


def piped(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))


@pytest.mark.parametrize("family", ["gpt", "lstm"])
def test_once(run: Run, models: dict[str, Path], family: str) -> None:
    code, said, noted = run("chat", models[family], "--once", "안녕?", "--max-tokens", 9, "--seed", 1)
    assert (code, noted) == (0, "")
    assert said.endswith("\n")
    assert said == run("chat", models[family], "--once", "안녕?", "--max-tokens", 9, "--seed", 1)[1]


def test_a_pipe(run: Run, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    saved = tmp_path / "chat.json"
    piped(monkeypatch, f"안녕\r\nhi\n/save {saved}".encode())
    code, said, noted = run("chat", models["lstm"], "--max-tokens", 5, "--system", "짧게", "--seed", 1)
    assert code == 0
    assert "> " not in said + noted
    assert "\x1b" not in said + noted
    assert noted.count("[ctx ") == 2
    assert json.loads(saved.read_text())["messages"][0] == {"role": "system", "content": "짧게"}


def test_a_line_that_cannot_be_used_is_reported_and_the_rest_goes_on(
    run: Run,
    models: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    piped(monkeypatch, b"\xff\xfe\n" + "가".encode() * 99 + b"\nhi\n")
    code, said, noted = run("chat", models["gpt"], "--max-tokens", 3)
    assert code == 1
    assert said.count("\n") >= 1
    assert "line 1: byte 0xff" in noted
    assert "takes 300 tokens" in noted
    assert noted.count("[ctx ") == 1


def test_what_cannot_chat(run: Run, models: dict[str, Path], tmp_path: Path) -> None:
    fails(run("chat", tmp_path), "config.json")
    fails(run("chat", models["gpt"], "--once", ""), "empty")
    fails(run("chat", models["gpt"], "--once", "hi", "--max-tokens", 0), "max_tokens")
    fails(run("chat", models["gpt"], "--once", "hi", "--context", 65), "16 to 64")
    fails(run("chat", models["gpt"], "--once", "hi", "--top-p", 2), "top_p")
    fails(run("chat", chat_model(tmp_path / "plain", "gpt", template=False)), "malmoi finetune")


class Terminal:
    """A process on a terminal of its own."""

    def __init__(self, *arguments: object) -> None:
        pty = pytest.importorskip("pty")
        self.read, self.at = b"", 0
        self.pid, self.file = pty.fork()
        if self.pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
            command = [
                sys.executable,
                "-c",
                "from malmoi.cli.commands import main; main()",
                *map(str, arguments),
            ]
            os.execve(command[0], command, os.environ | {"TERM": "xterm", "LC_ALL": "C.UTF-8"})

    def interrupt(self, words: str) -> str:
        """Ctrl-C until these words come: Python loses one that falls just before it waits for a key."""
        for _ in range(10):
            time.sleep(0.3)
            self.type("\x03")
            with contextlib.suppress(AssertionError):
                return self.until(words, 10)
        raise AssertionError(f"no {words!r} after ten times Ctrl-C")

    def until(self, words: str, timeout_s: float = 60) -> str:
        """What comes up to these words. Raises AssertionError where they do not come."""
        end = time.monotonic() + timeout_s
        while (found := self.read.find(words.encode(), self.at)) < 0:
            assert time.monotonic() < end, self.read[self.at :]
            if select.select([self.file], [], [], 0.1)[0]:
                self.read += os.read(self.file, 4096)
        start, self.at = self.at, found + len(words.encode())
        return self.read[start : self.at].decode()

    def type(self, text: str) -> None:
        os.write(self.file, text.encode())

    def close(self) -> int:
        """The exit code."""
        with suppress(OSError):  # where the terminal is gone
            while os.read(self.file, 4096):
                pass
        os.close(self.file)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_a_terminal(models: dict[str, Path]) -> None:
    terminal = Terminal("chat", models["lstm"], "--temperature", 0, "--max-tokens", 1_000_000)
    assert "/help" in terminal.until("> ")
    terminal.type("/system 안녕요\x7f히\n")  # a syllable is one stroke of the backspace
    assert "system: 안녕히" in terminal.until("\x1b[0m")
    terminal.until("> ")
    terminal.type("계속\n")
    terminal.until("계속\r\n")
    terminal.interrupt("stopped")
    terminal.until("> ")
    terminal.type("/rest\n")
    assert "did you mean '/reset'?" in terminal.until("> ")
    terminal.interrupt("once more")
    terminal.until("> ")
    terminal.type("\x04")
    assert terminal.close() == 0
