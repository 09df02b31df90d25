"""Requests counted: buckets as Prometheus has them, one line in many in the access log."""

from __future__ import annotations

import json
import logging
from datetime import datetime

import pytest

from raymill.serving.metrics import MAX_LABEL, RequestMetrics


def test_sums_by_model_version_protocol_and_code() -> None:
    metrics = RequestMetrics()
    for seconds in (0.0005, 0.001, 0.3, 99.0):
        metrics.observe("oip_grpc", "toy", "1", "OK", seconds)
    metrics.observe("oip_grpc", "toy", "", "NOT_FOUND", 0.1)
    sums = metrics.sums["toy", "1", "oip_grpc", "OK"]
    cumulative = dict(sums.cumulative())
    assert (cumulative["0.001"], cumulative["0.25"], cumulative["0.5"], cumulative["+Inf"]) == (2, 2, 3, 4)
    assert (sums.count, round(sums.seconds, 4)) == (4, 99.3015)
    assert len(metrics.sums) == 2


def test_no_label_is_what_rays_metrics_refuse() -> None:
    metrics = RequestMetrics()
    for _ in range(3):
        metrics.observe("oip_grpc", "modèle" + "m" * 1000, "1", "OK", 0.1)
    ((model, *_), sums), *others = metrics.sums.items()
    assert (sums.count, others) == (3, [])
    assert model.startswith("mod?le")
    assert len(model) == MAX_LABEL


def test_the_access_log_has_a_sample_and_all_that_broke(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "raymill.access")
    metrics = RequestMetrics(log_every=10)
    for _ in range(25):
        metrics.observe("tfserving_rest", "toy", "1", "200", 0.002)
    metrics.observe("tfserving_rest", "toy", "", "500", 0.002)
    lines = [json.loads(record.message) for record in caplog.records]
    assert [line["code"] for line in lines] == ["200", "200", "500"]
    assert datetime.fromisoformat(lines[0].pop("time")).tzinfo
    assert lines[0] == {
        "model": "toy", "version": "1", "protocol": "tfserving_rest", "code": "200", "milliseconds": 2.0,
    }  # fmt: skip
