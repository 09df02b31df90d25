"""Request counts and latency histograms for Ray's metrics, and so for Prometheus.

Gauges that hold what has been summed up, in the form of a Prometheus histogram (`_bucket` with `le`, `_sum`,
`_count`), so that `histogram_quantile(0.99, rate(..._bucket[1m]))` works as it does on one.
"""

from __future__ import annotations

from ray.serve import metrics

from raymill.serving.metrics import RequestMetrics

LABELS = ("model", "version", "protocol", "code")


class Exporter:
    """Hands the sums of a replica on; Serve adds deployment, replica and application."""

    def __init__(self, requests: RequestMetrics) -> None:
        self._requests = requests
        self._bucket = metrics.Gauge(
            "raymill_request_seconds_bucket", "Requests that took at most `le` seconds.", (*LABELS, "le")
        )
        self._sum = metrics.Gauge("raymill_request_seconds_sum", "Seconds of all requests.", LABELS)
        self._count = metrics.Gauge("raymill_request_seconds_count", "Requests.", LABELS)

    def export(self) -> None:
        """Set the gauges to the sums as they are now."""
        for key, sums in list(self._requests.sums.items()):
            tags = dict(zip(LABELS, key, strict=True))
            for bound, count in sums.cumulative():
                self._bucket.set(count, {**tags, "le": bound})
            self._sum.set(sums.seconds, tags)
            self._count.set(sums.count, tags)
