"""Entities as BIO tags of units, and back: B-X begins an entity of kind X, I-X goes on with it, O is none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from malmoi.core.nouns import Entity

OUTSIDE = "O"
Span = tuple[int, int]


def tag_names(labels: Iterable[str]) -> list[str]:
    """O, then B- and I- of each label in the alphabet's order."""
    return [OUTSIDE, *(f"{prefix}-{label}" for label in sorted(set(labels)) for prefix in "BI")]


def may_follow(before: str, tag: str) -> bool:
    """Whether `tag` may stand after `before`: an I- goes on with an entity of its own kind only."""
    return not tag.startswith("I-") or before in (tag, f"B-{tag[2:]}")


def bio_tags(spans: Sequence[Span], entities: Iterable[Entity]) -> list[str]:
    """One tag for each unit: of the entity that it overlaps, if any (units cover all but white space)."""
    tags = [OUTSIDE] * len(spans)
    for entity in entities:
        inside = [i for i, (start, end) in enumerate(spans) if start < entity.end and end > entity.start]
        for i in inside:
            tags[i] = f"{'B' if i == inside[0] else 'I'}-{entity.label}"
    return tags


def entities_of(spans: Sequence[Span], tags: Sequence[str]) -> tuple[Entity, ...]:
    """The entities that the tags say; an I- that nothing of its kind stands before begins one."""
    found: list[Entity] = []
    before = OUTSIDE
    for (start, end), tag in zip(spans, tags, strict=True):
        if tag.startswith("I-") and may_follow(before, tag):
            found[-1] = Entity(found[-1].start, end, found[-1].label)
        elif tag != OUTSIDE:
            found.append(Entity(start, end, tag[2:]))
        before = tag
    return tuple(found)
