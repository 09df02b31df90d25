"""Prepare a dataset: `ray job submit --working-dir . -- python jobs/prepare.py --config FILE`."""

from typing import Any

import _upload  # noqa: F401  first: decides which raymill is imported

from raymill.cluster import connect
from raymill.entry import run_job
from raymill.prepare.run import prepare
from raymill.prepare.spec import PrepareSpec


def main(spec: PrepareSpec) -> dict[str, Any]:
    connect()
    return prepare(spec)


if __name__ == "__main__":
    run_job(PrepareSpec, main)
