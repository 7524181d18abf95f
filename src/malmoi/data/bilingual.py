"""Translation memories: TMX and XLIFF to rows of a text in each language."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from malmoi.data.arrow import Unreadable
from malmoi.data.opening import How, Record, open_bytes

EXTENSIONS = (".tmx", ".xlf", ".xliff", ".mqxliff", ".sdlxliff")
_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
# marks of a document's format within a sentence, whose content is code and no text
_CODE = {"bpt", "ept", "ph", "it", "ut", "x", "bx", "ex"}
_UNITS = ("tu", "trans-unit", "segment")  # what holds a text in both languages: of TMX, XLIFF 1 and 2


def read_memory(path: Path, how: How) -> Iterator[Record]:
    """The texts of each unit by their languages' codes; of a unit without two of them, an error."""
    languages: dict[str, str] = {}
    number = 0
    try:
        with open_bytes(path) as file:
            for event, node in ElementTree.iterparse(file, events=("start", "end")):
                if event == "start":
                    languages |= _languages(node)
                elif _name(node) in _UNITS:
                    number += 1
                    values = _texts(node, languages)
                    if len(values) > 1:
                        yield Record(values, f"{path}:{number}")
                    else:
                        how.error(f"{path}:{number}", f"expected texts in two languages, found {len(values)}")
                    node.clear()
    except ElementTree.ParseError as error:
        raise Unreadable(f"is no whole XML ({error}); write it again") from None


def _name(node: Element) -> str:
    return node.tag.rpartition("}")[2]


def _languages(node: Element) -> dict[str, str]:
    """What XLIFF says of the languages of its sources and targets, in the file or in the whole."""
    said = {
        "source": node.get("source-language") or node.get("srcLang"),
        "target": node.get("target-language") or node.get("trgLang"),
    }
    return {side: _code(language) for side, language in said.items() if language}


def _texts(unit: Element, languages: dict[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for child in unit:
        name = _name(child)
        if name == "tuv":
            language = child.get(_LANGUAGE) or child.get("lang") or ""
            segment = next((it for it in child if _name(it) == "seg"), child)
            found[_code(language)] = _text(segment)
        elif name in ("source", "target"):
            found[languages.get(name, name)] = _text(child)
    return {language: text for language, text in found.items() if text}


def _code(language: str) -> str:
    """ko-KR -> ko."""
    return re.split("[-_]", language)[0].lower()


def _text(node: Element) -> str:
    """All text in a segment less the code in it, with white space as single spaces."""

    def pieces(inner: Element) -> Iterator[str]:
        yield inner.text or ""
        for child in inner:
            if _name(child) not in _CODE:
                yield from pieces(child)
            yield child.tail or ""

    return " ".join("".join(pieces(node)).split())
