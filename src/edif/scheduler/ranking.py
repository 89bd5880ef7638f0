"""The least of things whose keys change: the one data structure behind every index of the scheduler."""

from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Any, Generic, TypeVar

Key = TypeVar("Key", bound=Any)
Item = TypeVar("Item", bound=str)

_SLACK = 16  # outdated entries that are never worth clearing away


@dataclass(slots=True)
class Ranking(Generic[Key, Item]):
    """Names with keys, least key first; equal keys by name, so that the order never depends on hashing.

    A heap whose outdated entries are dropped when they come to its top, or when they are the larger part:
    every change costs O(log n) on average, ``first`` O(1).
    """

    _keys: dict[Item, Key] = field(default_factory=dict)
    _heap: list[tuple[Key, Item]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, item: Item) -> bool:
        return item in self._keys

    def put(self, item: Item, key: Key) -> None:
        """Enter ``item``, or give it another key."""
        if self._keys.get(item) == key:
            return
        self._keys[item] = key
        heappush(self._heap, (key, item))
        if len(self._heap) > 2 * len(self._keys) + _SLACK:
            self._heap = [(key, item) for item, key in self._keys.items()]
            heapify(self._heap)

    def discard(self, item: Item) -> None:
        self._keys.pop(item, None)

    def first(self) -> Item | None:
        """The item with the least key; None when there is none."""
        heap, keys = self._heap, self._keys
        while heap:
            key, item = heap[0]
            if keys.get(item) == key:
                return item
            heappop(heap)
        return None

    def key(self, item: Item) -> Key:
        return self._keys[item]

    def in_order(self) -> list[Item]:
        return sorted(self._keys, key=lambda item: (self._keys[item], item))

    def copy(self) -> "Ranking[Key, Item]":
        return Ranking(self._keys.copy(), self._heap.copy())
