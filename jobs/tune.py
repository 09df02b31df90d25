"""Search hyper-parameters and publish the best: `ray job submit ... python jobs/tune.py --config FILE`."""

from typing import Any

import _upload  # noqa: F401  first: decides which raymill is imported

from raymill.cluster import connect
from raymill.entry import run_job
from raymill.tune.run import tune
from raymill.tune.spec import TuneSpec


def main(spec: TuneSpec) -> dict[str, Any]:
    connect()
    return tune(spec)


if __name__ == "__main__":
    run_job(TuneSpec, main)
