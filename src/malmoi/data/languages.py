"""Which language a text is in, by its characters."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Language = Literal["ko", "en", "other"]
LANGUAGES: tuple[Language, ...] = ("ko", "en", "other")
SEEN = 5_000  # characters of a text that its language is judged by
_FEWEST = 100  # letters, from which on English is told from other languages of its alphabet
_ENGLISH, _FOREIGN = 0.31, 0.01  # at least of the trigrams; at most of the letters
_HANGUL_WEIGHT = 2.5  # a syllable is as much text as so many Latin letters
# The commonest 200 trigrams of English prose, comments, abstracts and manuals ("_": anything but a letter).
_TRIGRAMS = """
_th the he_ ing ng_ on_ ion _to ed_ _in _an to_ nd_ tio es_ is_ and er_ _a_ e_t _of _co of_ _re ent n_t at_
re_ e_a in_ s_a ati for tha or_ s_t _pr ly_ hat al_ me_ e_s _i_ _fo pro nt_ le_ _be e_i _yo you an_ _is ve_
it_ t_t thi _on all ts_ _we se_ d_t _st _it ate st_ _de e_o _wi as_ ame e_c ll_ _wh _ha s_i his en_ ou_ _mo
_ca _se _no ver _ma e_p n_a ce_ _ne ter ons t_s res s_o ns_ her _ar t_a th_ ut_ per ith t_i _so con _li ch_
te_ com _ex ect _me tra we_ s_w e_f _di _al eve cti e_w e_d are ere e_m f_t ear _lo our _le g_t r_t _na wor
_do _tr wit _he ain _sh _wa men ers ive s_s ne_ nam rat d_a nce rea _as nin e_b ow_ ode tin sta ble pre _us
ld_ ica d_i et_ _pa _s_ _bu int ove lea ry_ _su e_e t_o y_t _wo ot_ _fi s_f e_r ess _fr ur_ use n_i ss_ can
ted era cal ks_ ple lly rs_ one e_l str out
"""
_LETTER = np.zeros(256, dtype=np.int64)  # a to z -> 1 to 26
_LETTER[65:91] = _LETTER[97:123] = np.arange(1, 27)
_COMMON = np.zeros(27**3, dtype=bool)
for _one in _TRIGRAMS.split():
    _a, _b, _c = (_LETTER[ord(letter)] if letter != "_" else 0 for letter in _one)
    _COMMON[(_a * 27 + _b) * 27 + _c] = True
_SIGNS = (
    (0xD7, 0xD8),
    (0xF7, 0xF8),
    (0x2000, 0x2C00),
    (0x3000, 0x3040),
    (0xFE00, 0xFF21),
    (0x1F000, 0x1FB00),
)


def language_of(text: str) -> Language:
    """Korean, English or other, by its characters.

    Korean: Hangul outweighs the other letters. English: hardly a letter but a to z, and of a text of 100
    letters or more the trigrams that are common in English (Cavnar and Trenkle 1994, N-Gram-Based Text
    Categorization): a short one may be any language of that alphabet. A text without letters is other.
    """
    codes = np.frombuffer(text[:SEEN].encode("utf-32-le", "surrogatepass"), dtype="<u4")
    is_hangul = (codes >= 0xAC00) & (codes <= 0xD7A3)
    is_hangul |= ((codes >= 0x1100) & (codes <= 0x11FF)) | ((codes >= 0x3131) & (codes <= 0x318E))
    is_other = (codes >= 0xC0) & ~is_hangul
    for first, end in _SIGNS:
        is_other &= (codes < first) | (codes >= end)
    letters = _LETTER[np.where(codes < 256, codes, 0)]
    hangul, other, latin = int(is_hangul.sum()), int(is_other.sum()), int((letters > 0).sum())
    if hangul and _HANGUL_WEIGHT * (hangul - other) >= latin:
        return "ko"
    if not latin or hangul + other > _FOREIGN * (latin + other + hangul):
        return "other"
    return "en" if latin < _FEWEST or _common_trigrams(letters) >= _ENGLISH else "other"


def _common_trigrams(letters: NDArray[np.int64]) -> float:
    """The share of the trigrams that are common in English; what is no letter counts once in a row."""
    found = letters[(letters > 0) | (np.concatenate([[1], letters[:-1]]) > 0)]
    if len(found) < 3:
        return 0.0
    return float(_COMMON[(found[:-2] * 27 + found[1:-1]) * 27 + found[2:]].mean())
