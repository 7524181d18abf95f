"""Named-entity recognition: which parts of a text are names, and of what kind."""

# ruff: noqa: ARG002  (a method of every task takes the same arguments)
from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, ClassVar

from malmoi.core.nouns import BadRow, Entity, Example, Report
from malmoi.data.characters import composed, composed_offset, original_offset
from malmoi.data.labelled import (
    CONLL_EXTENSIONS,
    RECORD_EXTENSIONS,
    Tagged,
    attempts,
    read_conll,
    read_records,
)
from malmoi.data.opening import Record, extension, short
from malmoi.data.readers import document_hash, find_files, read_each
from malmoi.metrics.statistics import entity_scores
from malmoi.tasks.base import Examples, Found, Nats, Scores, Task
from malmoi.tasks.entity_rows import (
    TAGS as TAG_NAMES,
)
from malmoi.tasks.entity_rows import TOKENS, entity_from, read_brat, read_spacy, rows_with_spans, spans_from
from malmoi.tasks.kinds import TAGS
from malmoi.tasks.span_checks import checked_spans, in_words
from malmoi.tasks.tagging import are_labels, begins_with_b, joint_of, names_of
from malmoi.world import Document

Entities = tuple[Entity, ...]
BRAT, SPACY = ".ann", ".spacy"
EXTENSIONS = tuple(sorted({*CONLL_EXTENSIONS, *RECORD_EXTENSIONS, BRAT, SPACY}))


class NamedEntities(Task[str, Entities]):
    """Tagged tokens, whose text is the tokens with single spaces between, or rows with character spans."""

    name = "ner"
    title = "Named entities"
    about = "The names in the text: people, places, organizations, dates."
    kind = TAGS
    primary = "entity_f1"
    roles: ClassVar = {
        "text": ("sentence", "document", "content", "문장", "본문", "텍스트"),
        "entities": ("spans", "labels", "label", "ents", "annotations", "named_entities", "NE", "개체명"),
        "tokens": TOKENS,
        "tags": TAG_NAMES,
    }
    wordings = (
        (
            "List the named entities of this text in order, as a JSON list only: "
            '[{{"text": "...", "label": "..."}}]. Labels: {labels}\n\nText: {input}',
            'Which names are in this text? Answer with a JSON list of "text" and "label" ({labels}).'
            "\n\n{input}",
            "{input}\n\nExtract all entities of the kinds {labels} from the text above, as JSON.",
        ),
        (
            "글에 나오는 개체명을 순서대로 JSON 목록으로만 답하세요: "
            '[{{"text": "...", "label": "..."}}]. 종류: {labels}\n\n글: {input}',
            '다음 글에 어떤 이름이 나오나요({labels})? "text"와 "label"의 JSON 목록으로 답하세요.\n\n{input}',
            "{input}\n\n위 글에서 {labels} 종류의 개체명을 모두 찾아 JSON으로 쓰세요.",
        ),
    )

    def read(self, path: Path, report: Report) -> list[Example[str, Entities]]:
        """Tagged tokens, brat's and spaCy's files, or records of .jsonl, .json, .csv and .parquet."""
        if extension(path) == ".txt" and path.with_suffix(BRAT).exists():
            path = path.with_suffix(BRAT)
        files = find_files(path, EXTENSIONS)
        texts = {file.with_suffix(".txt") for file in files if extension(file) == BRAT}
        return [one for file in files if file not in texts for one in self._file(file, report)]

    def _file(self, file: Path, report: Report) -> Iterator[Example[str, Entities]]:
        ending = extension(file)
        if ending in CONLL_EXTENSIONS:
            return self._sentences(list(read_conll(file, report)), report)
        if ending == BRAT:
            return self._brat(list(read_each([file], lambda it: read_brat(it, report), report)), report)
        rows = (
            read_each([file], read_spacy, report)
            if ending == SPACY
            else read_records(file, report, fields=self.fields)
        )
        found = rows_with_spans(rows, self.fields, report)
        return attempts(found, lambda row: self.grouped(row, report), report)

    def _brat(self, rows: Sequence[Record], report: Report) -> Iterator[Example[str, Entities]]:
        """The lines of one text, which are one document."""
        document = f"{document_hash(' '.join(row.values['text'] for row in rows)):x}"
        found = attempts(rows, lambda row: self.examples(row, report), report)
        return (replace(self.tidied(one, report), document=document) for one in found)

    def _sentences(
        self, sentences: Sequence[Sequence[Tagged]], report: Report
    ) -> Iterator[Example[str, Entities]]:
        """The examples of one file of tagged sentences."""
        tags = [[one.tag for one in sentence] for sentence in sentences]
        tell = report if begins_with_b(tags) else lambda _: None
        labels = are_labels(chain(*tags))
        joint = joint_of([one.token for sentence in sentences for one in sentence])
        documents = _documents(sentences)

        def make(sentence: Sequence[Tagged]) -> list[Example[str, Entities]]:
            text, names = names_of(sentence, tell, joint=joint, labels=labels)
            first = sentence[0]
            example = Example(text, names, first.where, document=documents.get(first.document, ""))
            return [self.tidied(example, report)]

        return attempts(sentences, make, report)

    def examples(self, record: Record, report: Report) -> Iterator[Example[str, Entities]]:
        """One example of a row with spans."""
        text = self.text(record.values, "text")
        spans = spans_from(self.value(record.values, "entities"))
        entities = tuple(sorted(map(entity_from, spans)))
        if bad := [one for one in entities if not 0 <= one.start < one.end <= len(text)]:
            hint = in_words(text, bad[0])
            raise BadRow(f"{_where(bad[0])} is no part of the text of {len(text)} characters{hint}")
        if bad := [pair for pair in pairwise(entities) if pair[1].start < pair[0].end]:
            raise BadRow(f"{_where(bad[0][0])} and {_where(bad[0][1])} overlap")
        for one, said in (
            (entity_from(it), it["text"]) for it in spans if isinstance(it, Mapping) and "text" in it
        ):
            if (there := text[one.start : one.end]) != said:
                message = f"{_where(one)} is said to be {short(said)!r}, but {there!r} stands there"
                raise BadRow(message + in_words(text, one))
        yield Example(text, entities, record.where)

    def tidied(self, example: Example[str, Entities], report: Report) -> Example[str, Entities]:
        """The same, less white space at the ends of names."""
        found = super().tidied(example, report)
        return replace(found, target=checked_spans(found.input, found.target, found.source, report))

    def composed(self, example: Example[str, Entities]) -> Example[str, Entities]:
        """The same text and names in NFC, where they stand in it."""
        found, text = composed(example), example.input
        if found is example:
            return found
        return replace(found, target=_moved(found.target, lambda at: composed_offset(text, at)))

    def restored(self, target: Entities | None, value: str) -> Entities | None:
        """Where the names stand in `value` as it was."""
        return target if target is None else _moved(target, lambda at: original_offset(value, at))

    def row(self, example: Example[str, Entities]) -> dict[str, Any]:
        """Text and spans."""
        spans = self.to_json(example.target, example.input)
        return {self.named("text"): example.input, self.named("entities"): spans}

    def to_json(self, target: Entities | None, value: str) -> Any:
        """[{"start", "end", "label", "text"}]."""
        spans = target if target is not None else ()
        found = [asdict(one) | {"text": value[one.start : one.end]} for one in spans]
        return None if target is None else found

    def from_json(self, value: Any) -> Entities | None:
        """The inverse of `to_json`."""
        return None if value is None else tuple(sorted(map(entity_from, value)))

    def answer(self, target: Entities, value: str) -> str:
        """A JSON list of text and label; "nth" only where it is not the first place that fits."""
        found: list[dict[str, Any]] = []
        for at, one in enumerate(target):
            text = value[one.start : one.end]
            nth = _places(value, text, target[:at]).index(one.start)
            found.append({"text": text, "label": one.label, **({"nth": nth + 1} if nth else {})})
        return json.dumps(found, ensure_ascii=False)

    def parse(self, reply: str, value: str) -> Entities | None:
        """The entities of the first list of them in a reply; those that are not in the text are left out."""
        found = _first_list(reply)
        if found is None:
            return None
        entities: list[Entity] = []
        for one in found:
            text, label = (one.get("text"), one.get("label")) if isinstance(one, dict) else (None, None)
            if isinstance(text, str) and text and isinstance(label, str):
                places, nth = _places(value, text, entities), one.get("nth", 1)
                if places:
                    place = places[nth - 1 if isinstance(nth, int) and 0 < nth <= len(places) else 0]
                    entities.append(Entity(place, place + len(text), label))
        return tuple(sorted(entities))

    def samples(self, document: Document) -> Iterator[dict[str, Any]]:
        """The names in the text."""
        yield {"text": document.text, "entities": [asdict(span) for span in document.entities]}

    def statistics(self, predictions: Found, examples: Examples, log_likelihoods: Nats = None) -> Scores:
        """entity_f1, precision and recall."""
        return entity_scores(predictions, [example.target for example in examples])


