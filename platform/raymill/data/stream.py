"""One lane's rows as a stream: windows of row groups, decoded ahead in threads, mixed, cut to batches."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from raymill.data.decode import Decoder
from raymill.data.orders import EpochPlan
from raymill.data.rows import Rows
from raymill.kernels import permute

# N = rows of a window


@dataclass(frozen=True)
class Piece:
    """Rows [start, stop) of what the epoch reads of one row group; `k` is the group's place in the plan."""

    k: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Windows:
    """Epoch positions [low, high) of a plan cut to windows of `window` row groups, by arithmetic.

    Nothing is kept per row group, so that a lane of a million row groups costs no more than one.
    """

    plan: EpochPlan
    low: int
    high: int
    window: int

    @property
    def first_k(self) -> int:
        return int(np.searchsorted(self.plan.starts_K, self.low, side="right")) - 1

    @property
    def count(self) -> int:
        if self.low >= self.high:
            return 0
        end_k = int(np.searchsorted(self.plan.starts_K, self.high, side="left"))
        return -(-(end_k - self.first_k) // self.window)

    def pieces(self, number: int) -> list[Piece]:
        """Return the pieces of window `number`, in the plan's order."""
        first = self.first_k + number * self.window
        pieces = []
        for k in range(first, min(first + self.window, len(self.plan.groups_K))):
            start, rows = int(self.plan.starts_K[k]), int(self.plan.rows_K[k])
            if start >= self.high:
                break
            pieces.append(Piece(k, max(self.low - start, 0), min(self.high - start, rows)))
        return pieces

    def find(self, position: int) -> tuple[int, int]:
        """Return the window that holds the lane's row `position`, and the row's place in it."""
        if self.low + position >= self.high:
            return self.count, 0
        k = int(np.searchsorted(self.plan.starts_K, self.low + position, side="right")) - 1
        number = (k - self.first_k) // self.window
        start_k = self.first_k + number * self.window
        return number, self.low + position - max(self.low, int(self.plan.starts_K[start_k]))

    def order_N(self, number: int, rows: int, shuffle_key: tuple[int, ...] | None) -> np.ndarray | None:
        """Return in which order the rows of a window leave it, int32; None for the order they have."""
        if shuffle_key is None:
            return None
        return permute(np.random.default_rng([*shuffle_key, number]), rows)


class Budget:
    """Bytes that may be decoded ahead of their use, shared by all lanes of a loader."""

    def __init__(self, limit_bytes: int) -> None:
        self._spare = limit_bytes

    def take(self, amount: int) -> bool:
        """Take `amount` bytes if there are as many."""
        if amount > self._spare:
            return False
        self._spare -= amount
        return True

    def give_back(self, amount: int) -> None:
        self._spare += amount


class _Window:
    """Rows of a few row groups in one buffer, and the order in which they leave it."""

    def __init__(self, pieces: list[Piece], buffer: Rows, order_N: np.ndarray | None) -> None:
        self.buffer, self.order_N = buffer, order_N
        self.rows = buffer.take(slice(0, sum(piece.rows for piece in pieces)))
        self.open = deque(pieces)
        self.started = 0
        self.ahead_bytes = 0
        self._fills: list[Future[None]] = []
        self._filled = 0

    def start(self, decoder: Decoder, pool: ThreadPoolExecutor, plan: EpochPlan) -> None:
        """Begin to decode the next piece."""
        piece = self.open.popleft()
        self.started += 1
        place = self.rows.take(slice(self._filled, self._filled + piece.rows))
        self._filled += piece.rows
        self._fills.append(pool.submit(_fill, decoder, plan, piece, place))

    def wait(self) -> None:
        for fill in self._fills:
            fill.result()
        self._fills = []

    def take(self, start: int, stop: int) -> Rows:
        """Return rows [start, stop) of the order: copies if mixed, else views."""
        return self.rows.take(slice(start, stop) if self.order_N is None else self.order_N[start:stop])


def _fill(decoder: Decoder, plan: EpochPlan, piece: Piece, place: Rows) -> None:
    group = int(plan.groups_K[piece.k])
    pick_N = None if plan.pick is None else plan.pick(group)
    decoder.decode_into(group, piece.start, piece.stop, place.features, place.labels_N, pick_N)
    if place.weights_N is not None and plan.weights_K is not None:
        place.weights_N[:] = plan.weights_K[piece.k]


class LaneStream:
    """The rows of one lane from `position` on.

    It holds the window that is being read, and decodes some row groups ahead as the budget allows.
    """

    def __init__(
        self,
        windows: Windows,
        decoder: Decoder,
        pool: ThreadPoolExecutor,
        budget: Budget,
        *,
        ahead: int,
        shuffle_key: tuple[int, ...] | None,
        position: int = 0,
    ) -> None:
        """
        Args:
            windows: The lane's part of the epoch.
            ahead: Row groups decoded ahead of their use, at most.
            shuffle_key: Seeds the mixing together with the window's number; None keeps file order.
            position: Rows of the lane that were consumed before.
        """
        self._windows, self._decoder, self._pool, self._budget = windows, decoder, pool, budget
        self._limit, self._key = ahead, shuffle_key
        self._count = windows.count
        self._next, self._offset = windows.find(position)
        self._current: _Window | None = None
        self._ahead: deque[_Window] = deque()
        self._spare: Rows | None = None

    @property
    def is_decoded(self) -> bool:
        """Whether every window of the lane has been decoded or is being decoded."""
        return self._next >= self._count and not any(window.open for window in self._ahead)

    def take(self, rows: int, start: int, stop: int) -> list[Rows]:
        """Advance by `rows` rows and return rows [start, stop) of those, in parts."""
        parts, done = [], 0
        while done < rows:
            if self._current is None or self._offset == len(self._current.rows):
                self._offset = 0 if self._current else self._offset
                self._retire()
                self._current = self._advance()
            here = min(rows - done, len(self._current.rows) - self._offset)
            low, high = max(start - done, 0), min(stop - done, here)
            if low < high:
                parts.append(self._current.take(self._offset + low, self._offset + high))
            self._offset += here
            done += here
        self.prefetch()
        return parts

    def prefetch(self) -> None:
        """Begin to decode as many pieces ahead as the limits allow."""
        while sum(window.started for window in self._ahead) < self._limit:
            window = self._ahead[-1] if self._ahead else None
            if window is None or not window.open:
                if self._next >= self._count:
                    return
                window = self._open()
            piece_bytes = window.open[0].rows * self._decoder.row_bytes
            if not self._budget.take(piece_bytes):
                return
            window.ahead_bytes += piece_bytes
            window.start(self._decoder, self._pool, self._windows.plan)

    def _advance(self) -> _Window:
        """Return the next window, decoded."""
        if not self._ahead:
            self._open()
        window = self._ahead.popleft()
        while window.open:
            window.start(self._decoder, self._pool, self._windows.plan)
        self._budget.give_back(window.ahead_bytes)
        self.prefetch()
        window.wait()
        return window

    def _open(self) -> _Window:
        """Make room for one more window ahead; memory is touched only when rows arrive."""
        pieces = self._windows.pieces(self._next)
        total = sum(piece.rows for piece in pieces)
        buffer, self._spare = self._spare, None
        if buffer is None or len(buffer) < total:
            weighted = self._windows.plan.weights_K is not None
            buffer = self._decoder.empty_rows(total, weighted=weighted)
        window = _Window(pieces, buffer, self._windows.order_N(self._next, total, self._key))
        self._next += 1
        self._ahead.append(window)
        return window

    def _retire(self) -> None:
        """Let go of the window that was read, and keep its memory for the next if no batch shares it.

        Freed and taken anew, windows cost the allocator twice their size.
        """
        if self._current is not None and self._current.order_N is not None:
            self._spare = self._current.buffer
        self._current = None
