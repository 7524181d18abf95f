from __future__ import annotations

import json
from bisect import bisect
from itertools import accumulate, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import seqeval.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.compare.settings import ComparisonSettings, load_material
from malmoi.core.nouns import Entity, Example, Finding
from malmoi.tasks.ner import NamedEntities

BIO = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def read(
    path: Path, content: str, **fields: str
) -> tuple[list[Example[str, tuple[Entity, ...]]], list[Finding]]:
    path.write_text(content, encoding="utf-8")
    findings: list[Finding] = []
    return NamedEntities(fields).read(path, findings.append), findings


def conll(tags: str, tokens: str = "강 민수 는 New York 에") -> str:
    return "".join(f"{token} {tag}\n" for token, tag in zip(tokens.split(), tags.split(), strict=True))


@pytest.mark.parametrize(
    "tags",
    [
        "B-PER I-PER O B-LOC I-LOC O",
        "I-PER I-PER O I-LOC I-LOC O",  # IOB1
        "B-PER L-PER O B-LOC L-LOC O",  # BILOU
        "B-PER E-PER O B-LOC E-LOC O",  # IOBES
    ],
)
def test_every_scheme_gives_the_same_spans(tags: str, tmp_path: Path) -> None:
    (found,), findings = read(tmp_path / "a.conll", conll(tags))
    assert found.input == "강 민수 는 New York 에"
    assert found.target == (Entity(0, 4, "PER"), Entity(7, 15, "LOC"))
    assert found.source == f"{tmp_path / 'a.conll'}:1"
    assert findings == []


def test_neighbours_are_kept_apart_in_every_scheme(tmp_path: Path) -> None:
    for tags in ("B-X B-X", "I-X B-X", "U-X U-X", "S-X S-X"):
        (found,), findings = read(tmp_path / "a.bio", conll(tags, "가 나"))
        assert found.target == (Entity(0, 1, "X"), Entity(2, 3, "X")), tags
        assert findings == []


def test_a_name_that_begins_inside_is_mended_in_bio(tmp_path: Path) -> None:
    content = conll("B-PER O", "a b") + "\n" + conll("O I-PER B-LOC I-PER", "c d e f")
    (_, found), findings = read(tmp_path / "a.tsv", content)
    assert found.target == (Entity(2, 3, "PER"), Entity(4, 5, "LOC"), Entity(6, 7, "PER"))
    assert [(one.level, one.where.rpartition(":")[2]) for one in findings] == [
        ("warning", "5"),
        ("warning", "7"),
    ]


def test_an_unknown_tag_is_an_error(tmp_path: Path) -> None:
    found, findings = read(tmp_path / "a.txt", conll("O X-PER", "a b") + "\n" + conll("O", "c"))
    assert [example.input for example in found] == ["c"]
    assert findings[0].where.endswith("a.txt:2")
    assert "unknown tag 'X-PER'" in findings[0].message


@settings(max_examples=100, deadline=None)
@given(tags=st.lists(st.sampled_from(BIO), min_size=1, max_size=9))
def test_spans_are_those_of_seqeval(tmp_path_factory: pytest.TempPathFactory, tags: list[str]) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.conll"
    (found,), _ = read(path, "".join(f"abc\t{tag}\n" for tag in tags))
    expected = seqeval.metrics.sequence_labeling.get_entities(tags)
    assert found.target == tuple(Entity(4 * start, 4 * end + 3, label) for label, start, end in expected)


def test_rows_with_spans(tmp_path: Path) -> None:
    first = {
        "text": "민수는 서울에 산다",
        "entities": [[4, 6, "LOC"], {"start": 0, "end": 2, "label": "PER"}],
    }
    second = {"text": "nothing here", "spans": []}
    found, findings = read(tmp_path / "a.jsonl", f"{json.dumps(first)}\n{json.dumps(second)}")
    assert [one.target for one in found] == [(Entity(0, 2, "PER"), Entity(4, 6, "LOC")), ()]
    assert findings == []


@pytest.mark.parametrize(
    ("entities", "message"),
    [
        ([[0, 3, "X"], [2, 4, "Y"]], "overlap"),
        ([[0, 99, "X"]], "no part of the text of 5"),
        ([[-1, 2, "X"]], "no part"),
        ([[2, 2, "X"]], "no part"),
        ([[0, 2]], "an entity must be"),
        ([{"start": "0", "end": 2, "label": "X"}], "an entity must be"),
        ([[0, 2, ""]], "an entity must be"),
        ("none", "must be a list"),
        (None, '"entities" is empty (null)'),
        (
            [{"start": 1, "end": 3, "label": "X", "text": "ab"}],
            "is said to be 'ab', but 'bc' stands",
        ),
    ],
)
def test_bad_spans_are_reported(entities: object, message: str, tmp_path: Path) -> None:
    found, findings = read(tmp_path / "a.jsonl", json.dumps({"text": "abcde", "entities": entities}))
    assert found == []
    assert findings[0].where.endswith("a.jsonl:1")
    assert message in findings[0].message


def test_json_shows_the_text_of_each_name() -> None:
    task = NamedEntities()
    shown = task.to_json((Entity(0, 2, "PER"),), "민수는 산다")
    assert shown == [{"start": 0, "end": 2, "label": "PER", "text": "민수"}]
    assert task.from_json(shown) == (Entity(0, 2, "PER"),)
    assert task.to_json(None, "") is None
    assert task.from_json(None) is None


