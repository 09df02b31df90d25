"""Measure a published version: `ray job submit --working-dir . -- python jobs/evaluate.py --config FILE`."""

from typing import Any

import _upload  # noqa: F401  first: decides which raymill is imported

from raymill.cluster import connect
from raymill.entry import run_job
from raymill.train.evaluate import EvaluateSpec, evaluate


def main(spec: EvaluateSpec) -> dict[str, Any]:
    connect()
    return evaluate(spec)


if __name__ == "__main__":
    run_job(EvaluateSpec, main)
