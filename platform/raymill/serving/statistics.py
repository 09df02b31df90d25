"""Counts and durations of one loaded version, in the terms of Triton's statistics extension.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

PHASES = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")


@dataclass
class Duration:
    """How often something took place, and how long it took altogether."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        self.count += count
        self.ns += ns


@dataclass
class ModelStatistics:
    """Since this replica loaded the version."""

    model: str
    version: int
    last_inference_ms: int = 0
    """Milliseconds since 1970; 0 before the first request."""
    inference_count: int = 0
    """Rows predicted."""
    execution_count: int = 0
    """Calls of the model, each with one batch of rows."""
    durations: dict[str, Duration] = field(default_factory=lambda: {phase: Duration() for phase in PHASES})

    def executed(self, rows: int) -> None:
        """Count a call of the model with `rows` rows, of one request or several."""
        self.last_inference_ms = time.time_ns() // 1_000_000
        self.inference_count += rows
        self.execution_count += 1

    def answered(self, requests: int, input_ns: int, queue_ns: int, infer_ns: int) -> None:
        """Count requests by what they all took to read, to wait, and to predict with their batches.

        Their outputs are views of a batch's scores, which take no time of their own.
        """
        self.durations["success"].add(input_ns + queue_ns + infer_ns, requests)
        self.durations["compute_input"].add(input_ns, requests)
        self.durations["queue"].add(queue_ns, requests)
        self.durations["compute_infer"].add(infer_ns, requests)
        self.durations["compute_output"].count += requests

    def failed(self, ns: int) -> None:
        """Count a request that was refused, broke, or was given up after `ns`."""
        self.durations["fail"].add(ns)
