"""The command line's verb for serving models over HTTP."""

from __future__ import annotations

import json
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from malmoi.core.errors import UserError
from malmoi.models.formats import DTYPES, QUANTIZED

if TYPE_CHECKING:
    from socket import socket

    from malmoi.serve.catalogue import Catalogue, LanguageEntry
    from malmoi.serve.settings import ServeSettings
    from malmoi.serve.worker import Worker


def serve(
    folders: Annotated[
        list[Path], typer.Argument(help="Trained models, fitted methods, or comparisons (their winners).")
    ],
    host: Annotated[
        str, typer.Option(help="The address to listen at; one that others can reach needs --api-key-file.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    api_key_file: Annotated[
        Path | None, typer.Option(help="A file with one API key a line; without one, no key is asked for.")
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(help="A web site whose pages may use the server, as https://NAME; may be repeated."),
    ] = None,
    dtype: Annotated[
        Literal[*DTYPES],  # pyright: ignore[reportInvalidTypeForm]
        typer.Option(help="What the language models compute with."),
    ] = "fp32",
    quantize: Annotated[
        Literal[*QUANTIZED] | None,  # pyright: ignore[reportInvalidTypeForm]
        typer.Option(help="Hold the language models' matrices in 8 bits; says what that costs in quality."),
    ] = None,
    max_rows: Annotated[int, typer.Option(min=1, help="Samples that a model works on at once.")] = 16,
    max_waiting: Annotated[
        int, typer.Option(min=1, help="Requests that may wait for a model; more are told to come back.")
    ] = 64,
    max_tokens: Annotated[int, typer.Option(min=1, help="At most in one reply.")] = 4096,
    max_prompt_tokens: Annotated[
        int, typer.Option(min=1, help="At most in a prompt, where a model's context has no limit.")
    ] = 16_384,
    max_input_chars: Annotated[
        int, typer.Option(min=1, help="Characters at most in one input of a task; others wait while it runs.")
    ] = 20_000,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=1, help="Seconds that a request may take.")
    ] = 600,
    page: Annotated[bool, typer.Option("--page/--no-page", help="The page for the browser.")] = True,
    runs: Annotated[
        list[Path] | None, typer.Option(help="A folder whose reports the page shows; may be repeated.")
    ] = None,
) -> None:
    """Serve models over HTTP, as OpenAI's interface has it, with a page to try them.

    Works with every program that takes an OpenAI base URL. Ctrl-C finishes what runs and ends.
    """
    from malmoi.serve.catalogue import languages, open_catalogue
    from malmoi.serve.server import bind
    from malmoi.serve.settings import Keys, ServeSettings
    from malmoi.serve.worker import Worker

    if runs and not page:
        raise UserError("--runs is for the page; leave out one of --runs and --no-page")
    settings = ServeSettings(
        host=host, port=port, keys=Keys.read(api_key_file) if api_key_file else Keys(),
        cors_origins=tuple(cors_origin or ()), max_tokens=max_tokens, request_timeout_s=timeout_s,
        max_prompt_tokens=max_prompt_tokens, max_input_chars=max_input_chars, runs=tuple(runs or ()),
    )  # fmt: skip
    with bind(host, port) as listening:  # before minutes of loading
        worker = Worker(max_waiting=max_waiting)
        worker.start()
        catalogue = worker.run(
            lambda: open_catalogue(folders, dtype=dtype, quantize=quantize, max_rows=max_rows)
        )
        for entry in languages(catalogue) if quantize else []:
            if line := worker.run(partial(_loss, entry)):
                typer.echo(line)
        if page and find_spec("gradio") is None:
            typer.echo('no page for the browser; it needs: pip install "malmoi[web]"')
            page = False
        _run(catalogue, worker, settings, listening, page)
    typer.echo("stopped")


def _run(
    catalogue: Catalogue, worker: Worker, settings: ServeSettings, listening: socket, page: bool
) -> None:
    """Serve until told to stop."""
    from malmoi.serve.api import create_app
    from malmoi.serve.server import Server

    app = create_app(catalogue, worker, settings)
    if page:
        from malmoi.serve.web import mount_page

        app = mount_page(app, catalogue, worker, settings)
    host, port = settings.host, listening.getsockname()[1]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    for line in _opening(url, catalogue, bool(settings.keys), page):
        typer.echo(line)
    Server(app, worker, settings).run(sockets=[listening])


def _opening(url: str, catalogue: Catalogue, with_key: bool, page: bool) -> list[str]:
    """What the terminal shows once the server is there."""
    from malmoi.models.native.library import why_not
    from malmoi.serve.catalogue import TaskEntry, languages

    width = max(map(len, catalogue))
    lines = [f"malmoi serves at {url}" + ("  (open it in a browser)" if page else "")]
    if languages(catalogue) and (reason := why_not()):  # asking compiles them
        lines.append(f"language models answer more slowly, without malmoi's own kernels: {reason}")
    for entry in catalogue.values():
        does = (
            f"task {entry.task.name}, by {entry.method.method.name}" if isinstance(entry, TaskEntry)
            else "chat and completion" if entry.form else "completion"
        )  # fmt: skip
        lines.append(f"  {entry.name:{width}}  {does}")
    return [*lines, f"base URL for OpenAI clients: {url}/v1", "try:", *_example(url, catalogue, with_key)]


def _loss(entry: LanguageEntry) -> str | None:
    """What 8 bits cost a language model; None for counts, which stay as they are."""
    from malmoi.hub.folder import is_ngram
    from malmoi.serve.catalogue import quantization_loss

    if is_ngram(entry.folder):
        return None
    before, after = quantization_loss(entry)
    return (
        f"{entry.name} in 8 bits: {before:.4f} bits per byte become {after:.4f} ({after / before - 1:+.2%}) "
        "on the sample world's text"
    )


def _example(url: str, catalogue: Catalogue, with_key: bool) -> list[str]:
    """A curl command for the first model that chats, else for the first one."""
    from malmoi.serve.catalogue import LanguageEntry

    entry = next((e for e in catalogue.values() if isinstance(e, LanguageEntry) and e.form), None)
    entry = entry or next(iter(catalogue.values()))
    if not isinstance(entry, LanguageEntry):
        path = f"/v1/tasks/{entry.task.name}"
        body = {"model": entry.name, "input": entry.task.kind.example}
    elif entry.form:
        path = "/v1/chat/completions"
        body = {"model": entry.name, "messages": [{"role": "user", "content": "안녕하세요?"}]}
    else:
        path, body = "/v1/completions", {"model": entry.name, "prompt": "옛날에", "max_tokens": 32}
    key = " -H 'Authorization: Bearer YOUR_KEY'" if with_key else ""
    data = json.dumps(body, ensure_ascii=False)
    return [f"  curl {url}{path} -H 'Content-Type: application/json'{key} \\", f"    -d '{data}'"]


VERBS = (serve,)
