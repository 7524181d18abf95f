"""The report in a real browser: light and dark, wide and narrow, with nothing fetched from outside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from malmoi.core.nouns import Metric, Result
from malmoi.inside.tokens import Cut, Prediction
from malmoi.show.demo_report import (
    Answers,
    Exchange,
    OneModelLine,
    Report,
    TaskCell,
    TaskLine,
    show_report,
    write_report,
)
from malmoi.show.terminal import console
from tests.compare.browser import checked_page

pytestmark = pytest.mark.browser
HOSTILE = "<script>document.title = 'forged'</script> & \"거위\""
METRICS = {"bits_per_byte": Metric(1.0), "grammar": Metric(0.98), "logic": Metric(0.47)}
COSTS = (
    "parameters",
    "train_seconds",
    "train_tokens_per_s",
    "complete_tokens_per_s",
    "disk_bytes",
    "state_bytes",
)


@pytest.fixture(scope="module")
def report() -> Report:
    prediction = Prediction("거위", 0.5, 0.7, (("거위", 0.5), (HOSTILE, 0.25), ("\n", 0.1)))
    methods = [TaskCell("crf", "93.4%", "1 ms", True), TaskCell(HOSTILE, "87.0%", "4 ms", False)]
    cells = {"traditional": methods[:1], "recurrent": methods[1:], "transformer": []}
    return Report(
        title="From text to a language model",
        machine="a test",
        cuts={"Korean": [Cut("words", 10, ("거위가 ", "노래한다", HOSTILE), (False, True, False))]},
        growth=[("0%", ["거위", HOSTILE]), ("100%", ["거위가 노래한다. " * 20, "x" * 300])],
        foundation=[("30M tokens read before", ["거위가 노래한다.", HOSTILE])],
        prompts=["토요일에", "On Monday,"],
        curves=[("GPT", [0.0, 10.0], [3.0, 1.0]), ("5-gram", [10.0], [2.0])],
        results=[Result(name, METRICS, dict.fromkeys(COSTS, 1e6)) for name in "AB"],
        sentence=[prediction] * 3,
        row=[prediction] * 50,
        answers=Answers(
            [TaskLine("ner", HOSTILE, cells, HOSTILE, "tasks/ner/report.html")],
            [Exchange(f"{HOSTILE} 누가 왔나요?", "거위가 " * 30, HOSTILE)],
            [OneModelLine("ner", HOSTILE, "crf", "93.4%", "87.0%", "88.1%", "86.0%")],
        ),
        context=256,
        steps=[("tokens", 1.0)],
        next_commands=[f"malmoi complete demo/gpt {HOSTILE}"],
    )


@pytest.fixture(scope="module")
def page_path(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(report, tmp_path_factory.mktemp("report"))


def test_the_terminal_shows_figures_and_tasks(report: Report) -> None:
    with console.capture() as seen:
        show_report(report, Path("demo/report.html"))
    text = seen.get()
    for word in ("memory of 256 tokens", "crf 93.4%", "traditional", "88.1%", "The report: demo/report.html"):
        assert word in text


@pytest.mark.parametrize("width", [400, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_reads_well_and_fetches_nothing(browser: Any, page_path: Path, scheme: str, width: int) -> None:
    page = checked_page(browser, page_path, scheme, width)
    assert page.title() == "From text to a language model"
    assert page.locator("svg").count() == 1
    assert "거위가 노래한다" in page.inner_text("body")
    assert "47%" in page.inner_text("body")
    assert page.inner_text("body").count("<script>") >= 8
    page.close()
