"""One lane's rows as a stream: windows of row groups, decoded ahead in threads, mixed, cut to batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from raymill.data.decode import Decoder
from raymill.data.orders import EpochPlan
from raymill.features import Features


@dataclass(frozen=True)
class Piece:
    """Rows [start, stop) of one row group."""

    group: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start


def cut(plan: EpochPlan, low: int, high: int) -> list[Piece]:
    """Return the pieces that hold epoch positions [low, high), in order."""
    if low >= high:
        return []
    first = int(np.searchsorted(plan.starts_K, low, side="right")) - 1
    pieces = []
    for k in range(first, len(plan.groups_K)):
        start, rows = int(plan.starts_K[k]), int(plan.rows_K[k])
        if start >= high:
            break
        pieces.append(Piece(int(plan.groups_K[k]), max(low - start, 0), min(high - start, rows)))
    return pieces


@dataclass
class _Window:
    """Rows of a few row groups in one buffer, and the order in which they leave it."""

    features: Features
    labels_N: np.ndarray
    order_N: np.ndarray
    fills: list[Future[None]]

    def wait(self) -> None:
        for fill in self.fills:
            fill.result()


class LaneStream:
    """The rows of one lane from `position` on; holds two windows at most, one of them being filled."""

    def __init__(
        self,
        pieces: list[Piece],
        decoder: Decoder,
        pool: ThreadPoolExecutor,
        *,
        window: int,
        shuffle_key: tuple[int, ...] | None,
        position: int = 0,
    ) -> None:
        """
        Args:
            pieces: The lane's part of the epoch.
            window: Row groups mixed together.
            shuffle_key: Seeds the mixing together with the window's number; None keeps file order.
            position: Rows of the lane that were consumed before.
        """
        self._decoder, self._pool, self._key = decoder, pool, shuffle_key
        groups = [pieces[i : i + window] for i in range(0, len(pieces), window)]
        rows = [sum(piece.rows for piece in group) for group in groups]
        first = 0
        while first < len(groups) and position >= rows[first]:
            position -= rows[first]
            first += 1
        self._windows = self._ahead(groups, first)
        self._current: _Window | None = None
        self._offset = position

    def take(self, rows: int, start: int, stop: int) -> list[tuple[Features, np.ndarray]]:
        """Advance by `rows` rows and return rows [start, stop) of those, in parts."""
        parts, done = [], 0
        while done < rows:
            if self._current is None or self._offset == len(self._current.order_N):
                self._offset = 0 if self._current else self._offset
                self._current = next(self._windows)
            here = min(rows - done, len(self._current.order_N) - self._offset)
            low, high = max(start - done, 0), min(stop - done, here)
            if low < high:
                picked_N = self._current.order_N[self._offset + low : self._offset + high]
                parts.append((self._current.features.take(picked_N), self._current.labels_N[picked_N]))
            self._offset += here
            done += here
        return parts

    def _ahead(self, groups: list[list[Piece]], first: int) -> Iterator[_Window]:
        started = deque([self._start(groups[first], first)] if first < len(groups) else [])
        for number in range(first, len(groups)):
            window = started.popleft()
            window.wait()
            if number + 1 < len(groups):
                started.append(self._start(groups[number + 1], number + 1))
            yield window

    def _start(self, pieces: list[Piece], number: int) -> _Window:
        total = sum(piece.rows for piece in pieces)
        features, labels_N = self._decoder.empty(total)
        fills, offset = [], 0
        for piece in pieces:
            rows = slice(offset, offset + piece.rows)
            fills.append(
                self._pool.submit(
                    self._decoder.decode_into,
                    piece.group, piece.start, piece.stop, features.take(rows), labels_N[rows],
                )
            )  # fmt: skip
            offset += piece.rows
        if self._key is None:
            order_N = np.arange(total)
        else:
            order_N = np.random.default_rng([*self._key, number]).permutation(total)
        return _Window(features, labels_N, order_N, fills)
