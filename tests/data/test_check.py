from __future__ import annotations

import gzip
import json
import random
import unicodedata
from pathlib import Path

import pytest

from malmoi.core.errors import UserError
from malmoi.core.nouns import Finding
from malmoi.data import check
from malmoi.data.check import corpus_stats, preview
from malmoi.text.tokenizer import train_tokenizer

WORDS = {
    "en": "river stone lantern walks slowly under bright quiet hills while seven old birds sing",
    "ko": "강물 돌담 등불 천천히 걷는다 밝은 조용한 언덕 아래서 일곱 늙은 새가 노래한다",
}


def sentence(number: int, language: str = "en") -> str:
    """A text like no other number's."""
    draw = random.Random(number)
    return " ".join([*draw.choices(WORDS[language].split(), k=25), str(draw.random())])


def jsonl(path: Path, texts: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def split(folder: Path, train: list[str], valid: list[str]) -> Path:
    jsonl(folder / "train.jsonl", train)
    jsonl(folder / "valid.jsonl", valid)
    return folder


EN = [sentence(number) for number in range(20)]
KO = [sentence(number, "ko") for number in range(20)]


def messages(findings: tuple[Finding, ...] | list[Finding], level: str) -> list[str]:
    return [finding.message for finding in findings if finding.level == level]


def test_a_clean_corpus_has_no_findings(tmp_path: Path) -> None:
    stats = corpus_stats(split(tmp_path, EN, KO))
    assert stats.findings == ()
    assert stats.num_documents == 40
    assert stats.num_characters == sum(map(len, EN + KO))
    assert stats.num_bytes == sum(len(text.encode()) for text in EN + KO)
    assert stats.length_percentiles[100] == max(map(len, EN + KO))
    assert stats.encodings == {"ASCII": 2}  # JSON spelled the Korean with \u
    assert (stats.exact_duplicates, stats.near_duplicates, stats.overlap_exact, stats.overlap_near) == (
        0,
    ) * 4
    assert sum(stats.scripts.values()) == pytest.approx(1)
    assert 0.2 < stats.scripts["Hangul"] < stats.scripts["Latin"]


def test_duplicates_are_counted_with_the_places_of_the_first(tmp_path: Path) -> None:
    stats = corpus_stats(split(tmp_path, [*EN, EN[3], f"  {EN[3]}\n"], KO))
    assert stats.exact_duplicates == 2
    (message,) = messages(stats.findings, "warning")
    assert message.startswith("2 documents found in the same part already")
    assert message.endswith("train.jsonl:21 as " + str(tmp_path / "train.jsonl") + ":4")


def test_near_duplicates_are_not_equal_ones(tmp_path: Path) -> None:
    near = EN[5].replace("river", "river,", 1).upper() + " 0"
    stats = corpus_stats(split(tmp_path, [*EN, near, EN[6]], [*KO, KO[2] + "."]))
    assert (stats.exact_duplicates, stats.near_duplicates) == (1, 2)
    assert any(
        "2 documents nearly equal to one before" in text for text in messages(stats.findings, "warning")
    )


def test_validation_text_in_the_training_text_is_an_error(tmp_path: Path) -> None:
    stats = corpus_stats(split(tmp_path, EN, [*KO, EN[7], EN[8] + "!"]))
    assert (stats.overlap_exact, stats.overlap_near) == (1, 1)
    (error,) = messages(stats.findings, "error")
    assert error.endswith(f"valid.jsonl:21 as {tmp_path / 'train.jsonl'}:8")
    (warning,) = messages(stats.findings, "warning")
    assert warning.endswith(f"valid.jsonl:22 as {tmp_path / 'train.jsonl'}:9")


def test_every_bad_row_is_found_with_its_line(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", EN)
    path.write_text('{"text": \n{"txt": "a"}\n{"text": ""}\n' + path.read_text() + '{"text": 3}\n')
    findings = corpus_stats(path).findings
    places = [(finding.level, finding.where.removeprefix(f"{path}:")) for finding in findings]
    assert places == [("error", "1"), ("error", "2"), ("warning", "3"), ("error", "24")]


def test_text_lost_before_is_found(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", [*EN, "lost \ufffd\ufffd here", "zero\0", "one\r\n", "two\r\n"])
    findings = {finding.where: finding.message for finding in corpus_stats(tmp_path / "a.jsonl").findings}
    path = str(tmp_path / "a.jsonl")
    assert findings.pop(f"{path}:21").startswith("2 characters lost")
    assert "UTF-16" in findings.pop(f"{path}:22")
    assert "as on Windows" in findings.pop(path)  # once for a file
    assert not findings


def test_bytes_that_are_not_utf8_are_found_and_read_past(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_bytes("하나 둘\n셋 넷".encode("cp949"))
    (tmp_path / "valid.txt").write_text(KO[0])
    stats = corpus_stats(tmp_path)
    assert stats.num_documents == 2
    assert stats.encodings == {"cp949": 1, "UTF-8": 1}
    (error,) = messages(stats.findings, "error")
    assert "it looks like cp949" in error


def test_no_readable_document_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("{\n")
    (tmp_path / "valid.jsonl").write_text("{\n")
    stats = corpus_stats(tmp_path)
    assert stats.num_documents == 0
    assert "no document could be read" in messages(stats.findings, "error")
    assert not stats.length_percentiles


@pytest.mark.parametrize("whole", [0.1, 0.5, 0.9])
def test_a_cut_archive_is_the_cause_and_no_lack_of_text(tmp_path: Path, whole: float) -> None:
    packed = gzip.compress("".join(f"{line}\n" for line in EN).encode())
    (tmp_path / "a.txt.gz").write_bytes(packed[: int(whole * len(packed))])
    with pytest.raises(UserError, match="is cut or damaged"):
        corpus_stats(tmp_path / "a.txt.gz")


def test_a_missing_field_is_the_cause_and_no_lack_of_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"body": "{line}"}}\n' for line in EN))
    with pytest.raises(UserError, match='no field "text" among body'):
        corpus_stats(path)


def test_white_space_alone_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(" \n\u3000\n")
    with pytest.raises(UserError, match="holds no text"):
        corpus_stats(tmp_path / "a.txt")
    (tmp_path / "b.txt").write_text("\n".join(EN))
    (warning,) = corpus_stats(tmp_path).findings
    assert (warning.where, warning.level) == (str(tmp_path / "a.txt"), "warning")


def test_decomposed_letters_and_invisible_signs_are_counted_once_for_a_document(tmp_path: Path) -> None:
    text = unicodedata.normalize("NFD", "\n".join(KO)) + "\n\u200bone\u200b\n"
    (tmp_path / "a.txt").write_text(text)
    warning, note = corpus_stats(tmp_path / "a.txt").findings
    num_marks = len(text) - len(unicodedata.normalize("NFC", text))
    assert f"{num_marks:,} marks" in warning.message
    assert (note.level, note.message) == ("note", "invisible characters: U+200B (2)")


def test_missing_text_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        corpus_stats(tmp_path / "nowhere")


def test_documents_past_the_context_are_counted(tmp_path: Path) -> None:
    path = split(tmp_path, ["a" * 9, "b" * 10, "c" * 30], ["d" * 11])
    byte = train_tokenizer([], "byte")
    stats = corpus_stats(path, tokenizer=byte, context=10)  # eos counts
    assert stats.num_long == 3
    assert messages(stats.findings, "note")[0].startswith("3 documents of more than 10 tokens")
    assert corpus_stats(path).num_long is None


def test_every_document_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "BLOCK_ROWS", 7)  # however many are sketched at a time
    stats = corpus_stats(split(tmp_path, [*EN, EN[19], EN[0] + "."], [*KO, EN[18]]))
    assert (stats.exact_duplicates, stats.near_duplicates, stats.overlap_exact) == (1, 1, 1)
    assert messages(stats.findings, "error")[0].endswith(f"valid.jsonl:21 as {tmp_path / 'train.jsonl'}:19")


def test_a_preview_shows_the_first_tokens_and_the_end(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", ["ab", "cde", "f"])
    rows = preview(path, train_tokenizer([], "byte"), 2, num_tokens=3)
    assert [[piece for piece, _ in row] for row in rows] == [["a", "b", "<|eos|>"], ["c", "d", "e"]]
    assert rows[0] == [("a", True), ("b", True), ("<|eos|>", True)]
