"""SIGTERM on a training worker: a wish to end, granted once a checkpoint is stored.

Machines that are taken back say so with SIGTERM some seconds before they go. Ray's own answer is to
end the worker at once; here the loop is told, stores a checkpoint with all ranks, and then ends.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from ray.train.v2._internal.execution.callback import WorkerCallback

told_to_end = threading.Event()
_may_end = threading.Event()


def end() -> None:
    """Let the process end as Ray would have it; does not return."""
    _may_end.set()
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait()


class Signals(WorkerCallback):  # type: ignore[misc]
    """Listens for SIGTERM from a worker's main thread, which Python demands; the loop runs in another."""

    def after_init_train_context(self) -> None:
        before: Any = signal.getsignal(signal.SIGTERM)

        def told(number: int, frame: Any) -> None:
            if _may_end.is_set():
                before(number, frame)
            told_to_end.set()

        signal.signal(signal.SIGTERM, told)
