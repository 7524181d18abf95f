"""Progress is a line now and then."""

from __future__ import annotations

from malmoi.util.progress import Progress


def lines_of(total: int, every_s: float, *, s_each: float) -> list[str]:
    now_s, lines = [0.0], list[str]()
    progress = Progress(total, "prediction", lines.append, every_s, lambda: now_s[0])
    for done in range(1, total + 1):
        now_s[0] += s_each
        progress(done)
    return lines


def test_what_is_fast_says_nothing() -> None:
    assert lines_of(1000, 5, s_each=0.004) == []
    assert lines_of(1, 5, s_each=100) == []


def test_a_line_now_and_then_with_the_time_left() -> None:
    assert lines_of(100, 30, s_each=1) == [
        "30 of 100 predictions, 1 min 10 s left",
        "60 of 100 predictions, 40 s left",
        "90 of 100 predictions, 10 s left",
    ]


def test_the_last_one_needs_no_line() -> None:
    assert lines_of(3, 5, s_each=6) == ["1 of 3 predictions, 12 s left", "2 of 3 predictions, 6 s left"]
