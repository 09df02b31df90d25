"""Requests counted by model, version, protocol and code, with latency histograms; and the access log.

On the request's path it is one dictionary look-up and a few additions. A replica hands the sums on when it
looks at its labels, since one observation of Ray's histogram costs as much as a small model's prediction.
"""

from __future__ import annotations

import bisect
import json
import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histogram's buckets; one more holds what is above."""

MAX_LABEL = 128
"""Longest value of a label, as long as a model's name may be."""

_BROKEN = frozenset({"500", "INTERNAL"})

access_log = logging.getLogger("raymill.access")


@dataclass
class Sums:
    """Requests of one key since the replica started."""

    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    seconds: float = 0.0

    @property
    def count(self) -> int:
        return sum(self.buckets)

    def cumulative(self) -> list[tuple[str, int]]:
        """Return the requests at or below each bound, as Prometheus has it, "+Inf" last."""
        total, found = 0, []
        for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), self.buckets, strict=True):
            total += count
            found.append((bound, total))
        return found


def _label_values(key: tuple[str, str, str, str]) -> tuple[str, str, str, str]:
    """Return a key as Ray's metrics take it, whatever it is: other text ends the export of all of them."""
    model, version, protocol, code = (part[:MAX_LABEL].encode("ascii", "replace").decode() for part in key)
    return model, version, protocol, code


class RequestMetrics:
    """Sums by key, and one line in `log_every` requests, every one that broke, in the access log."""

    def __init__(self, log_every: int = 0) -> None:
        self.sums: dict[tuple[str, str, str, str], Sums] = {}
        self._log_every, self._seen = log_every, 0

    def observe(self, protocol: str, model: str, version: str, code: str, seconds: float) -> None:
        """Count one request."""
        key = (model, version, protocol, code)
        sums = self.sums.get(key)
        if sums is None:
            sums = self.sums.setdefault(_label_values(key), Sums())
        sums.buckets[bisect.bisect_left(BUCKETS_S, seconds)] += 1
        sums.seconds += seconds
        self._seen += 1
        if self._log_every and (self._seen % self._log_every == 0 or code in _BROKEN):
            line = {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"), "model": model,
                "version": version, "protocol": protocol, "code": code,
                "milliseconds": round(seconds * 1000, 3),
            }  # fmt: skip
            access_log.info(json.dumps(line))