def test_the_answer_is_a_list_in_order() -> None:
    task, text = NamedEntities(), "US and USA and 서울에"
    target = (Entity(0, 2, "a"), Entity(7, 10, "b"), Entity(15, 17, "c"))
    assert json.loads(task.answer(target, text)) == [
        {"text": "US", "label": "a"},
        {"text": "USA", "label": "b"},
        {"text": "서울", "label": "c"},
    ]


@pytest.mark.parametrize(
    ("reply", "target"),
    [
        ('Sure: [{"text": "USA", "label": "b"}] Done.', (Entity(3, 6, "b"),)),
        (
            '[{"text": "US", "label": "b"}]',
            (Entity(10, 12, "b"),),
        ),  # the whole word, not the start of another
        ('[{"text": "Mars", "label": "b"}, {"text": "of", "label": "c"}]', (Entity(7, 9, "c"),)),
        (
            '[{"text": "of", "label": "c"}, {"text": "USA", "label": "b"}]',
            (Entity(3, 6, "b"), Entity(7, 9, "c")),
        ),
        ('[{"text": "of", "label": "c"}, {"text": "of", "label": "c"}]', (Entity(7, 9, "c"),)),
        ('[{"text": "of"}, 3, {"text": "", "label": "c"}]', ()),
        ("[]", ()),
        ('Names [in order][1]: [{"text": "USA", "label": "b"}] [{', (Entity(3, 6, "b"),)),
        ("[1] says none", None),
        ("none", None),
        ('[{"text": ', None),
        ("[" * 100_000, None),
    ],
)
def test_a_reply_is_read_from_left_to_right(reply: str, target: object) -> None:
    assert NamedEntities().parse(reply, "in USA of US") == target


@settings(deadline=None)
@given(st.data())
def test_any_spans_come_back(data: st.DataObject) -> None:
    text = data.draw(st.text('ab 가나"[', min_size=1, max_size=20))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=8)))
    pairs = zip(cuts[::2], cuts[1::2], strict=False)
    target = tuple(Entity(start, end, data.draw(st.sampled_from("XY"))) for start, end in pairs)
    task = NamedEntities()
    assert task.parse(task.answer(target, text), text) == target


LINE = st.one_of(
    st.just("-DOCSTART- -X- -X- O\n"), st.just("-DOCSTART-\tO\n"), st.just("\n"), st.just("# a comment\n"),
    st.just("broken\n"), st.integers(0, 3).map(lambda n: f"word{n} NN B-PER\n"),
    st.integers(0, 3).map(lambda n: f"말{n}\tO\n"),
)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(st.lists(LINE, max_size=40))
def test_sentences_between_two_document_lines_belong_together(lines: list[str]) -> None:
    """Whatever else the file holds, and wherever it lies."""
    with TemporaryDirectory() as folder:
        first, second = (Path(folder) / name for name in ("a.conll", "b.bio"))
        found, again = (read(path, "".join(lines))[0] for path in (first, second))
    begins = [number for number, line in enumerate(lines, 1) if line.startswith("-DOCSTART-")]
    if not begins:
        assert all(one.document == "" for one in found)
        return
    texts: dict[int, list[str]] = {}
    for one in found:
        at = bisect(begins, int(one.source.rpartition(":")[2]))
        texts.setdefault(at, []).append(one.input)
    documents = [one.document for one in found]
    assert all(documents)
    assert documents == [one.document for one in again]
    assert len(set(documents)) == len({" ".join(it) for it in texts.values()})
    ends = list(accumulate(map(len, texts.values()), initial=0))
    assert all(len(set(documents[a:b])) == 1 for a, b in pairwise(ends))


def document(number: int) -> str:
    """Eight sentences."""
    sentences = (conll("O O B-PER I-PER O", f"문장 {number} {at} 서 에") for at in range(8))
    return "-DOCSTART- -X- O O\n\n" + "\n".join(sentences) + "\n"


@pytest.mark.parametrize("count", [3, 30])
def test_documents_are_held_out_whole_where_there_are_enough(tmp_path: Path, count: int) -> None:
    """And then they are what chance draws; of few of them each sentence is, and a note says so."""
    path = tmp_path / "a.conll"
    path.write_text("".join(map(document, range(count))), encoding="utf-8")
    task = NamedEntities()
    found = task.split(task.load(path))
    held = [{one.document for one in part} for part in (found.train, found.valid, found.test)]
    assert (sum(map(len, held)) == count) is (count == 30)
    assert ("by whole documents" in found.notes[0]) is (count == 30)
    asked = ComparisonSettings(task="ner", train=path, test=path, methods={"crf": {}})
    test = tmp_path / "test.conll"
    test.write_text("".join(map(document, range(100, 100 + count))), encoding="utf-8")
    material = load_material(asked.model_copy(update={"test": test}))
    groups_E = material.groups_E
    assert (groups_E is None) is (count == 3)
    assert groups_E is None or len(set(groups_E.tolist())) == count
    assert any("of 3 documents only" in note for note in material.notes) is (count == 3)
