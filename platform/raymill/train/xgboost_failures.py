"""What goes wrong in xgboost-ray's actors, on its way to the person who waits.

xgboost-ray tells its driver "Training failed." of any error but XGBoost's own, and starts the actors
again as often as it may. An error that would only repeat travels through its queue instead, whose
items the driver calls where they can be called.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from xgboost_ray.session import put_queue

from raymill.errors import Corrupt, RaymillError, Unavailable

R = TypeVar("R")
OF_XGBOOST = "XGBoostError: "
HEARD_S = 10.0  # the driver looks into its queue once a second, and then ends this actor


class Ended(BaseException):
    """Ends the driver's loop, which retries on every `Exception`."""

    def __init__(self, error: RaymillError) -> None:
        super().__init__(error)
        self.error = error


class _Failure:
    """An error of an actor; raises it when xgboost-ray's driver calls it."""

    def __init__(self, error: RaymillError) -> None:
        self._error = error

    def __call__(self) -> None:
        raise Ended(self._error)


def reported(work: Callable[[], R]) -> R:
    """Return what `work` does; an error of it goes to the driver, which ends the run with it."""
    try:
        return work()
    except Exception as error:
        put_queue(_Failure(_named(error)))
        time.sleep(HEARD_S)
        raise


_held: list[RaymillError] = []


def hold(error: RaymillError) -> None:
    """Keep an error of reading data until boosting begins, when the driver listens to its queue."""
    _held.append(error)


def raise_held() -> None:
    """Raise the error that was held, if one was."""
    if _held:
        raise _held.pop()


def _named(error: Exception) -> RaymillError:
    if isinstance(error, RaymillError):
        return error
    return Corrupt(f"XGBoost's validation failed: {type(error).__name__}: {' '.join(str(error).split())}")


def cause(error: BaseException, attempts: int) -> RaymillError:
    """Return what xgboost-ray's last error came from, as one line."""
    chain: list[Any] = [error]
    while (inner := getattr(chain[-1], "cause", None) or chain[-1].__cause__) is not None:
        chain.append(inner)
    own = next((link for link in chain if isinstance(link, RaymillError)), None)
    if own is not None:
        return own
    traces = [getattr(link, "traceback_str", "") for link in chain]
    lines = [line.strip() for trace in traces for line in trace.splitlines() if OF_XGBOOST in line]
    last = lines[0] if lines else f"{type(chain[-1]).__name__}: {' '.join(str(chain[-1]).split())}"
    return Unavailable(
        f"XGBoost's workers failed {attempts} times, at last with {last}; where workers were lost, look for "
        "memory that ran out, or raise max_failures"
    )
