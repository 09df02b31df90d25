"""The training loop without a framework: ranks are threads, and the model remembers the rows it saw."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.config import parse
from raymill.data import learn_encoder, take_snapshot
from raymill.errors import Diverged
from raymill.features import Features
from raymill.fitting import FeaturePlan
from raymill.flavors import FLAVORS
from raymill.runs import Point
from raymill.train.base import TrainJob
from raymill.train.loop import Alone, TrainingLoop, Write
from raymill.train.spec import TrainSpec

ROWS, EPOCHS, BATCH = 610, 2, 60


class Rows:
    """Learns nothing and knows which rows it was shown."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def step(
        self, features: Features, labels_N: Any, weights_N: Any, *, scale: float, key: tuple[int, ...]
    ) -> float:
        self.seen += np.rint(features.numeric_NF[:, 0]).astype(int).tolist()
        return float(len(features))

    def plan(self, steps: int) -> None: ...

    def is_finite(self) -> bool:
        return True

    def predict(self, features: Features) -> np.ndarray:
        return features.numeric_NF[:, 0] / ROWS

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None: ...

    def freeze(self) -> Write:
        seen = list(self.seen)
        return lambda directory: (directory / "seen.json").write_text(json.dumps(seen)) and None

    def restore(self, directory: Path) -> None: ...


class Left(Exception):
    """This rank ended as it was told to."""


class Threads:
    """Ranks that are threads of this process; one may be told to leave at a step of its own."""

    def __init__(self, rank: int, shared: dict[str, Any], leave_at: int | None) -> None:
        self.rank, self.size = rank, shared["size"]
        self._shared, self._leave_at, self._asked = shared, leave_at, 0

    exchange = None

    def gather(self, mine: Any) -> list[Any]:
        self._shared["parts"][self.rank] = mine
        self._shared["barrier"].wait(timeout=10)
        parts = list(self._shared["parts"])
        self._shared["barrier"].wait(timeout=10)
        return parts

    def save(self, metrics: dict[str, float], write: Write, *, wait: bool) -> None:
        if self.rank == 0:
            folder = self._shared["folder"] / f"{len(self._shared['saved']):03d}"
            folder.mkdir()
            write(folder)
            self._shared["saved"].append((folder, wait))

    def tell(self, point: Point, new_rows: int) -> None:
        self._shared["told"].append((point, new_rows))

    def tell_epoch(self, rows: int, entry: Mapping[str, float]) -> None:
        self._shared["epochs"].append((rows, entry))

    def must_leave(self) -> bool:
        self._asked += 1
        return self._leave_at == self._asked

    def leave(self) -> None:
        raise Left


@pytest.fixture
def job(tmp_path: Path) -> TrainJob:
    data = tmp_path / "data"
    data.mkdir()
    table = pa.table({"x": np.arange(float(ROWS)), "y": np.arange(ROWS) % 3 == 0})
    pq.write_table(table, data / "part.parquet", row_group_size=50)
    spec = parse(
        TrainSpec,
        {
            "model": "m", "workers": 3, "seed": 5, "flavors": {"torch": {"epochs": EPOCHS}},
            "data": {"train": str(data), "validation": str(data), "target": "y", "features": {"x": None}},
            "read": {"batch_rows": BATCH, "lanes": 6},
            "checkpoint": {"every_steps": 4},
        },
    )  # fmt: skip
    snapshot = take_snapshot(str(data))
    plan = FeaturePlan(spec.data.features, "y", "binary", snapshot.schema)
    encoder = learn_encoder(plan, snapshot)
    return TrainJob(
        spec, "run", FLAVORS.load("torch")(), encoder, {"train": snapshot, "validation": snapshot}
    )


def run(
    job: TrainJob, size: int, folder: Path, *, resume: Path | None = None, leave_at: int | None = None
) -> tuple[list[TrainingLoop], list[tuple[Path, bool]]]:
    """Run all ranks to their end, and return their loops and what was saved."""
    folder.mkdir()
    shared: dict[str, Any] = {
        "size": size, "folder": folder, "saved": [], "told": [], "epochs": [],
        "parts": [None] * size, "barrier": threading.Barrier(size),
    }  # fmt: skip
    loops = [
        TrainingLoop(job, Rows(), Threads(rank, shared, leave_at if rank == size - 1 else None))
        for rank in range(size)
    ]
    failures: list[BaseException] = []

    def work(loop: TrainingLoop) -> None:
        try:
            if resume:
                loop.load(resume)
            loop.run()
        except Left:
            pass
        except BaseException as error:
            failures.append(error)
            shared["barrier"].abort()

    threads = [threading.Thread(target=work, args=(loop,)) for loop in loops]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert not failures, failures
    assert sum(new for _, new in shared["told"]) == sum(rows_of(loops)) / size - before(resume)
    return loops, shared["saved"]


def rows_of(loops: list[TrainingLoop]) -> list[int]:
    return [loop.rows_seen for loop in loops]


def before(resume: Path | None) -> int:
    return json.loads((resume / "state.json").read_text())["rows_seen"] if resume else 0


