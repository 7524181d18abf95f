"""Pictures as files: a PNG each, and one page that has them all inside."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from malmoi.show.picture import Picture
from malmoi.util.files import write_bytes, write_text

INDEX = "index.html"
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
:root {{ --page: #fbfaf7; --ink: #22252b; --soft: #6b7079; --line: #dcd9d0; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --page: #16181d; --ink: #e7e5df; --soft: #9a9da5; --line: #353941; }} }}
body {{ margin: 0; background: var(--page); color: var(--ink); line-height: 1.6;
  font-family: system-ui, -apple-system, "Segoe UI", "Apple SD Gothic Neo", "Malgun Gothic",
    "Noto Sans CJK KR", "Noto Sans KR", sans-serif; }}
main {{ max-width: 60rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }}
h1 {{ font-size: 1.7rem; margin: 0 0 .25rem; }} h2 {{ font-size: 1.2rem; margin: 2.4rem 0 .4rem; }}
p {{ margin: .4rem 0 .9rem; }}
blockquote {{ margin: .6rem 0; color: var(--soft);
  white-space: pre-wrap; overflow-wrap: anywhere; }}
.card {{ background: #fff; border: 1px solid var(--line); border-radius: .6rem; padding: .6rem;
  overflow-x: auto; }}
img {{ display: block; max-width: 100%; height: auto; margin: 0 auto; }}
</style></head><body><main><h1>{title}</h1><blockquote>{text}</blockquote>
{pictures}
</main></body></html>
"""
_PICTURE = """<section id="{name}"><h2>{title}</h2>
<div class="card"><img alt="{title}" src="data:image/png;base64,{png}"></div>
<p>{explanation}</p></section>"""


def write_pictures(folder: Path, pictures: Sequence[Picture], *, title: str, text: str) -> Path:
    """Write each picture as NAME.png and all of them into index.html, whose path is returned.

    Pictures of the same names are replaced, nothing else in the folder is touched.
    """
    shown = []
    for picture in pictures:
        png = picture.png()
        write_bytes(folder / f"{picture.name}.png", png)
        shown.append(_section(picture, png))
    page = _PAGE.format(title=escape(title), text=escape(text), pictures="\n".join(shown))
    write_text(folder / INDEX, page)
    return folder / INDEX


def _section(picture: Picture, png: bytes) -> str:
    content = base64.b64encode(png).decode()
    name, title, explanation = (escape(part) for part in (picture.name, picture.title, picture.explanation))
    return _PICTURE.format(name=name, title=title, explanation=explanation, png=content)
