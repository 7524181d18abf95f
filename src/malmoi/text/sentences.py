"""Where sentences begin and end, in English and Korean, by rule."""

from __future__ import annotations

import re

# A blank between two sentences: a line's end, or white space after an end sign (and closing quotes) where no
# small letter follows. A full stop after one capital ("J. Kim") or a common short form ends nothing.
_SHORT = ("Mr", "Mrs", "Ms", "Dr", "St", "vs", "etc", "al", "Fig", "No", "Prof", "Jr", "Sr", "cf")
_NOT_SHORT = "".join(rf"(?<!\b{short}\.)" for short in (*_SHORT, "[A-Z]"))
_GAP = re.compile(rf"\s*\n\s*|(?<=[.!?…。]){_NOT_SHORT}(?:[\"'”’」』)\]]+)?\s+(?![a-z])|\Z")


def sentences(text: str) -> list[tuple[int, int]]:
    """The span (start, end) of each sentence, without white space around it; closing quotes stay inside."""
    found, start = [], 0
    for gap in _GAP.finditer(text):
        piece = text[start : gap.end()]
        left = start + len(piece) - len(piece.lstrip())
        if piece.strip():
            found.append((left, left + len(piece.strip())))
        start = gap.end()
    return found
