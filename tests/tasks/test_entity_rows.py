"""Names as programs for labelling write them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from malmoi.core.nouns import Entity, Example, Finding
from malmoi.tasks.ner import NamedEntities

TEXT = "Mina Seo 는 Seoul 에 산다"
NAMES = (Entity(0, 8, "PER"), Entity(11, 16, "LOC"))
SPANS = [[0, 8, "PER"], [11, 16, "LOC"]]
TOKENS = TEXT.split()
TAGS = ["B-PER", "I-PER", "O", "B-LOC", "O", "O"]


def read(path: Path, **fields: str) -> tuple[list[Example[str, Any]], list[Finding]]:
    findings: list[Finding] = []
    found = NamedEntities(fields).read(path, findings.append)
    return found, [one for one in findings if one.level != "read"]


def label_studio(spans: list[list[Any]], **more: Any) -> dict[str, Any]:
    values = [{"start": a, "end": b, "text": TEXT[a:b], "labels": [label]} for a, b, label in spans]
    result = [{"type": "labels", "from_name": "label", "value": value} for value in values]
    choice = {"type": "choices", "from_name": "kind", "value": {"choices": ["news"]}}
    return {"id": 1, "result": [*result, choice], **more}


ROWS: dict[str, Any] = {
    "doccano": {
        "id": 1, "text": TEXT, "relations": [], "Comments": [],
        "entities": [{"id": 7, "label": label, "start_offset": a, "end_offset": b} for a, b, label in SPANS],
    },
    "doccano, old": {"id": 1, "text": TEXT, "meta": {}, "annotation_approver": None, "labels": SPANS},
    "doccano, label": {"id": 1, "text": TEXT, "label": SPANS},
    "label studio": {"id": 1, "data": {"text": TEXT}, "annotations": [label_studio(SPANS)]},
    "label studio, cancelled": {
        "data": {"text": TEXT}, "annotations": [label_studio([], was_cancelled=True), label_studio(SPANS)],
    },
    "label studio, minimal": {
        "text": TEXT, "annotator": 1,
        "label": [{"start": a, "end": b, "text": TEXT[a:b], "labels": [name]} for a, b, name in SPANS],
    },
    "spacy": [TEXT, {"entities": SPANS}],
    "spacy, to_json": {
        "text": TEXT, "ents": [{"start": a, "end": b, "label": label} for a, b, label in SPANS],
        "tokens": [{"id": 0, "start": 0, "end": 4}],
    },
    "prodigy": {
        "text": TEXT, "tokens": [{"text": "Mina", "start": 0, "end": 4, "id": 0}],
        "spans": [{"start": a, "end": b, "label": label} for a, b, label in SPANS],
    },
    "rasa": {"text": TEXT, "entities": [{"start": a, "end": b, "entity": name} for a, b, name in SPANS]},
    "columns": {"text": TEXT, "entities": {"start": [0, 11], "end": [8, 16], "label": ["PER", "LOC"]}},
    "whole floats": {"text": TEXT, "entities": [[0.0, 8.0, "PER"], [11.0, 16.0, "LOC"]]},
    "tokens": {"id": "0", "tokens": TOKENS, "ner_tags": TAGS, "pos_tags": [1] * 6},
    "words and labels": {"words": TOKENS, "labels": TAGS},
    "sentence and word labels": {"sentence": TEXT, "word_labels": str(TAGS)},
}  # fmt: skip


@pytest.mark.parametrize("form", ROWS)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_every_form_is_the_same_example(form: str, name: str, tmp_path: Path) -> None:
    rows = [ROWS[form], ROWS[form]]
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / name).write_text(json.dumps(rows) if name == "a.json" else lines, encoding="utf-8")
    found, findings = read(tmp_path / name)
    assert [(one.input, one.target) for one in found] == [(TEXT, NAMES)] * 2
    assert [one for one in findings if "stands at" not in one.message] == []


@pytest.mark.parametrize(
    "tags",
    [
        "B-PER I-PER O B-LOC O O",
        "b-per i-per o b-loc o o",
        "PER_B PER_I O LOC_B O O",
        "PER-B PER-I - LOC-B - -",
        "B_PER E_PER O W_LOC O O",
        "B-PER M-PER O S-LOC O O",
        "B-PER L-PER O U-LOC O O",
        "I-PER I-PER O I-LOC O O",
        "PER PER O LOC O O",
    ],
)
def test_every_scheme_and_spelling_of_tags(tags: str, tmp_path: Path) -> None:
    lines = [f"{token}\t{tag}" for token, tag in zip(TOKENS, tags.split(), strict=True)]
    (tmp_path / "a.conll").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"tokens": TOKENS, "ner_tags": tags.split()}), encoding="utf-8"
    )
    for name in ("a.conll", "a.jsonl"):
        (found,), findings = read(tmp_path / name)
        assert found.input == TEXT
        assert [(one.start, one.end, one.label.upper()) for one in found.target] == [
            tuple(it) for it in SPANS
        ]
        assert [finding.level for finding in findings if tags[0] != "I"] == []


def test_tokens_that_are_characters_are_joined(tmp_path: Path) -> None:
    lines = ["## klue-1\t<미나:PS>가 온다", "미\tB-PS", "나\tI-PS", "가\tO", " \tO", "온\tO", "다\tO", ""]
    (tmp_path / "a.tsv").write_text(("\n".join(lines) + "\n") * 2, encoding="utf-8")
    chinese = "".join(f"{letter} {tag}\n" for letter, tag in zip("王明去北京", "BIOBI", strict=True))
    chinese = chinese.replace("B", "B-X").replace("I", "I-X")
    (tmp_path / "b.bio").write_text(chinese, encoding="utf-8")
    assert read(tmp_path / "a.tsv")[0][0].input == "미나가 온다"
    assert read(tmp_path / "a.tsv")[0][0].target == (Entity(0, 2, "PS"),)
    assert read(tmp_path / "b.bio")[0][0].input == "王明去北京"


def test_a_no_break_space_is_in_a_token(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text("10\xa0000 B-N\n\u3000 O\nwon O\n", encoding="utf-8")
    assert read(tmp_path / "a.conll")[0][0].target == (Entity(0, 6, "N"),)


def test_a_row_for_each_token(tmp_path: Path) -> None:
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(["Sentence #", "Word", "POS", "Tag"])
    for number in range(2):
        for at, (token, tag) in enumerate(zip(TOKENS, TAGS, strict=True)):
            writer.writerow(["" if at else f"Sentence: {number}", token, "NNP", tag])
    (tmp_path / "a.csv").write_text(file.getvalue(), encoding="utf-8")
    found, findings = read(tmp_path / "a.csv")
    assert [(one.input, one.target) for one in found] == [(TEXT, NAMES)] * 2
    assert [one.source.rpartition(":")[2] for one in found] == ["2", "8"]
    assert findings == []
    (tmp_path / "b.csv").write_text("word,tag\na,O\nb,O\n", encoding="utf-8")
    found, (finding,) = read(tmp_path / "b.csv")
    assert "says which tokens are one sentence" in finding.message


def test_brat_has_a_text_and_its_names(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"A title\n\n{TEXT}\nand Mina\nSeo left\n", encoding="utf-8")
    names = ["T1\tPER 9 17\tMina Seo", "T2\tLOC 20 25\tSeoul", "T3\tPER 35 43\tMina Seo"]
    others = ["R1\tLives Arg1:T1 Arg2:T2", "#1\tAnnotatorNotes T1\tsure", "T4\tPER 0 1;3 4\tA i"]
    (tmp_path / "a.ann").write_text("\n".join(names + others), encoding="utf-8")
    for path in (tmp_path, tmp_path / "a.ann", tmp_path / "a.txt"):
        found, (finding,) = read(path)
        assert [(one.input, one.target) for one in found] == [
            ("A title", ()), (TEXT, NAMES), ("and Mina\nSeo left", (Entity(4, 12, "PER"),))
        ]  # fmt: skip
        assert [one.source.rpartition(":")[2] for one in found] == ["1", "3", "4"]
        assert len({one.document for one in found}) == 1
        assert finding.where.endswith("a.ann:6")
    (tmp_path / "a.txt").unlink()
    found, (finding,) = read(tmp_path)
    assert "a.txt is not there" in finding.message


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["a", "b"], "ner_tags": [0, 1]}, "holds numbers"),
        ({"tokens": ["a", "b"], "ner_tags": ["O"]}, "2 tokens and 1 tags"),
        ({"tokens": ["a", "b"], "ner_tags": ["O", "X-Y"]}, "unknown tag 'X-Y'"),
    ],
)
def test_what_is_wrong_with_tags_is_said(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row), encoding="utf-8")
    found, findings = read(tmp_path / "a.jsonl")
    assert found == []
    assert message in findings[0].message


def test_a_task_that_nobody_labelled_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(
        json.dumps([{"data": {"text": "a"}, "annotations": []}]), encoding="utf-8"
    )
    found, (finding,) = read(tmp_path / "a.json")
    assert (found, finding.level) == ([], "note")


def test_spacys_own_files(tmp_path: Path) -> None:
    spacy = pytest.importorskip("spacy")
    doc = spacy.blank("xx")(TEXT)
    doc.ents = [doc.char_span(*span) for span in SPANS]
    spacy.tokens.DocBin(docs=[doc]).to_disk(tmp_path / "a.spacy")
    (found,), _ = read(tmp_path / "a.spacy")
    assert (found.input, found.target) == (TEXT, NAMES)


_TAGS = st.sampled_from(["O", "B-X", "I-X", "B-Y", "I-Y"])


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tags=st.lists(_TAGS, min_size=1, max_size=8))
def test_tokens_in_rows_are_as_tokens_in_lines(tags: list[str], tmp_path: Path) -> None:
    tokens = [f"t{at}" for at in range(len(tags))]
    (tmp_path / "a.jsonl").write_text(json.dumps({"tokens": tokens, "ner_tags": tags}), encoding="utf-8")
    lines = [f"{token} {tag}" for token, tag in zip(tokens, tags, strict=True)]
    (tmp_path / "b.conll").write_text("\n".join(lines), encoding="utf-8")
    (one,), _ = read(tmp_path / "a.jsonl")
    (other,), _ = read(tmp_path / "b.conll")
    assert (one.input, one.target) == (other.input, other.target)
