"""Charts: what they show, and that they are legible on light and on dark."""

from __future__ import annotations

from xml.etree import ElementTree

from malmoi.core.nouns import Metric
from malmoi.show.charts import Panel, small_multiples, standalone
from malmoi.show.palette import COLOURS, DARK, LIGHT

LOOKS = {"small": (COLOURS[0], "o"), "prompted": (COLOURS[1], "s"), "absent": (COLOURS[2], "D")}


def chart(marks: tuple[tuple[float, float], ...] = ((330.0, 0.7),)) -> str:
    line = [(count, Metric(0.5 + count / 5000, (0.4, 0.9))) for count in (20, 100, 500, 2000)]
    curves = {"small": line, "prompted": [(20, Metric(0.7, (0.6, 0.8)))]}
    panels = [Panel("reviews", "accuracy", curves, marks), Panel("names", "F1", {"small": line[:1]})]
    return small_multiples(panels, LOOKS, x_label="labelled examples", mark="overtakes")


def texts(svg: str) -> list[str]:
    return [
        "".join(element.itertext()) for element in ElementTree.fromstring(svg).iter() if "text" in element.tag
    ]


def test_small_multiples_name_what_is_drawn() -> None:
    found = texts(chart())
    for text in ("reviews", "names", "accuracy", "F1", "labelled examples", "20", "2k", "330"):
        assert text in found
    assert [text for text in found if text in (*LOOKS, "overtakes")] == ["small", "prompted", "overtakes"]
    assert "overtakes" not in texts(chart(marks=()))


def test_a_chart_of_its_own_follows_its_readers_light_or_dark() -> None:
    svg = standalone(chart())
    style = next(it.text or "" for it in ElementTree.fromstring(svg) if it.tag.endswith("style"))
    light, _, dark = style.partition("prefers-color-scheme: dark")
    for part, look in ((light, LIGHT), (dark, DARK)):
        assert f"color: {look['ink']}" in part
        assert f"background: {look['page']}" in part
    assert "currentColor" in svg
