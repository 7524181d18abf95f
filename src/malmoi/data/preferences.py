"""Rows of a prompt and two answers to it, of which one is better: what preference tuning learns from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from malmoi.core.nouns import BadRow, Messages, Report, turns_error
from malmoi.data.conversations import messages_from, turns_of
from malmoi.data.labelled import attempts, read_records
from malmoi.data.readers import Record


@dataclass(frozen=True, slots=True)
class Preference:
    """Two conversations that differ in the assistant's last turn only, and the "file:line" of the row."""

    chosen: Messages
    rejected: Messages
    source: str = ""


def read_preferences(path: Path, report: Report) -> list[Preference]:
    """All rows of a file or folder; what cannot be used goes to `report` and is skipped.

    {"prompt", "chosen", "rejected"}: each a text or a list of messages. Where `chosen` and `rejected` are
    lists of more than one message they hold the whole conversation, as in many public sets, and `prompt` is
    not looked at.
    """
    return list(attempts(read_records(path, report), lambda row: [_preference(row)], report))


def _preference(row: Record) -> Preference:
    """Raises BadRow where the turns are out of order, or the answers are equal or to different prompts."""
    chosen, rejected = (_conversation(row.values, name) for name in ("chosen", "rejected"))
    for name, messages in (("chosen", chosen), ("rejected", rejected)):
        if wrong := turns_error(messages, ends_with="assistant"):
            raise BadRow(f"{name}: {wrong}")
    if chosen[:-1] != rejected[:-1]:
        raise BadRow("chosen and rejected answer different conversations")
    if chosen == rejected:
        raise BadRow("chosen and rejected are equal")
    return Preference(chosen, rejected, row.where)


def _conversation(values: Mapping[str, Any], name: str) -> Messages:
    answer = values.get(name)
    whole = isinstance(answer, list) and len(answer) > 1
    for needed in (name,) if whole else (name, "prompt"):
        if values.get(needed) is None:
            raise BadRow(f'no "{needed}" among {", ".join(values) or "no fields"}')
    return (
        messages_from(answer) if whole else turns_of(values["prompt"], "user") + turns_of(answer, "assistant")
    )
