"""What `malmoi.data.cleaning` can do to a data set: the settings, by name, and which rows they find."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from malmoi.core.config import StrictModel
from malmoi.core.errors import UserError, nearest
from malmoi.data.characters import composed
from malmoi.data.duplicates import first_equal, near_before, near_originals
from malmoi.data.languages import LANGUAGES, Language
from malmoi.data.personal import PERSONAL_KINDS, personal_kinds, redacted
from malmoi.data.readers import document_hash
from malmoi.data.sketches import Hashes, Ids, Signatures
from malmoi.data.text_rules import FAMILIES, PROSE_RULES, Limits, without_invisible

BLANK = document_hash("")
TEST_FILE, TEST, VALID, TRAIN = range(4)  # roles: what comes before is kept apart from what comes after
ROW = np.dtype([
    ("text", "<u8"), ("input", "<u8"), ("label", "<u8"), ("line", "<u8"), ("file", "<u4"), ("faults", "<u4"),
    ("characters", "<u4"), ("bytes", "<u4"), ("within", "<i4"), ("role", "u1"), ("language", "u1"),
])  # fmt: skip
FIXES = {
    "invisible": "characters that nobody sees, odd blanks and line ends",
    "nfc": "characters in parts, such as decomposed Hangul",
    "boilerplate": "lines that stand in {boilerplate_documents} texts or more",
}
DROPS = {  # in the order in which they are asked: the first that finds a row names the reason
    "unreadable": "rows that cannot be read",
    "empty": "texts with nothing in them",
    "language": "texts in none of the languages asked for",
    **{name: rule.what for name, rule in PROSE_RULES.items()},
    "conflicts": "rows with the input of another, and another label",
    "leaks": "rows that equal, nearly equal or hold a text of a test file or of a part that others test",
    "exact": "rows that equal an earlier one of the part",
    "near": "rows that nearly equal an earlier one of the part (similarity {near} or more)",
}


class Cleaning(StrictModel):
    """What to do: `fix` changes texts, `drop` takes rows out, `redact` hides personal data.

    languages: those that the rule "language" keeps.
    """

    fix: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    redact: tuple[str, ...] = ()
    languages: tuple[Language, ...] = ("ko", "en")
    limits: Limits = Limits()

    @classmethod
    def of(
        cls, *, fix: Iterable[str] = (), drop: Iterable[str] = (), redact: Iterable[str] = (),
        languages: Iterable[str] = ("ko", "en"), limits: dict[str, Any] | None = None,
    ) -> Cleaning:  # fmt: skip
        """Of names as people give them; "gopher" and "c4" stand for all of their rules. Raises UserError."""
        dropped = [name for given in drop for name in FAMILIES.get(given, (given,))]
        known = {
            "fix": (fix, FIXES),
            "drop": (dropped, (*DROPS, *FAMILIES)),
            "languages": (languages, LANGUAGES),
        }
        found = {option: _known(names, there, option) for option, (names, there) in known.items()}
        return cls(**found, redact=personal_kinds(redact), limits=_limits(limits or {}))

    @property
    def acts(self) -> bool:
        """Whether anything is named that changes the data."""
        return bool(self.fix or self.drop or self.redact)

    def every_rule(self) -> Cleaning:
        """The same limits, and all there is to look for."""
        everything = {"fix": tuple(FIXES), "drop": tuple(DROPS), "redact": tuple(PERSONAL_KINDS)}
        return self.model_copy(update=everything)

    def what(self, name: str) -> str:
        """What a rule finds, for people."""
        return (FIXES | DROPS)[name].format(**self.limits.model_dump())

    def fixed(self, text: str, hear: Callable[[str, int], None] = lambda _, __: None) -> str:
        """The text after all fixes but boilerplate; `hear` gets what did something, and how often."""
        for name, fix in (("invisible", without_invisible), ("nfc", composed)):
            if name in self.fix and (better := fix(text)) != text:
                text = better
                hear(name, 1)
        return redacted(text, self.redact, hear)


def _known(names: Iterable[str], known: Iterable[str], option: str) -> tuple[Any, ...]:
    """The names in the order of `known`, each once."""
    wanted, order = set(names), list(known)
    for name in sorted(wanted.difference(order)):
        raise UserError(f"`{option}` {name!r} is not known; {nearest(name, order)}")
    return tuple(name for name in order if name in wanted)


def _limits(given: dict[str, Any]) -> Limits:
    usual = Limits().model_dump()
    for name, value in given.items():
        if name not in usual:
            raise UserError(f"`set` {name} is no limit; {nearest(name, usual)}")
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise UserError(f"`set` {name}={value!r} must be a number, 0 or more, such as {usual[name]}")
        if isinstance(usual[name], int) and not isinstance(value, int):
            raise UserError(f"`set` {name}={value!r} must be a whole number, such as {usual[name]}")
    return Limits(**given)


# ---- which rows


@dataclass(frozen=True)
class RowTable:
    """What is known of all rows of a data set, in the order of reading: one ROW each, and its signature."""

    rows: NDArray[np.void]
    signatures: Signatures
    cleaning: Cleaning

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Matches:
    """The rows that a rule finds, ascending. Shape letter: F of them.

    other_F: the row that each is found by, -1 where there is none. whys[which_F]: why, with {place} for where
    the other stands, and {similarity}.
    """

    ids_F: Ids
    whys: tuple[str, ...] = ("",)
    which_F: NDArray[np.uint8] | None = None  # None: all have the first
    other_F: Ids | None = None
    similarity_F: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.ids_F)

    def why(self, row: int, place_of: Callable[[int], str]) -> str:
        """Why a row is found, which must be one of them."""
        at = int(np.searchsorted(self.ids_F, row))
        why = self.whys[0 if self.which_F is None else self.which_F[at]]
        place = "" if self.other_F is None else place_of(int(self.other_F[at]))
        similarity = 1.0 if self.similarity_F is None else self.similarity_F[at]
        return why.replace("{place}", place).replace("{similarity}", f"{similarity:.2f}")


def find(name: str, table: RowTable, ids: Ids) -> Matches:
    """What the rule `name` of DROPS finds among the rows `ids`; nothing where the table does not show it."""
    return _FINDERS[name](table, ids) if name in _FINDERS else Matches(ids[:0])


def _to_write(table: RowTable, ids: Ids) -> Ids:
    """Those that are not of a test file, which is only compared with."""
    return ids[table.rows["role"][ids] != TEST_FILE]


def _with_text(table: RowTable, ids: Ids) -> Ids:
    return ids[table.rows["input"][ids] != BLANK]


def _empty(table: RowTable, ids: Ids) -> Matches:
    ids = _to_write(table, ids)
    return Matches(ids[table.rows["input"][ids] == BLANK], ("nothing is in it",))


def _language(table: RowTable, ids: Ids) -> Matches:
    ids = _with_text(table, _to_write(table, ids))
    kept = [LANGUAGES.index(name) for name in table.cleaning.languages]
    found = ids[~np.isin(table.rows["language"][ids], kept)]
    whys = tuple(f"its language is {name}" for name in LANGUAGES)
    return Matches(found, whys, table.rows["language"][found])


def _prose(number: int, name: str) -> Callable[[RowTable, Ids], Matches]:
    def finder(table: RowTable, ids: Ids) -> Matches:
        ids = _to_write(table, ids)
        faulty = (table.rows["faults"][ids] >> np.uint32(number)) & np.uint32(1) == 1
        return Matches(ids[faulty], (table.cleaning.what(name),))

    return finder


def _conflicts(table: RowTable, ids: Ids) -> Matches:
    """All rows of an input that has two labels in one part."""
    ids = _with_text(table, _to_write(table, ids))
    inputs = table.rows["input"][ids] ^ _mixed(table.rows["role"][ids])
    first, same = first_equal(inputs), first_equal(inputs ^ _mixed(table.rows["label"][ids]))
    another = np.full(len(ids), -1)  # by the first row of an input: one whose label is not the first's
    others = np.flatnonzero(first != same)
    another[first[others]] = others
    found = np.flatnonzero(another[first] >= 0)
    by = np.where(same == first, another[first], first)[found]
    return Matches(ids[found], ("the same input has another label at {place}",), other_F=ids[by])


_EQUAL, _NEAR = "equals {place}", "nearly equals {place} (similarity {similarity})"


def _leaks(table: RowTable, ids: Ids) -> Matches:
    """Rows with a row of a lower role: equal inputs, a text that stands in theirs, nearly equal texts."""
    ids = _with_text(table, ids)
    roles, within = table.rows["role"], table.rows["within"][ids].astype(np.int64)
    first = ids[first_equal(table.rows["input"][ids])]
    pairs = near_before(table.signatures, ids, table.cleaning.limits.near, roles[ids])
    found = [  # the rows, what they are found by, the similarity
        (ids[roles[first] < roles[ids]], first[roles[first] < roles[ids]], 1.0),
        (ids[within >= 0], within[within >= 0], 1.0),
        (pairs.pairs_P2[:, 1], pairs.pairs_P2[:, 0], pairs.similarity_P),
    ]
    rows_F, which_F = (
        np.concatenate([it[0] for it in found]),
        np.repeat([0, 1, 2], [len(it[0]) for it in found]),
    )
    similarity_F = np.concatenate([np.full(len(it[0]), 1.0) * it[2] for it in found])
    rows, at = np.unique(rows_F, return_index=True)  # the first reason of each
    return Matches(
        rows, (_EQUAL, "holds the text of {place}", _NEAR), which_F[at].astype(np.uint8),
        np.concatenate([it[1] for it in found])[at], similarity_F[at],
    )  # fmt: skip


def _repeats(table: RowTable, ids: Ids) -> tuple[Ids, Ids]:
    """The rows that may repeat others, and of each the first that equals it."""
    ids = _with_text(table, _to_write(table, ids))
    return ids, ids[first_equal(table.rows["text"][ids] ^ _groups(table, ids))]


def _exact(table: RowTable, ids: Ids) -> Matches:
    ids, first = _repeats(table, ids)
    return Matches(ids[first != ids], (_EQUAL,), other_F=first[first != ids])


def _near(table: RowTable, ids: Ids) -> Matches:
    ids, first = _repeats(table, ids)
    ids = ids[first == ids]  # those that are equal are for "exact"
    pairs = near_originals(table.signatures, ids, table.cleaning.limits.near, _groups(table, ids))
    return Matches(
        pairs.pairs_P2[:, 1], (_NEAR,), other_F=pairs.pairs_P2[:, 0], similarity_F=pairs.similarity_P
    )


def _groups(table: RowTable, ids: Ids) -> Hashes:
    """Equal for rows that are compared for duplicates: those of one part and one label."""
    return _mixed(table.rows["role"][ids]) ^ _mixed(table.rows["label"][ids] + np.uint64(1))


def _mixed(values: NDArray[Any]) -> Hashes:
    """Numbers that lie far apart, so that they can be told apart in another hash."""
    return (values.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)


_FINDERS: dict[str, Callable[[RowTable, Ids], Matches]] = {
    "empty": _empty,
    "language": _language,
    **{name: _prose(number, name) for number, name in enumerate(PROSE_RULES)},
    "conflicts": _conflicts,
    "leaks": _leaks,
    "exact": _exact,
    "near": _near,
}