def seen(loops: list[TrainingLoop]) -> Counter[int]:
    return Counter(row for loop in loops for row in loop.learner.seen)  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_row_is_learned_from_once_an_epoch(job: TrainJob, tmp_path: Path, size: int) -> None:
    loops, saved = run(job, size, tmp_path / "run")
    assert seen(loops) == dict.fromkeys(range(ROWS), EPOCHS)
    assert {loop.rows_seen for loop in loops} == {ROWS * EPOCHS}
    assert loops[0].visits_G().tolist() == [100] * 12 + [20]
    assert len(saved) == EPOCHS * (11 // 4 + 1)
    assert [entry["rows"] for entry in loops[0].history] == [ROWS] * EPOCHS
    assert loops[0].history[0]["loss"] == pytest.approx(1.0)
    assert all(loop.history[0]["validation_auc"] == loops[0].history[0]["validation_auc"] for loop in loops)


@pytest.mark.parametrize("leave_at", [1, 2])  # at the first step of an epoch, and at its last
@pytest.mark.parametrize("sizes", [(2, 3), (3, 1), (1, 2)])
def test_a_rank_that_must_leave_is_waited_for_and_the_run_goes_on_with_others(
    job: TrainJob, tmp_path: Path, sizes: tuple[int, int], leave_at: int
) -> None:
    before, saved = run(job, sizes[0], tmp_path / "before", leave_at=leave_at)
    folder, waited = saved[-1]
    assert waited, "training must not go on before the checkpoint is stored"
    assert not any(was for _, was in saved[:-1])
    after, _ = run(job, sizes[1], tmp_path / "after", resume=folder)
    assert seen(before) + seen(after) == dict.fromkeys(range(ROWS), EPOCHS)
    assert after[0].rows_seen == ROWS * EPOCHS
    assert after[0].history[0]["loss"] == pytest.approx(1.0)
    assert after[0].visits_G().tolist() == [100] * 12 + [20]


def test_a_checkpoint_is_of_the_moment_it_was_frozen_at(job: TrainJob, tmp_path: Path) -> None:
    loop = TrainingLoop(job, Rows(), Alone())
    write = loop.freeze([1.5])
    loop.run()
    write(tmp_path)
    state = json.loads((tmp_path / "state.json").read_text())
    assert (state["rows_seen"], state["loss_sum"], state["history"]) == (0, 1.5, [])
    assert json.loads((tmp_path / "seen.json").read_text()) == []


def test_a_loss_that_is_no_number_ends_the_run_and_names_step_rows_and_checkpoint(
    job: TrainJob, tmp_path: Path
) -> None:
    class RunsAway(Rows):
        def step(self, features: Features, labels_N: Any, weights_N: Any, **how: Any) -> float:
            super().step(features, labels_N, weights_N, **how)
            return float("nan") if len(self.seen) > 5 * BATCH else 1.0

    loop = TrainingLoop(job, RunsAway(), Alone())
    with pytest.raises(
        Diverged, match=r"the loss is nan in epoch 1 at step 5, on rows of part\.parquet"
    ) as told:
        loop.run()
    assert "last good checkpoint: epoch 1, step 4, of run run" in str(told.value)


def test_weights_that_are_no_numbers_are_never_stored(job: TrainJob, tmp_path: Path) -> None:
    class Spoilt(Rows):
        def is_finite(self) -> bool:
            return len(self.seen) <= 4 * BATCH

    saved: list[dict[str, float]] = []

    class Keeping(Alone):
        def save(self, metrics: dict[str, float], write: Write, *, wait: bool) -> None:
            saved.append(metrics)

    loop = TrainingLoop(job, Spoilt(), Keeping())
    with pytest.raises(Diverged, match="a weight is no finite number in epoch 1 at step 7"):
        loop.run()
    assert saved == [{"step": 4.0}]


def test_early_stopping_ends_the_run_and_keeps_the_best_weights(job: TrainJob, tmp_path: Path) -> None:
    class Fades(Rows):
        """Predicts worse with every epoch, and knows which epoch's state it was given back."""

        restored = -1

        def predict(self, features: Features) -> np.ndarray:
            good = np.rint(features.numeric_NF[:, 0]).astype(int) % 3 == 0
            flip = np.arange(len(good)) < len(self.seen) // ROWS * 50
            return np.where(flip, ~good, good).astype(np.float32)

        def freeze(self) -> Write:
            epochs = len(self.seen) // ROWS
            return lambda directory: (directory / "epochs").write_text(str(epochs)) and None

        def restore(self, directory: Path) -> None:
            self.restored = int((directory / "epochs").read_text())
            self.seen = [0] * (self.restored * ROWS)

    section = {"epochs": 9, "early_stopping": {"patience": 2}}
    spec = job.spec.model_copy(update={"flavors": {"torch": section}})
    loop = TrainingLoop(replace(job, spec=spec), Fades(), Alone())
    loop.run()
    outcome = loop.outcome()
    assert len(outcome.history) == 3
    assert outcome.model.restored == 1
    loop.freeze([0.0])(tmp_path)
    again = TrainingLoop(replace(job, spec=spec), Fades(), Alone())
    again.load(tmp_path)
    again.run()
    assert len(again.history) == 3, "a run that was over stays over"
    assert again.outcome().model.restored == 1
