"""The page: chat, tasks, the inside of models and reports, in the server that serves the models.

Gradio renders it; nothing is fetched from outside or sent there. All computing goes through the worker.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import gradio as gr
from fastapi import FastAPI, HTTPException
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from malmoi.serve.catalogue import Catalogue, languages
from malmoi.serve.page.chat_tab import chat_tab
from malmoi.serve.page.insides import inside_tab
from malmoi.serve.page.look import CSS, ICON, panel, theme
from malmoi.serve.page.policy import PAGE, PagePolicy
from malmoi.serve.page.reports import Run, compare_tab, find_runs
from malmoi.serve.page.task_tabs import tasks_tab
from malmoi.serve.settings import ServeSettings
from malmoi.serve.worker import Worker

MOST_WAITING = 64  # clicks in gradio's queue; the worker has a limit of its own
_REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox; frame-ancestors 'self'"
)


def mount_page(app: FastAPI, catalogue: Catalogue, worker: Worker, settings: ServeSettings) -> FastAPI:
    """Add the page at `/page/` (and a way there from `/`), before the app starts.

    Reports come from `settings.runs` and from the comparisons whose winners are served. Who may see the page
    is up to the guard of `app`.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # gradio reads it where a part of it is made
    runs = find_runs(settings.runs, [entry.folder for entry in catalogue.values()])
    _add_reports(app, runs)
    blocks = build(catalogue, worker, runs, settings)
    gr.mount_gradio_app(
        app, blocks, PAGE, theme=theme(), css=CSS, footer_links=[], run_history=False, pwa=False,
        ssr_mode=False, enable_monitoring=False, mcp_server=False, max_file_size=1, show_error=False,
    )  # fmt: skip
    app.add_middleware(PagePolicy)
    return app


def build(catalogue: Catalogue, worker: Worker, runs: Sequence[Run], settings: ServeSettings) -> gr.Blocks:
    """The four tabs."""
    with gr.Blocks(analytics_enabled=False, title="malmoi") as blocks:
        panel('<h1 class="name">malmoi <small>말모이</small></h1>')
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab("Chat", id="chat"):
                chat_tab({entry.name: entry for entry in languages(catalogue)}, worker, settings.max_tokens)
            with gr.Tab("Tasks", id="tasks"):
                tasks_tab(catalogue, worker, settings.max_input_chars)
            with gr.Tab("Inside", id="inside"):
                inside_tab(catalogue, worker)
            with gr.Tab("Compare", id="compare"):
                compare_tab(runs, f"{PAGE}/reports")
    return blocks.queue(max_size=MOST_WAITING, default_concurrency_limit=None, api_open=False)


def _add_reports(app: FastAPI, runs: Sequence[Run]) -> None:
    """Routes of the reports, by number, so that no path of a request reaches the disk."""

    @app.get("/", include_in_schema=False)
    def root() -> Response:
        return RedirectResponse(f"{PAGE}/")

    @app.get("/favicon.ico", include_in_schema=False)
    def icon() -> Response:
        return Response(ICON, media_type="image/svg+xml")

    @app.get(f"{PAGE}/reports/{{number}}", include_in_schema=False)
    def report(number: int) -> Response:
        if not 0 <= number < len(runs) or not runs[number].report.is_file():
            raise HTTPException(404, "no such report")
        text = runs[number].report.read_text(encoding="utf-8", errors="replace")
        return HTMLResponse(text, headers={"content-security-policy": _REPORT_POLICY})
