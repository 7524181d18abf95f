"""Names by rule: what sounds and words they are made of, their Hangul, and which of them training never sees.

A name has one right form in each language: the rules can be read in both directions, so that even a name
that nobody has seen can be translated. Latin letters follow the Revised Romanization, syllable by syllable.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from random import Random
from string import Formatter
from typing import Any, Literal, Protocol, TypeAlias

from malmoi.world.patterns import PARTICLES, Language, Term, with_particle

Split = Literal["train", "valid", "test"]
UNSEEN_SHARE = 0.5  # of the names in valid and test documents, this share never occurs in train
WORD_BUCKETS = 16  # of words by their hash: one is only for valid, two are only for test

_ONSETS = {
    "ㄱ": "g", "ㄲ": "kk", "ㄴ": "n", "ㄷ": "d", "ㄸ": "tt", "ㄹ": "r", "ㅁ": "m", "ㅂ": "b", "ㅃ": "pp",
    "ㅅ": "s", "ㅆ": "ss", "ㅇ": "", "ㅈ": "j", "ㅉ": "jj", "ㅊ": "ch", "ㅋ": "k", "ㅌ": "t", "ㅍ": "p",
    "ㅎ": "h",
}  # fmt: skip
_VOWELS = {
    "ㅏ": "a", "ㅐ": "ae", "ㅑ": "ya", "ㅒ": "yae", "ㅓ": "eo", "ㅔ": "e", "ㅕ": "yeo", "ㅖ": "ye",
    "ㅗ": "o", "ㅘ": "wa", "ㅙ": "wae", "ㅚ": "oe", "ㅛ": "yo", "ㅜ": "u", "ㅝ": "wo", "ㅞ": "we", "ㅟ": "wi",
    "ㅠ": "yu", "ㅡ": "eu", "ㅢ": "ui", "ㅣ": "i",
}  # fmt: skip
_CODAS = {"": (0, ""), "ㄱ": (1, "k"), "ㄴ": (4, "n"), "ㄹ": (8, "l"), "ㅁ": (16, "m"), "ㅂ": (17, "p"),
          "ㅇ": (21, "ng")}  # fmt: skip
_AS_PEOPLE_WRITE = {"우": "woo", "샤": "sha", "쇼": "sho", "슈": "shu"}  # where the rule reads badly

Words: TypeAlias = Mapping[Split, Sequence[Term]]
Syllables: TypeAlias = Sequence[tuple[str, str]]  # in Latin letters and in Hangul


class TermPool(Protocol):
    """A pool: what a slot can take, some of it for one split only."""

    def draw(self, rng: Random, split: Split) -> Term:
        """One of its terms, which a document of `split` may have."""
        ...


@dataclass(frozen=True)
class Pool:
    """Ordinary words, which every split may have."""

    terms: Sequence[Term]

    def draw(self, rng: Random, split: Split) -> Term:  # noqa: ARG002  (the same for every pool)
        """One of them."""
        return _one_of(self.terms, rng)


@dataclass(frozen=True)
class Only:
    """Those of a pool with one `extra`, e.g. women."""

    pool: TermPool
    extra: str

    def draw(self, rng: Random, split: Split) -> Term:
        """One of them."""
        while (term := self.pool.draw(rng, split)).extra != self.extra:
            pass
        return term


def _one_of(terms: Sequence[Term], rng: Random) -> Term:
    """As `rng.choice`, in a third of the time."""
    return terms[int(rng.random() * len(terms))]


def split_of_word(word: str) -> Split:
    """The one split of valid and test that may have this name or part of a name; "train": all may."""
    held_out: dict[int, Split] = {0: "valid", 1: "test", 2: "test"}
    return held_out.get(zlib.crc32(word.lower().encode()) % WORD_BUCKETS, "train")


def _next_from(split: Split, rng: Random) -> Split:
    """Where the next name of a document of `split` comes from."""
    return split if split != "train" and rng.random() < UNSEEN_SHARE else "train"


def syllable(onset: str, vowel: str, coda: str = "") -> str:
    """A Hangul syllable of its letters."""
    number = list(_ONSETS).index(onset) * 21 + list(_VOWELS).index(vowel)
    return chr(ord("가") + number * 28 + _CODAS[coda][0])


def romanized(hangul: str) -> str:
    """Hangul in Latin letters: 체보 is "chebo"."""
    return "".join(_AS_PEOPLE_WRITE.get(one) or _letters(one) for one in hangul)


def _letters(one: str) -> str:
    number = ord(one) - ord("가")
    codas = dict(_CODAS.values())
    return (
        list(_ONSETS.values())[number // 588] + list(_VOWELS.values())[number // 28 % 21] + codas[number % 28]
    )


def read_terms(block: str, label: str = "") -> tuple[Term, ...]:
    """Lines `English = Korean ; extra` as terms."""
    terms: list[Term] = []
    for line in filter(None, map(str.strip, block.splitlines())):
        words, _, extra = line.partition(" ; ")
        en, ko = words.split(" = ")
        terms.append(Term(en.strip(), ko.strip(), label, extra=extra.strip()))
    return tuple(terms)


# ---- invented words


@dataclass(frozen=True)
class Sounds:
    """Invented words of two or three syllables: Chebo, Garim, Yuwari."""

    kinds: Sequence[tuple[Syllables, Syllables | None]]  # syllables, and the last ones where these differ
    avoid: re.Pattern[str]  # in Latin letters
    known: frozenset[str]  # in both scripts, what is a word or another name already

    def draw(self, rng: Random, split: Split, longest: int = 3) -> Term:
        """One that only `split` may have; of train, one that all may have."""
        while True:
            syllables, endings = self.kinds[int(rng.random() * len(self.kinds))]
            short = endings or longest == 2 or rng.random() < 0.6
            pieces = [syllables[int(rng.random() * len(syllables))] for _ in range(1 if short else 2)]
            endings = endings or syllables
            latin, hangul = map("".join, zip(*pieces, endings[int(rng.random() * len(endings))], strict=True))
            fresh = latin not in self.known and hangul not in self.known and not self.avoid.search(latin)
            if fresh and split_of_word(latin) == split:
                return Term(latin.capitalize(), hangul)


def read_sounds(sounds: Mapping[str, str], avoid: str, known: Iterable[Term]) -> Sounds:
    """From `onsets / vowels / codas / other syllables` of each kind; `known` are other words and names."""
    kinds: list[tuple[Syllables, Syllables | None]] = []
    for spec in sounds.values():
        onsets, vowels, codas, more = (part.strip() for part in spec.split("/"))
        plain = [syllable(*letters) for letters in product(onsets, vowels)] + more.split()
        endings = [syllable(*letters) for letters in product(onsets, vowels, codas)]
        kinds.append((_spelt(plain), _spelt(endings) or None))
    both = frozenset(form.lower() for term in known for form in (term.en, term.ko))
    return Sounds(kinds, re.compile("|".join(filter(str.isascii, avoid.split()))), both)


def _spelt(syllables: Sequence[str]) -> Syllables:
    return [(romanized(one), one) for one in syllables]


# ---- people


@dataclass(frozen=True)
class People:
    """Full names in the order of each name's own language: Mina Han is 한미나, Chebo Gimo is 체보 기모."""

    kinds: Sequence[tuple[Words, Words, str]]  # given names, family names, what stands between in Korean
    sounds: Sounds

    def draw(self, rng: Random, split: Split) -> Term:
        """Somebody whose given name is of one kind with the family name, as are their splits."""
        source = _next_from(split, rng)
        kind = int(rng.random() * (len(self.kinds) + 1))
        if kind == len(self.kinds):
            first = self.sounds.draw(rng, source, longest=2)
            last = self.sounds.draw(rng, self._family_from(source, rng))
            return _person(first, last, " ", "f" if first.en[-1] in "aei" else "m", source)
        given, family, between = self.kinds[kind]
        first, last = _one_of(given[source], rng), _one_of(family[self._family_from(source, rng)], rng)
        return _person(first, last, between, first.extra, source)

    def _family_from(self, source: Split, rng: Random) -> Split:
        return source if rng.random() < 0.5 else "train"


