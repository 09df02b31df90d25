"""A study: a space, stages of searchers, and the log of what was asked and what came of it.

Results reach the searcher in a logical order, not in the order in which trials happen to end: suggestion
k is made once trials 0 .. k - n have ended, n = concurrency + slack, from exactly their results, with
trials k - n + 1 .. k - 1 pending. So equal headers give equal suggestions, whatever ends first, and a
study opened again goes on as if it had never stopped. The price: a worker may wait for the oldest trial,
less with more slack. A searcher that does not learn from results waits for none.
`order: arrival` never waits, and is rebuilt from the log just the same, but another run may differ.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from raymill.config import parse
from raymill.errors import Conflict, Corrupt, InvalidInput, NotFound
from raymill.search import SEARCHERS
from raymill.search.base import Searcher
from raymill.search.header import StudyHeader
from raymill.search.log import Event, EventLog
from raymill.search.record import Record, Status, Trial
from raymill.search.space import Params
from raymill.storage import Location, locate

HEADER_FILE = "study.json"


class Study:
    """Asks for trials and records everything. One process drives a study at a time.

    `Study(header)` lives in memory only; `Study.open_or_create` is on a file system; `Study.read` gives
    the record of one without touching it.
    """

    def __init__(
        self,
        header: StudyHeader,
        log: EventLog | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Rebuild the study from its log, in memory where there is none."""
        self.header, self.clock = header, clock
        self._log = log
        self._searcher: Searcher | None = None
        self._stage = -1
        self._told: list[int] = []
        """Numbers of trials whose results the searcher has, in the order in which it got them."""
        self._exhausted = False
        self.record = Record(header)
        for event in log.read() if log else []:
            self._replay(event)
        self.record.torn = tuple(log.torn) if log else ()
        self._write({"event": "open"})

    @classmethod
    def open_or_create(
        cls, location: str | Location, header: StudyHeader, clock: Callable[[], float] = time.time
    ) -> Study:
        """Return the study at `location`: begun there, or gone on with.

        Raises:
            Conflict: another study lies there; the message names what differs.
            Corrupt: its log is damaged elsewhere than in a last line.
        """
        folder = location if isinstance(location, Location) else locate(location)
        folder.make_directory()
        file = folder / HEADER_FILE
        if not file.create_bytes(orjson.dumps(header.model_dump(mode="json"), option=orjson.OPT_INDENT_2)):
            there = _read_header(file)
            if differences := list(header.differences(there)):
                raise Conflict(
                    f"{folder.uri!r} holds another study: {'; '.join(differences)}; give this one another "
                    "name, or the header that it was begun with"
                )
        return cls(header, EventLog(folder / "log"), clock)

    @staticmethod
    def read(location: str | Location) -> Record:
        """Return the record of a study, which may be running elsewhere. Raises NotFound where none lies."""
        folder = location if isinstance(location, Location) else locate(location)
        record = Record(_read_header(folder / HEADER_FILE))
        log = EventLog(folder / "log")
        for event in log.read():
            record.apply(event)
        record.torn = tuple(log.torn)
        return record

    # Asking

    def ask(self) -> Trial | None:
        """Return the next trial, logged; None while results must come first, or when it is finished."""
        number = len(self.record.trials)
        if self.is_finished() or len(self.record.pending()) >= self.header.concurrency:
            return None
        while True:
            ended = self._searcher is None or self._stage_is_full(number)
            stage = self._stage + 1 if ended else self._stage
            if stage == len(self.header.stages):
                self._exhausted = True
                return None
            if not self._advance(number, stage):
                return None
            if ended:
                self._begin_stage(stage, number)
            assert self._searcher is not None
            suggestion = self._searcher.ask()
            if suggestion is not None:
                break
            self._searcher = None  # it has no more
        self._write({"event": "ask", "number": number, "stage": self._stage, "params": suggestion.params})
        return self.record.trials[number]

    def is_finished(self) -> bool:
        """Return whether there will be no more trials: stages done or budget spent. Some may still run."""
        budget = self.header.budget
        if budget.seconds is not None and self.seconds() >= budget.seconds:
            return True
        if budget.cost is not None and self.record.cost() >= budget.cost:
            return True
        counts = [stage.trials for stage in self.header.stages]
        if None not in counts and len(self.record.trials) >= sum(count or 0 for count in counts):
            return True
        return self._exhausted

    def seconds(self) -> float:
        """Return the wall time during which a driver had the study open."""
        return self.record.driven_seconds + max(self.clock() - self.record.last_at, 0.0)

    def pending(self) -> list[Trial]:
        """Return the trials asked and not told; after a crash they are to be run again."""
        return self.record.pending()

    # Telling

    def report(self, number: int, step: int, metrics: Mapping[str, float]) -> None:
        """Log intermediate metrics of a running trial; they change no suggestion.

        Raises:
            InvalidInput: the trial was never asked, or has ended.
        """
        if self.record.trial(number).ended:
            raise InvalidInput(f"trial {number} has ended; it reports no more")
        self._write({"event": "report", "number": number, "step": step, "metrics": dict(metrics)})

    def tell(
        self,
        number: int,
        metrics: Mapping[str, float],
        *,
        status: Status = "complete",
        seconds: float | None = None,
        error: str = "",
        params: Params | None = None,
    ) -> Trial:
        """Log how a trial ended and return it. `stopped` by a scheduler counts by its last metrics.

        `params` are those that it ended with, where a scheduler changed them on the way; the record has them.
        A trial whose objectives are missing or not finite has failed, and the reason is its error.

        Raises:
            Conflict: it has been told already.
            InvalidInput: it was never asked, or the status is none that ends a trial.
        """
        trial = self.record.trial(number)
        if trial.ended:
            raise Conflict(f"trial {number} was told already: {trial.status}; a result counts once")
        if status not in ("complete", "stopped", "failed"):
            raise InvalidInput(f"a trial ends as complete, stopped or failed, got {status!r}")
        if status != "failed" and (problem := self.header.problem(metrics)):
            status, error = "failed", problem
        self._write(
            {
                "event": "tell", "number": number, "status": status, "metrics": dict(metrics),
                "seconds": seconds, "error": error, **({"params": params} if params else {}),
            }
        )  # fmt: skip
        if self.header.order == "arrival":
            self._pass_on(number)
        return trial

    def close(self) -> None:
        """Release the log's file."""
        if self._log is not None:
            self._log.close()

    # How results reach the searcher

    def _advance(self, number: int, stage: int) -> bool:
        """Pass on what a stage's suggestion `number` is made from; return whether all of it is there."""
        if self.header.order == "arrival":
            return True
        learns = SEARCHERS.load(self.header.stages[stage].searcher).learns
        for due in range(len(self._told), number - self.header.concurrency - self.header.slack + 1):
            if not self.record.trials[due].ended:
                return not learns
            self._pass_on(due)
        return True

    def _pass_on(self, number: int) -> None:
        self._told.append(number)
        if self._searcher is not None:
            self._searcher.tell(number, self._values(number))

    def _values(self, number: int) -> tuple[float, ...] | None:
        trial = self.record.trials[number]
        return None if trial.status == "failed" else self.header.values(trial.metrics)

    def _begin_stage(self, stage: int, first: int) -> None:
        """Make a stage's searcher and give it all that is known, in the order in which it became known."""
        self._stage, searcher = stage, self.header.searcher(stage, first)
        for point in self.header.known:
            searcher.learn(point.params, self.header.values(point.metrics))
        told = set(self._told)
        for number in self._told:
            searcher.learn(self.record.trials[number].params, self._values(number))
        for trial in self.record.trials[:first]:
            if trial.number not in told:
                searcher.restore(trial.number, trial.params)
        self._searcher = searcher

    def _stage_is_full(self, number: int) -> bool:
        assert self._searcher is not None
        trials = self.header.stages[self._stage].trials
        return trials is not None and number - self._searcher.first >= trials

    def _replay(self, event: Event) -> None:
        """Bring record and searcher to where they were after this event."""
        if event["event"] == "ask":
            number, stage = event["number"], event["stage"]
            if not self._advance(number, stage):
                raise Corrupt(f"the log asks trial {number} before the results that it was made from")
            if stage != self._stage:
                self._begin_stage(stage, number)
            self.record.apply(event)
            assert self._searcher is not None
            self._searcher.restore(number, event["params"])
            return
        self.record.apply(event)
        if event["event"] == "tell" and self.header.order == "arrival":
            self._pass_on(event["number"])

    def _write(self, event: dict[str, Any]) -> None:
        event["at"] = self.clock()
        if self._log is not None:
            self._log.append(event)
        self.record.apply(event)


def _read_header(file: Location) -> StudyHeader:
    if not file.exists():
        raise NotFound(
            f"no study at {file.uri.removesuffix('/' + HEADER_FILE)!r}: {HEADER_FILE} is not there"
        )
    try:
        document = orjson.loads(file.read_bytes())
    except orjson.JSONDecodeError as error:
        raise Corrupt(f"{file.uri!r} is no study's header: {error}") from error
    return parse(StudyHeader, document, source=file.uri)
