"""The verb that serves models over HTTP."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Option

from malmoi.cli.words import model_argument, say
from malmoi.core.errors import UserError
from malmoi.models.formats import DTYPES, QUANTIZED


def serve(
    folders: Annotated[
        list[Path],
        model_argument("Trained models, fitted methods, or comparisons (their winners)."),
    ],
    host: Annotated[
        str, Option(help="The address to listen at; one that others can reach needs --api-key-file.")
    ] = "127.0.0.1",
    port: Annotated[int, Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    api_key_file: Annotated[
        Path | None, Option(help="A file with one API key a line; without one, no key is asked for.")
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        Option(help="A web site whose pages may use the server, as https://NAME; may be repeated."),
    ] = None,
    dtype: Annotated[
        Literal[*DTYPES] | None,  # pyright: ignore[reportInvalidTypeForm]
        Option(help="What the language models compute with; as their weights are stored if not given."),
    ] = None,
    quantize: Annotated[
        Literal[*QUANTIZED] | None,  # pyright: ignore[reportInvalidTypeForm]
        Option(help="Hold the language models' matrices in few bits; says what that costs in quality."),
    ] = None,
    max_rows: Annotated[int, Option(min=1, help="Samples that a model works on at once.")] = 16,
    max_waiting: Annotated[
        int, Option(min=1, help="Requests that may wait for a model; more are told to come back.")
    ] = 64,
    max_tokens: Annotated[int, Option(min=1, help="At most in one reply.")] = 4096,
    max_prompt_tokens: Annotated[
        int, Option(min=1, help="At most in a prompt, where a model's context has no limit.")
    ] = 16_384,
    max_input_chars: Annotated[
        int, Option(min=1, help="Characters at most in one input of a task; others wait while it runs.")
    ] = 20_000,
    timeout_s: Annotated[float, Option("--timeout", min=1, help="Seconds that a request may take.")] = 600,
    page: Annotated[bool, Option("--page/--no-page", help="The page for the browser.")] = True,
    runs: Annotated[
        list[Path] | None, Option(help="A folder whose reports the page shows; may be repeated.")
    ] = None,
) -> None:
    """Serve models over HTTP, as OpenAI's interface has it, with a page to try them.

    Works with every program that takes an OpenAI base URL. Ctrl-C finishes what runs and ends.
    """
    from malmoi.serve.api import create_app
    from malmoi.serve.catalogue import open_catalogue, quantization_lines
    from malmoi.serve.server import Server, bind, opening_lines
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
        say(*(worker.run(partial(quantization_lines, catalogue)) if quantize else ()))
        if page and find_spec("gradio") is None:
            typer.echo('no page for the browser; it needs: pip install "malmoi[web]"')
            page = False
        app = create_app(catalogue, worker, settings)
        if page:
            from malmoi.serve.web import mount_page

            mount_page(app, catalogue, worker, settings)
        url = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
        say(*opening_lines(url, catalogue, bool(settings.keys), page))
        Server(app, worker, settings).run(sockets=[listening])
    typer.echo("stopped")
