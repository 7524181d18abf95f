"""Units of a text with the pieces (sub-words) that a pre-trained model's tokenizer cuts it into."""

from __future__ import annotations

from bisect import bisect_right

from malmoi.text.tokenizer import Tokenizer
from malmoi.text.units import Encoded, Span, units


def encode_units(tokenizer: Tokenizer, text: str) -> Encoded:
    """The units that begin where a piece begins, with the ids of their pieces in place of characters'.

    All pieces one after another are those of the whole text. Units that share a piece are one; those that
    the tokenizer leaves out (control characters) are none. word_ids are of no use.
    """
    spans = units(text)
    if not spans:
        return Encoded([], [], [])
    starts = [start for start, _ in spans]
    pieces: list[list[int]] = [[] for _ in spans]
    ends = [end for _, end in spans]
    for id, (start, end) in zip(tokenizer.encode(text), tokenizer.offsets(text), strict=True):
        blank = len(text[start:end]) - len(text[start:end].lstrip())
        first = max(0, bisect_right(starts, start + blank) - 1)
        pieces[first].append(id)
        ends[first] = max(ends[first], _end_of(spans, starts, end))
    return _joined(starts, ends, pieces)


def _end_of(spans: list[Span], starts: list[int], end: int) -> int:
    """The end of the last unit that begins before `end`."""
    return spans[max(0, bisect_right(starts, end - 1) - 1)][1]


def _joined(starts: list[int], ends: list[int], pieces: list[list[int]]) -> Encoded:
    """Units that reach into the next ones take them in."""
    found = Encoded([], [], [])
    for start, end, ids in zip(starts, ends, pieces, strict=True):
        if found.spans and start < found.spans[-1][1]:
            found.char_ids[-1].extend(ids)
            found.spans[-1] = (found.spans[-1][0], max(end, found.spans[-1][1]))
        elif ids:
            found.word_ids.append(0)
            found.char_ids.append(list(ids))
            found.spans.append((start, end))
    return found
