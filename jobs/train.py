"""Train a model and publish it: `ray job submit --working-dir . -- python jobs/train.py --config FILE`."""

from typing import Any

import _upload  # noqa: F401  first: decides which raymill is imported

from raymill.cluster import connect
from raymill.entry import run_job
from raymill.train.run import train
from raymill.train.spec import TrainSpec


def main(spec: TrainSpec) -> dict[str, Any]:
    connect()
    return train(spec).summary()


if __name__ == "__main__":
    run_job(TrainSpec, main)
