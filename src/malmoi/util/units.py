"""Numbers and durations as people read them."""

from __future__ import annotations

from math import floor, isfinite, log10


def human_count(number: float) -> str:
    """1234567 -> '1.23M'."""
    return _scaled(number, 1000, ("", "k", "M", "G", "T"))


def human_bytes(number: float) -> str:
    """1536 -> '1.5 KiB'."""
    return _scaled(number, 1024, (" B", " KiB", " MiB", " GiB", " TiB"))


def human_seconds(seconds: float) -> str:
    """4000 -> '1 h 07 min'."""
    if seconds < 1:
        return f"{seconds:.2g} s"
    minutes, rest_s = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest_s} s"
    if minutes < 60:
        return f"{minutes} min {rest_s:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def latency(seconds: float) -> str:
    """A short time in milliseconds: 0.0123 -> '12.3 ms', 4000 -> '1 h 07 min'."""
    return f"{1000 * seconds:.3g} ms" if seconds < 0.9995 else human_seconds(seconds)


def figures(number: float, digits: int) -> str:
    """(1234.5, 2) -> '1,200'; what is beyond 10^12 as '1.2e+18'."""
    if number == 0 or not isfinite(number) or abs(number) >= 1e12:
        return f"{number:.{digits}g}"
    return f"{round(number, digits - 1 - floor(log10(abs(number)))):,.15g}"


def measured(number: float) -> str:
    """A metric's value: 0.5 -> '0.5000', 123456.7 -> '123,500'."""
    return f"{number:.4f}" if abs(number) < 1000 else figures(number, 4)


def counted(number: int, noun: str) -> str:
    """(1, "step") -> '1 step', (1200, "step") -> '1,200 steps'."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _scaled(number: float, step: int, units: tuple[str, ...]) -> str:
    """Three digits and the largest unit in which they are not below 1 (what rounds up to 1000 is above)."""
    *smaller, largest = units
    for unit in smaller:
        if abs(number) < 999.5:
            return f"{number:.3g}{unit}"
        number /= step
    return f"{number:.3g}{largest}"
