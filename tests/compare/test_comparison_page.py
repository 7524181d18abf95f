"""The comparison's page: nothing is fetched, nothing is run, light and dark, wide and narrow."""

from __future__ import annotations

import re
from typing import Any

import pytest

from malmoi.compare.comparison import Comparison
from tests.compare.browser import checked_page


def test_it_holds_everything_and_asks_for_nothing(compared: Comparison) -> None:
    page = (compared.out / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"<script|<link|<img|@import|\ssrc=|url\((?!#)", page)
    addresses = set(re.findall(r"https?://[^\"'\s<)]+", page))
    assert all(address.startswith("http://www.w3.org/") for address in addresses), (
        addresses
    )  # names, not fetched
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


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
