"""A page in a real browser: no request but its own, no error, legible colours, no sideways scrolling."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def checked_page(browser: Any, path: Path, scheme: str, width: int) -> Any:
    """The page, opened and checked."""
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    assert asked == [path.as_uri()]
    assert errors == []
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    colours = page.evaluate(
        "(style => [style.color, style.backgroundColor].map(c => c.match(/\\d+/g).slice(0, 3)"
        ".reduce((sum, part) => sum + Number(part), 0)))(getComputedStyle(document.body))"
    )
    ink, paper = colours
    assert (ink < 300 and paper > 600) if scheme == "light" else (ink > 500 and paper < 150)
    return page
