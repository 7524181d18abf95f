"""The colours and fonts of everything that is shown: pictures, plots, pages and the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

COLOURS = ("#4c8df6", "#e8743b", "#35a77c", "#b45fd1", "#c9a227", "#d6455d")  # legible on light and dark
MARKERS = "osD^vPX"
BLUE, _, GREEN, _, _, RED = COLOURS
TINTS = ("#cfe2ff", "#ffe2bd", "#d3f2cf", "#f6d5f3", "#fbf3b6")  # behind black text, as those of a terminal
TERMINAL_TINTS = ("#b3d4ff", "#ffd6a5", "#caffbf", "#ffc6ff", "#fdffb6")
PAPER, INK, SOFT, LINE = "#ffffff", "#22252b", "#6b7079", "#dcd9d0"
GREY, FAINT, FRAME, HOT = "#8a8f98", "#b6bac2", "#1c9a6c", "#e2443c"
# from the least to the most
SHARE = (PAPER, "#b9d2fc", BLUE, "#12397f")
SIGNED = ("#c8402f", "#f3b7a6", PAPER, "#a9d8c4", "#1c7d59")
SURPRISE = ("#9fd6bd", "#f5d58a", HOT)

PAGE_FONTS = (
    "system-ui", "-apple-system", "Segoe UI", "Apple SD Gothic Neo", "Malgun Gothic", "Noto Sans CJK KR",
    "Noto Sans KR", "NanumGothic", "sans-serif",
)  # fmt: skip
MONO_FONTS = ("ui-monospace", "SFMono-Regular", "Consolas", "NanumGothicCoding", "monospace")
HANGUL_FONTS = (  # that a picture looks for among those installed
    "Noto Sans KR", "Noto Sans CJK KR", "Apple SD Gothic Neo", "Malgun Gothic", "NanumGothic",
    "NanumBarunGothic",
)  # fmt: skip

# The variables of a page's style, on light and on dark.
BOTH = {"good": GREEN, "bad": RED, "badge": "#237a5a", "won": "#2c9a6c"}
LIGHT = {
    "page": "#fbfaf7", "ink": INK, "soft": SOFT, "line": LINE, "card": PAPER, "bar": BLUE,
    "warn": "#c2410c", **{f"t{n}": tint for n, tint in enumerate(TINTS)},
}  # fmt: skip
DARK = {
    "page": "#16181d", "ink": "#e7e5df", "soft": "#9a9da5", "line": "#353941", "card": "#1e2127",
    "bar": "#5c97f2", "warn": "#fdba74", "t0": "#1f4272", "t1": "#6b4413", "t2": "#22562a", "t3": "#5e2f5b",
    "t4": "#5b5310",
}  # fmt: skip


def variables(colours: Mapping[str, str]) -> str:
    """CSS that sets a variable for each name."""
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())


def font_family(names: Sequence[str]) -> str:
    """The value of a CSS font-family."""
    return ", ".join(f'"{name}"' if " " in name else name for name in names)


def veil(colour: str, share: float) -> str:
    """A colour that lets what is behind it through, in CSS; share: 0 is clear."""
    red, green, blue = bytes.fromhex(colour[1:])
    return f"rgba({red}, {green}, {blue}, {share:.2f})"
