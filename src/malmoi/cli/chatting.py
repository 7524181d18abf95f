"""The verbs that let a language model write: complete, and chat with its loop of messages and commands.

Replies go to standard output, all else to standard error, so that a pipe gets nothing but replies.
"""

from __future__ import annotations

import os.path
import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import closing, suppress
from itertools import count
from math import exp
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

import malmoi
from malmoi.cli.words import model_argument, with_flags
from malmoi.core.errors import UserError, nearest
from malmoi.data.encodings import decoded
from malmoi.util.streams import standard_input
from malmoi.util.units import counted

if TYPE_CHECKING:
    from rich.console import Console

    from malmoi.engine.loaded import Loaded
    from malmoi.engine.request import Completion
    from malmoi.engine.session import ChatSession, Turn
    from malmoi.text.tokenizer import Tokenizer

PROMPT, MORE = "> ", ". "
COMMANDS = {  # what may stand behind each ([]: or nothing), and what it does
    "/help": ("", "list these commands"),
    "/reset": ("", "forget the conversation; the system prompt stays"),
    "/save": ("FILE", 'write the whole conversation as JSON "messages"'),
    "/load": ("FILE", "go on from a saved conversation"),
    "/system": ("[TEXT]", "show or change the system prompt; - takes it away"),
    "/regenerate": ("", "another reply to the last message"),
    "/quit": ("", "end (so does Ctrl-D)"),
}
_CONTROLS = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
Read = Callable[[str], str | None]  # a prompt -> the next line, or None at the end


def chat(
    folder: Annotated[Path, model_argument("An instruction-tuned model's folder, or malmoi-noru.")],
    system: Annotated[str, Option(help="What the model is told before all turns.")] = "",
    temperature: Annotated[float, Option(help="0 always takes the likeliest token.")] = 0.7,
    top_p: Annotated[float, Option(help="Only of the likeliest tokens with this share.")] = 1.0,
    max_tokens: Annotated[
        int | None, Option(help="Of one reply; if not given, as many as the context has room for.")
    ] = None,
    context: Annotated[
        int | None, Option(help="Tokens of the conversation that the model sees; else all it can.")
    ] = None,
    seed: Annotated[int | None, Option(help="The same seed and messages give the same replies.")] = None,
    once: Annotated[str | None, Option(help="Reply to this message only, and end.")] = None,
) -> None:
    """Talk with a tuned model: in the terminal, or with one message on each line of standard input."""
    from rich.console import Console

    from malmoi.engine.engine import Engine
    from malmoi.engine.session import ChatSession
    from malmoi.text.chat import ChatFormat

    model = _language_model(folder)
    session = ChatSession(
        Engine(model.model, model.tokenizer), ChatFormat.of(model.tokenizer), system=system, context=context,
        max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed,
    )  # fmt: skip
    terminal = bool(sys.stdin and sys.stdin.isatty()) and sys.stdout.isatty()
    notes = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
    talk = ChatLoop(session, notes, terminal=terminal)
    if once is not None:
        talk.stream(session.say(once))
        return
    if sys.stdin is None:
        raise UserError("standard input is closed; give one message with --once")
    talk.run(_from_terminal() if terminal else _from_lines(sys.stdin.buffer))
    if talk.failures and not terminal:
        raise typer.Exit(1)