def _person(first: Term, last: Term, between: str, sex: str, source: Split) -> Term:
    ko = f"{first.ko} {last.ko}" if between else f"{last.ko}{first.ko}"
    return Term(f"{first.en} {last.en}", ko, "PER", first.en, first.ko, sex, source != "train")


def _korean_given(korean: Mapping[str, str], words: set[str]) -> list[Term]:
    pairs = [(sex, pair) for sex in "fm" for pair in product(korean["first"].split(), korean[sex].split())]
    names = [(first + second, sex) for sex, (first, second) in pairs if first != second]
    return [Term(romanized(ko).capitalize(), ko, extra=sex) for ko, sex in names if ko not in words]


def _joined(heads: str, tails: str, sex: str = "") -> list[Term]:
    pairs = product(read_terms(heads), read_terms(tails))
    return [
        Term(head.en + tail.en, head.ko + tail.ko, extra=sex)
        for head, tail in pairs
        if head.en[-1].lower() != tail.en[0]
    ]


def read_people(names: Mapping[str, Any], known: Sequence[Term]) -> tuple[People, Sounds]:
    """Korean people, people with English-looking names, and people with invented ones. `known`: words."""
    korean, western = names["korean"], names["western"]
    words = {*names["avoid"].split(), *names["taken"].split()}
    given = _readable(_korean_given(korean, words))
    english = _readable([one for sex in "fm" for one in _joined(western["head"], western[sex], sex)])
    families = _readable(_joined(western["family_head"], western["family_tail"]))
    taken = [Term(word, word) for word in words]
    sounds = read_sounds(names["sounds"], names["avoid"], [*known, *taken, *given, *english, *families])
    kinds = (
        (_by_split(given), _by_split(read_terms(korean["family"])), ""),
        (_by_split(english), _by_split(families), " "),
    )
    return People(kinds, sounds), sounds


