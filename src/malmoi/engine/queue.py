"""Who is next: what waits takes turns by group, so that a group of a hundred does not hold up one of one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class RoundRobin(Generic[T]):
    """Groups of items in the order of their turns. Each takes one item, then its group comes last."""

    def __init__(self) -> None:
        self._groups: dict[Hashable, deque[T]] = {}  # none is empty

    def __len__(self) -> int:
        return sum(map(len, self._groups.values()))

    def __bool__(self) -> bool:
        return bool(self._groups)

    def __iter__(self) -> Iterator[T]:
        return (item for group in self._groups.values() for item in group)

    def add(self, group: Hashable, item: T) -> None:
        """The last of its group; a new group comes last."""
        self._groups.setdefault(group, deque()).append(item)

    def first(self) -> T:
        """Whose turn it is."""
        return next(iter(self._groups.values()))[0]

    def take(self) -> T:
        """The first, which leaves."""
        group = next(iter(self._groups))
        items = self._groups.pop(group)
        item = items.popleft()
        if items:
            self._groups[group] = items
        return item

    def drop(self, leaves: Callable[[T], bool]) -> list[T]:
        """Those that leave without their turn."""
        found = [item for item in self if leaves(item)]
        stay = {group: deque(it for it in items if not leaves(it)) for group, items in self._groups.items()}
        self._groups = {group: items for group, items in stay.items() if items}
        return found