class ChatLoop:
    """Reads messages and commands until the end. failures: how many of them were refused.

    terminal: a person is there, so Ctrl-C ends a reply and not all, and control characters are left out.
    """

    def __init__(self, session: ChatSession, notes: Console, *, terminal: bool) -> None:
        self.session, self.notes, self.terminal, self.failures = session, notes, terminal, 0

    def run(self, read: Read) -> None:
        """Until /quit, the end of the input, or Ctrl-C twice at the prompt."""
        if self.terminal:
            limit = f"{self.session.context} tokens" if self.session.context else "any length"
            self._note(f"a context of {limit}; /help lists the commands, Ctrl-D ends")
        asked = False
        while True:
            try:
                if not self._step(read):
                    return
                asked = False
            except KeyboardInterrupt:
                if not self.terminal:
                    raise typer.Exit(130) from None
                typer.echo()
                if asked:
                    return
                asked = True
                self._note("Ctrl-C once more ends the chat")

    def stream(self, pieces: Generator[str]) -> None:
        """Show a reply as it comes, and first what it no longer sees. Ctrl-C at a terminal ends it."""
        turn = self.session.turn
        if turn and turn.dropped:
            self._note(
                f"the context is full but for the reply's room: the model no longer sees the oldest "
                f"{turn.dropped} turns ({self.session.forgotten + turn.dropped} in all); /save keeps them"
            )
        try:
            with closing(pieces):
                for piece in pieces:
                    typer.echo(piece.translate(_CONTROLS) if self.terminal else piece, nl=False)
        except KeyboardInterrupt:
            if not self.terminal:
                raise
        typer.echo()

    def _step(self, read: Read) -> bool:
        """One message or command; False ends the chat."""
        try:
            message = read_message(read)
            command = None if message is None else parse_command(message)
            if message is None or command:
                return bool(command and self._do(*command))
            if message.strip():
                self._reply(self.session.say(message))
        except UserError as error:
            self.failures += 1
            self._note(f"malmoi: {with_flags(str(error))}", "red")
        return True

    def _do(self, name: str, argument: str) -> bool:
        session = self.session
        match name:
            case "/help":
                forms = {f"{name} {argument}".rstrip(): does for name, (argument, does) in COMMANDS.items()}
                self._note("\n".join(f"{form:16} {does}" for form, does in forms.items()))
                self._note("A \\ at the end of a line: the message goes on. A space before / : no command.")
            case "/reset":
                session.reset()
                self._note("the conversation is forgotten")
            case "/save":
                session.save(os.path.expanduser(argument))
                self._note(f"saved {argument}")
            case "/load":
                session.load(os.path.expanduser(argument))
                self._note(f"loaded {counted(len(session.messages), 'turn')} {self._meter()}")
            case "/system":
                if argument:
                    session.system = "" if argument == "-" else argument
                self._note(f"system: {session.system}" if session.system else "no system prompt")
            case "/regenerate":
                self._reply(session.regenerate())
        return name != "/quit"

    def _reply(self, pieces: Generator[str]) -> None:
        self.stream(pieces)
        turn = self.session.turn
        assert turn is not None
        speed = turn.reply_tokens / turn.seconds if turn.seconds else 0.0
        self._note(f"{self._meter()} {speed:,.0f} tokens/s{_ending(turn)}")

    def _meter(self) -> str:
        return meter(*self.session.context_used)

    def _note(self, text: str, style: str = "dim") -> None:
        self.notes.print(text, style=style, markup=False)


def meter(used: int, limit: int | None, width: int = 8) -> str:
    """How full the context is, for people: [ctx 132/256 ▓▓▓▓░░░░]."""
    if limit is None:
        return f"[ctx {used}]"
    full = min(width, round(width * used / limit))
    return f"[ctx {used}/{limit} {'▓' * full}{'░' * (width - full)}]"


def _ending(turn: Turn) -> str:
    """What is special about how a reply ended."""
    endings = {"cancelled": ", stopped", "length": f", cut at {counted(turn.reply_tokens, 'token')}"}
    forgotten = "" if turn.text.strip() else ", no reply, so the message is forgotten"
    return endings.get(turn.finished or "", "") + forgotten


def parse_command(message: str) -> tuple[str, str] | None:
    """(name, what stands behind it), or None for a message. Raises UserError for what is no command."""
    if not message.startswith("/"):
        return None
    name, argument = [*message.split(maxsplit=1), ""][:2]
    argument = argument.strip()
    if name not in COMMANDS:
        raise UserError(f"unknown command {name!r}; {nearest(name, COMMANDS)}")
    takes = COMMANDS[name][0]
    if argument and not takes:
        raise UserError(f"{name} stands alone; leave {argument!r} out")
    if takes == "FILE" and (not argument or "\0" in argument):
        raise UserError(f"{name} needs a file's name, for example: {name} chat.json")
    return name, argument