def _readable(names: Sequence[Term]) -> list[Term]:
    """Those that no other has a form of: 재운 and 자은 would both be Jaeun."""
    english, korean = (Counter(forms) for forms in zip(*((name.en, name.ko) for name in names), strict=True))
    return [name for name in names if english[name.en] == 1 == korean[name.ko]]


def _by_split(names: Sequence[Term]) -> Words:
    parts: dict[Split, list[Term]] = {"train": [], "valid": [], "test": []}
    for name in names:
        parts[split_of_word(name.en)].append(name)
    return parts


# ---- names made of words


@dataclass(frozen=True)
class Composed:
    """Names made of words by forms, e.g. `{noun} {road} = {noun}{road}`.

    Held out by their invented word, by what they share with other names, or as a whole.
    """

    forms: Sequence[tuple[str, str]]
    words: Mapping[str, Sequence[Term]]
    sounds: Sounds
    label: str = ""

    def draw(self, rng: Random, split: Split) -> Term:
        """A name that a document of `split` may have."""
        source = _next_from(split, rng)
        while True:
            english, korean = self.forms[int(rng.random() * len(self.forms))]
            parts, sure = self._parts(english, source, rng)
            en = _filled(english, parts, "en")
            kernel = _kernel(parts)
            if split_of_word(kernel or en) == source or (sure and (not kernel or _open(kernel))):
                extra = next(reversed(parts.values())).extra if self.label == "LOC" else ""  # a preposition
                ko = _filled(korean, parts, "ko")
                return Term(en, ko, self.label, extra=extra, unseen=source != "train")

    def _parts(self, form: str, source: Split, rng: Random) -> tuple[dict[str, Term], bool]:
        """A word for each slot, no two alike, and whether one of them belongs to `source` only."""
        parts: dict[str, Term] = {}
        sure = False
        for _, slot, _ in form_pieces(form):
            if slot in ("sound", "pet"):
                parts[slot] = self.sounds.draw(rng, source, longest=2 if slot == "pet" else 3)
                sure = True
            elif slot:
                words = self.words[slot.rstrip("2")]
                term = _one_of(words, rng)
                while term in parts.values():
                    term = _one_of(words, rng)
                parts[slot] = term
        return parts, sure


def _open(word: str) -> bool:
    return split_of_word(word) == "train"


def _kernel(parts: Mapping[str, Term]) -> str:
    """What several forms share and are held out by: Big Crab, in Big Crabs and in Five Big Crabs; or ""."""
    things = [parts[slot].en for slot in ("noun", "animal") if slot in parts]
    return f"{parts['adjective'].en} {things[0]}" if "adjective" in parts and things else ""


@cache
def form_pieces(form: str) -> tuple[tuple[str, str, str], ...]:
    """(text, slot, modifier) of each slot of a form, and the text at its end."""
    return tuple((text, slot or "", modifier or "") for text, slot, modifier, _ in Formatter().parse(form))


def _filled(form: str, parts: Mapping[str, Term], language: Language) -> str:
    """The form with its words: {animal:s} a plural, {sound:을} with a particle."""
    found: list[str] = []
    for text, slot, modifier in form_pieces(form):
        found.append(text)
        if slot:
            word = parts[slot].extra if modifier == "s" else parts[slot].text(language)
            found.append(word)
            if modifier in PARTICLES:
                found.append(with_particle(word, modifier))
    return "".join(found)


def read_pools(names: Mapping[str, Any]) -> dict[str, TermPool]:
    """The pools of names.yaml: people, what is composed of words, and the few names that are always so."""
    words = {name: read_terms(block) for name, block in names["words"].items()}
    people, sounds = read_people(names, [term for terms in words.values() for term in terms])
    found: dict[str, TermPool] = {"person": people, "woman": Only(people, "f")}
    for name, spec in names["forms"].items():
        forms = [tuple(form.strip().split(" = ")) for form in spec["forms"].strip().splitlines()]
        found[name] = Composed([(en, ko) for en, ko in forms], words, sounds, spec.get("label", ""))
    for name, (line, label) in names["fixed"].items():
        found[name] = Pool(read_terms(line, label))
    return found
