"""Serve published models: `ray job submit --working-dir . -- python jobs/serve.py --config FILE`."""

from typing import Any

import _upload  # noqa: F401  first: decides which raymill is imported

from raymill.cluster import connect, dashboard_url
from raymill.entry import run_job
from raymill.serving.deploy import deploy
from raymill.serving.spec import ServeSpec


def main(spec: ServeSpec) -> dict[str, Any]:
    connect()
    return deploy(spec, dashboard_url())


if __name__ == "__main__":
    run_job(ServeSpec, main)