def read_message(read: Read) -> str | None:
    """The next line, with those that follow where it ends in a backslash; None at the end of all."""
    lines: list[str] = []
    while (line := read(MORE if lines else PROMPT)) is not None:
        if not line.endswith("\\"):
            return "\n".join([*lines, line])
        lines.append(line[:-1])
    return "\n".join(lines) if lines else None


def _from_terminal() -> Read:
    """Lines that a person types, with editing and the history of this chat where the system has them."""
    with suppress(ImportError):
        import readline

        # pasted lines are one message; Korean gets through where the locale knows ASCII only
        for setting in ("enable-bracketed-paste on", "input-meta on", "output-meta on", "convert-meta off"):
            readline.parse_and_bind(f"set {setting}")

    def read(prompt: str) -> str | None:
        try:
            return input(prompt)
        except UnicodeDecodeError as error:
            raise UserError(f"that is not {error.encoding} ({error.reason}); type it again") from None
        except EOFError:
            typer.echo()
            return None

    return read


def _from_lines(stream: Iterable[bytes]) -> Read:
    """The lines of a pipe or file; after one that is no text the next can be read."""
    text = lambda number, line: decoded(line, f"line {number}", marked=False).rstrip("\r\n")  # noqa: E731
    lines = map(text, count(1), stream)
    return lambda _: next(lines, None)


def complete(
    folder: Annotated[Path, model_argument("A trained model's folder, or malmoi-noru-base.")],
    text: Annotated[str, Argument(help="The text to go on from; - reads it from standard input.")],
    max_tokens: int = 128,
    temperature: Annotated[float, Option(help="0 always takes the likeliest token.")] = 0.8,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    seed: int | None = None,
    stop: Annotated[list[str] | None, Option(help="End before this string; may be repeated.")] = None,
    n: Annotated[int, Option("-n", help="How many completions.")] = 1,
    logprobs: Annotated[int, Option(help="Show each token's probability and this many others.")] = 0,
) -> None:
    """Complete a text with a trained model."""
    options = {
        "max_tokens": max_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p,
        "repetition_penalty": repetition_penalty, "seed": seed, "stop": tuple(stop or ()), "n": n,
        "logprobs": logprobs,
    }  # fmt: skip
    prompt = decoded(standard_input(), "standard input", "utf-8") if text == "-" else text
    model = _language_model(folder)
    if n == 1 and not logprobs:
        events = model.stream(prompt, **options)
        first = next(events)  # a mistake in the options comes before the prompt is shown
        typer.echo(prompt + first.text, nl=False)
        for event in events:
            typer.echo(event.text, nl=False)
        typer.echo()
        return
    for number, found in enumerate(model.complete(prompt, **options), start=1):
        typer.echo((f"--- {number}\n" if n > 1 else "") + prompt + found.text)
        if logprobs:
            _echo_logprobs(found, model.tokenizer)


def _language_model(folder: Path) -> Loaded:
    """At a terminal it says what the weights are held in. Raises UserError for a fitted method."""
    model = malmoi.load(folder)
    from malmoi.engine.loaded import Loaded  # after `load`, which imports PyTorch faster

    if not isinstance(model, Loaded):
        raise UserError(f"{folder} does {model.task.name}; use: malmoi predict {folder} ...")
    if sys.stderr is not None and sys.stderr.isatty():
        typer.echo(f"{folder.name}: weights in {model.precision}", err=True)
    return model


def _echo_logprobs(found: Completion, tokenizer: Tokenizer) -> None:
    """Each token with its probability and the best alternatives."""
    for id, logprob, top in zip(found.ids, found.logprobs, found.top_logprobs, strict=True):
        others = "  ".join(f"{tokenizer.token_text(other)!r} {exp(value):.1%}" for other, value in top)
        typer.echo(f"{tokenizer.token_text(id)!r:16} {exp(logprob):7.1%}   {others}")
