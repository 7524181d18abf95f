"""The comparison's page: nothing is fetched, nothing is run, light and dark, wide and narrow."""

from __future__ import annotations

import re
from typing import Any

import pytest

from malmoi.compare.comparison import Comparison
from malmoi.core.nouns import Metric
from malmoi.show.charts import measured_curves, quality_against_cost
from malmoi.show.comparison_report import looks_of
from tests.compare.browser import checked_page


def test_it_holds_everything_and_asks_for_nothing(compared: Comparison) -> None:
    page = (compared.out / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"<script|<link|<img|@import|\ssrc=|url\((?!#)", page)
    addresses = set(re.findall(r"https?://[^\"'\s<)]+", page))
    assert all(address.startswith("http://www.w3.org/") for address in addresses), (
        addresses
    )  # names, not fetched
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_a_method_has_one_colour_and_its_intervals_in_every_plot(compared: Comparison) -> None:
    page = (compared.out / "report.html").read_text(encoding="utf-8")
    plots = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(plots) == 2
    looks = list(looks_of(compared).values())
    assert len(set(looks)) == len(looks) == 4
    names = [row.name for row in compared.verdict.ranking]
    for plot in plots:
        drawn = {name for name, (colour, _) in looks_of(compared).items() if colour in plot}
        assert drawn == set(names)
        assert plot.count('id="LineCollection_') == 2 * len(names)  # bars, and those of the legend


def test_a_single_point_has_no_front_and_a_metric_may_have_no_interval() -> None:
    points, looks = {"bag": (0.3, Metric(0.9))}, {"bag": ("#123456", "o")}
    plots = [
        quality_against_cost(points, looks, ["bag"], x_label="cost", y_label="distinct 1"),
        measured_curves({"bag": [(1, Metric(0.5)), (9, Metric(0.9))]}, looks, x_label="n", y_label="m"),
    ]
    assert all("bag" in plot and "not beaten" not in plot for plot in plots)


@pytest.mark.browser
@pytest.mark.parametrize("width", [400, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_reads_well(browser: Any, compared: Comparison, scheme: str, width: int) -> None:
    page = checked_page(browser, compared.out / "report.html", scheme, width)
    assert page.title() == "classification: 4 methods compared"
    text = page.inner_text("body")
    assert compared.advice in text
    assert "failed: RuntimeError: the loss is <not> a number" in text
    assert "의자" in page.text_content("body")
    assert "malmoi predict" in text
    assert page.locator("svg").count() == 2
    assert page.locator("tr.winner").count() == 1
    assert page.locator("table.confusion").count() == 3
    page.close()
