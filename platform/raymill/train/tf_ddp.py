"""TensorFlow data-parallel through Ray Train: every worker runs the same graph, gradients are averaged in it.

Ray Train starts the workers and tells each of the others (TF_CONFIG); TensorFlow's multi-worker
strategy is used for its servers alone. See docs/decisions/0020-tensorflow-collectives.md.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raymill.errors import Conflict
from raymill.train.base import Outcome, TrainJob
from raymill.train.loop import Alone, Group, TrainingLoop
from raymill.train.ray_workers import run_workers

if TYPE_CHECKING:
    from raymill.flavors.tf_learner import TFLearner

GROUP_KEY = 4_711
GRADIENTS, SIZES, FIRST_MESSAGE = 1, 2, 1_000


def fit(job: TrainJob) -> Outcome:
    """Train on `workers` Ray Train workers and return the learner with the weights that were kept."""
    from ray.train.tensorflow import TensorflowTrainer

    if job.start is not None:
        _check_start(job)
    result = run_workers(job, TensorflowTrainer, work)
    loop = TrainingLoop(job, make_learner(job), Alone())
    with result.checkpoint.as_directory() as directory:
        loop.load(Path(directory))
    return loop.outcome()


def work(job: TrainJob, group: Group) -> TrainingLoop:
    """Return the loop of this Ray Train worker."""
    from raymill.flavors.tf_flavor import load_tensorflow

    tf = load_tensorflow()
    threads = max(1, int(job.spec.cpus_per_worker))
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(2)  # one waits in a collective
    if group.size == 1:
        return TrainingLoop(job, make_learner(job), group)
    collective = Collective(group.size)
    learner = make_learner(job)
    learner.reduce = collective.mean
    group.exchange = collective.gather
    return TrainingLoop(job, learner, group)


def make_learner(job: TrainJob) -> TFLearner:
    from raymill.flavors.tf_flavor import load_tensorflow

    load_tensorflow()
    from raymill.flavors.tf_learner import TFLearner

    return TFLearner(job.encoder, job.spec.flavor_config(), seed=job.spec.seed)


class Collective:
    """TensorFlow's collective operations over all workers, without a strategy around the model."""

    def __init__(self, size: int) -> None:
        import tensorflow as tf

        self._tf, self._size, self._messages = tf, size, FIRST_MESSAGE
        self._servers = tf.distribute.MultiWorkerMirroredStrategy()  # starts the servers, by TF_CONFIG

    def mean(self, flat: Any) -> Any:
        """Return the mean of a tensor over all workers, as torch's collectives do; inside a graph."""
        return self._tf.raw_ops.CollectiveReduceV2(
            input=flat, group_size=self._size, group_key=GROUP_KEY, instance_key=GRADIENTS,
            ordering_token=[], merge_op="Add", final_op="Div",
        )  # fmt: skip

    def gather(self, mine: Any) -> list[Any]:
        """Return what each worker brought, in rank order."""
        data = pickle.dumps(mine)
        sizes = self._gather(np.array([len(data)], np.int64), SIZES)
        words = -(-int(sizes.max()) // 4)
        padded = np.zeros(words, np.int32)
        padded.view(np.uint8)[: len(data)] = np.frombuffer(data, np.uint8)
        self._messages += 1  # an instance is of one shape for ever
        parts = self._gather(padded, self._messages).reshape(self._size, words)
        return [pickle.loads(part.tobytes()[:size]) for part, size in zip(parts, sizes.tolist(), strict=True)]

    def _gather(self, array: np.ndarray, instance: int) -> np.ndarray:
        tf = self._tf
        found: np.ndarray = tf.raw_ops.CollectiveGatherV2(
            input=tf.constant(array), group_size=self._size, group_key=GROUP_KEY, instance_key=instance,
            ordering_token=[],
        ).numpy()  # fmt: skip
        return found


def _check_start(job: TrainJob) -> None:
    """Refuse, before any worker starts, weights that the spec's network has no place for."""
    try:
        TrainingLoop(job, make_learner(job), Alone())
    except (KeyError, ValueError) as error:
        raise Conflict(
            f"the network of the spec is not that of the version this run continues from: {error}; keep "
            "flavors.tensorflow as it was, or train anew with read order full"
        ) from error
