"""Errors that trying again would only repeat: the run ends at the first, whatever `max_failures` says.

Ray Train counts every error of a worker against `max_failures` and resumes from the last checkpoint,
which is right for a machine that went away and wrong for a loss that has become NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.train import ControllerError
from ray.train.v2._internal.execution.callback import WorkerGroupCallback

from raymill.errors import RaymillError

FINAL = ("invalid", "not_found", "conflict", "unsupported")
"""Kinds of errors that come from what was asked for, not from where it ran."""


class FinalErrors(WorkerGroupCallback):  # type: ignore[misc]
    """Ends the run from Ray Train's controller, which does not retry what its callbacks raise."""

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:
        error = own_error(worker_group_status.errors)
        if error is not None and error.kind in FINAL:
            raise ControllerError(error)


def own_error(failures: Mapping[int, Any]) -> RaymillError | None:
    """Return the first error by rank that Raymill raised on a worker; None where none did."""
    errors = [getattr(failures[rank], "_base_exc", failures[rank]) for rank in sorted(failures)]
    return next((error for error in errors if isinstance(error, RaymillError)), None)
