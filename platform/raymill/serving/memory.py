"""A budget of memory for models: of more, the least recently used are dropped."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Protocol


class Droppable(Protocol):
    """What can be dropped from memory and comes back by itself when it is used."""

    @property
    def bytes(self) -> int: ...

    def drop(self) -> None: ...


class Memory:
    """What is in memory, least recently used first; safe to call from several threads.

    Args:
        budget_bytes: None keeps everything. One thing larger than the budget is kept alone.
    """

    def __init__(self, budget_bytes: int | None = None) -> None:
        self._budget = budget_bytes
        self._held: OrderedDict[int, Droppable] = OrderedDict()
        self._lock = threading.Lock()

    def hold(self, item: Droppable) -> None:
        """Count `item`, now in memory, and drop others until the budget is kept."""
        with self._lock:
            self._held[id(item)] = item
            self._held.move_to_end(id(item))
            while self._budget is not None and len(self._held) > 1 and self.held_bytes() > self._budget:
                _, oldest = self._held.popitem(last=False)
                oldest.drop()

    def used(self, item: Droppable) -> None:
        """Note that `item` has just been used."""
        if self._budget is None:
            return
        with self._lock:
            if id(item) in self._held:
                self._held.move_to_end(id(item))

    def forget(self, item: Droppable) -> None:
        """No longer count `item`, which is served no more."""
        with self._lock:
            self._held.pop(id(item), None)

    def held_bytes(self) -> int:
        return sum(item.bytes for item in self._held.values())
