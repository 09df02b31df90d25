"""Seeing soon that nodes came or went: Ray gives an elastic run a view of the cluster up to 20 s old.

An older view costs twice: a run grows late, and after a lost node it waits for workers on that very node.
"""

from __future__ import annotations

import time
from typing import Any

from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
    get_or_create_autoscaling_coordinator,
)
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback

LOOK_S = 2.0


class FreshNodes(WorkerGroupCallback, ControllerCallback):  # type: ignore[misc]
    """Has Ray's coordinator look at the cluster every two seconds, from Ray Train's controller."""

    def __init__(self) -> None:
        self._last = float("-inf")

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:
        self._look()

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        self._look()

    def _look(self) -> None:
        """Ask without waiting for the answer, which is nobody's: the coordinator keeps what it saw."""
        now = time.monotonic()
        if now - self._last < LOOK_S:
            return
        self._last = now
        get_or_create_autoscaling_coordinator().get_reserved_resources.remote("", recompute=True)