def _first_list(reply: str) -> list[Any] | None:
    """The first JSON list that is empty or begins with an object; [1] and [sic] may stand before it."""
    for bracket in re.finditer(r"\[(?=\s*[{\]])", reply):
        try:
            return json.JSONDecoder().raw_decode(reply, bracket.start())[0]
        except ValueError:
            continue
        except RecursionError:
            break
    return None


def _documents(sentences: Sequence[Sequence[Tagged]]) -> dict[str, str]:
    """Where a document begins -> what stands for it: the same wherever its file lies."""
    words: dict[str, list[str]] = {}
    for first, *others in sentences:
        words.setdefault(first.document, []).extend(one.token for one in (first, *others))
    return {place: f"{document_hash(' '.join(it)):x}" for place, it in words.items() if place}


def _moved(entities: Entities, place: Callable[[int], int]) -> Entities:
    return tuple(replace(one, start=place(one.start), end=place(one.end)) for one in entities)


def _where(entity: Entity) -> str:
    return f"{entity.label} from {entity.start} to {entity.end}"


def _places(text: str, piece: str, taken: Sequence[Entity]) -> list[int]:
    """Where `piece` stands free of `taken` in `text`: after the last of these first, whole words first."""
    found: list[tuple[bool, bool, int]] = []
    last = max((entity.end for entity in taken), default=0)
    at = text.find(piece)
    while at >= 0:
        end = at + len(piece)
        if all(end <= entity.start or entity.end <= at for entity in taken):
            found.append((at < last, _inside(text, at) or (_inside(text, end) and text[end].isascii()), at))
        at = text.find(piece, at + 1)
    return [at for _, _, at in sorted(found)]


def _inside(text: str, at: int) -> bool:
    """Whether `at` lies within a word."""
    return 0 < at < len(text) and text[at - 1].isalnum() and text[at].isalnum()
