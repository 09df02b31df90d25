"""One worker, in this very process: no actors to start. What cheap trials of a study run on."""

from __future__ import annotations

from collections.abc import Callable

from raymill.errors import Unsupported
from raymill.registry import import_target
from raymill.train.base import Outcome, TrainJob


class Local:
    """Trains in the calling process, with the trainer that the flavor names; same metrics as `ddp`.

    A lost process loses the run: this suits trials and trainings of seconds to minutes.
    """

    def fit(self, job: TrainJob) -> Outcome:
        """Return the trained model.

        Raises:
            Unsupported: several workers, or a flavor without a trainer of this kind.
        """
        if job.spec.most_workers != 1:
            raise Unsupported(
                f"strategy local trains in one process, got workers={job.spec.workers}; "
                "use workers=1, or strategy ddp"
            )
        if job.flavor.local is None:
            raise Unsupported(f"flavor {job.flavor.name!r} has no local trainer; use strategy ddp")
        trainer: Callable[[TrainJob], Outcome] = import_target(job.flavor.local, "local trainer")
        return trainer(job)
