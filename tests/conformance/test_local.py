"""What training in one process must do, for every flavor that has it: exact metrics, reports, going on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from recipes import TASKS, table

from raymill.config import parse
from raymill.data import learn_encoder, take_snapshot
from raymill.errors import Unsupported
from raymill.evaluation import METRICS, evaluate
from raymill.fitting import FeaturePlan
from raymill.flavors import FLAVORS
from raymill.runs import RunRecord, Runs
from raymill.runs.chart import draw
from raymill.train import pulse
from raymill.train.base import TrainJob, Trial
from raymill.train.local import Local
from raymill.train.spec import TrainSpec

FEATURES = {"x": {"nulls": "mean"}, "z": {}, "word": {"nulls": "unknown"}, "code": {"kind": "categorical"}}
SETTINGS: dict[str, dict[str, Any]] = {
    "onnx": {"hidden": [8], "epochs": 3, "learning_rate": 0.01},
    "tensorflow": {"hidden": [8], "epochs": 3, "learning_rate": 0.01},
    "torch": {"hidden": [8], "epochs": 3, "learning_rate": 0.01},
    "xgboost": {"rounds": 6, "max_depth": 3},
}
LOCAL = [flavor for flavor in FLAVORS if FLAVORS.load(flavor).local]


@pytest.fixture(params=[(flavor, task) for flavor in LOCAL for task in TASKS], ids="-".join)
def job(request: pytest.FixtureRequest, tmp_path: Path) -> TrainJob:
    flavor, task = request.param
    for role, seed in (("train", 0), ("validation", 1)):
        (tmp_path / role).mkdir()
        pq.write_table(table(seed), tmp_path / role / "part-0.parquet", row_group_size=100)
    document = {
        "model": "local", "flavor": flavor, "task": task, "strategy": "local", "seed": 3,
        "runs": str(tmp_path / "runs"),
        "data": {"train": str(tmp_path / "train"), "validation": str(tmp_path / "validation"),
                 "target": task, "features": FEATURES},
        "read": {"batch_rows": 64}, "flavors": {flavor: SETTINGS[flavor]},
    }  # fmt: skip
    spec = parse(TrainSpec, document)
    snapshots = {role: take_snapshot(path) for role, path in spec.data.roles().items()}
    plan = FeaturePlan(spec.data.features, task, task, snapshots["train"].schema)
    encoder = learn_encoder(plan, snapshots["train"])
    return TrainJob(spec, "run", FLAVORS.load(flavor)(), encoder, snapshots)


def predictions(job: TrainJob, model: Any, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    folder.mkdir()
    job.flavor.save(model, folder)
    rows = table(1)
    scores = job.flavor.load(folder, job.encoder).predict(job.encoder.encode_table(rows))
    return scores, job.encoder.encode_labels(rows.column(job.encoder.target))


def test_the_last_measurement_is_that_of_the_model_over_all_rows(job: TrainJob, tmp_path: Path) -> None:
    outcome = Local().fit(job)
    found = evaluate(job.encoder.task, *predictions(job, outcome.model, tmp_path / "model"))
    for name in METRICS[job.encoder.task]:
        assert outcome.history[-1][f"validation_{name}"] == pytest.approx(found[name], abs=1e-5)
    assert outcome.rows_seen == int(outcome.visits_G.sum()) > 0


def test_a_trial_hears_of_every_measurement_and_can_go_on_from_one(job: TrainJob, tmp_path: Path) -> None:
    told: list[dict[str, float]] = []
    saved: list[Path] = []

    def report(metrics: dict[str, float], write: Callable[[Path], None]) -> None:
        told.append(metrics)
        saved.append(tmp_path / f"state-{len(told)}")
        saved[-1].mkdir()
        write(saved[-1])

    whole = Local().fit(replace(job, trial=Trial(report, every_rounds=2)))
    assert told == whole.history
    assert len(told) == 3
    rest = Local().fit(replace(job, trial=Trial(lambda *told: None, every_rounds=2, resume=saved[0])))
    scores = [
        predictions(job, run.model, tmp_path / name)[0] for run, name in ((rest, "rest"), (whole, "whole"))
    ]
    np.testing.assert_allclose(*scores, atol=1e-6)


def test_a_trial_that_nobody_watches_stops_early_all_the_same(job: TrainJob) -> None:
    settings = SETTINGS[job.flavor.name] | {"early_stopping": {"min_delta": 9.0, "patience": 1}}
    if job.flavor.name == "xgboost":
        settings |= {"measure_every": 2}
    spec = job.spec.model_copy(update={"flavors": {job.flavor.name: settings}})
    quiet = Trial(lambda *told: None, every_rounds=1 << 30)
    outcome = Local().fit(replace(job, spec=spec, trial=quiet))
    assert len(outcome.history) == 2  # the first is the best there is by that rule, the second no better


def test_a_sample_is_all_that_is_learned_from(job: TrainJob) -> None:
    read = job.spec.read.model_copy(update={"order": "sampled", "options": {"fraction": 0.4}})
    outcome = Local().fit(replace(job, spec=job.spec.model_copy(update={"read": read})))
    learned_G = np.asarray(outcome.visits_G)
    full = Local().fit(job)
    assert 0 < outcome.rows_seen == learned_G.sum() < full.rows_seen
    if job.flavor.name == "xgboost":  # which reads the same rows every round
        assert np.count_nonzero(learned_G) < len(learned_G)


def test_training_goes_on_from_a_saved_model(job: TrainJob, tmp_path: Path) -> None:
    first = Local().fit(job)
    before, _ = predictions(job, first.model, tmp_path / "first")
    start = job.flavor.weights(tmp_path / "first")
    more = Local().fit(replace(job, start=start))
    after, _ = predictions(job, more.model, tmp_path / "more")
    assert more.rows_seen == first.rows_seen
    assert not np.allclose(before, after)
    loss = next(name for name in ("validation_log_loss", "validation_rmse") if name in more.history[-1])
    assert more.history[-1][loss] < first.history[0][loss]
    if job.flavor.name == "xgboost":
        assert more.model.num_boosted_rounds() == 2 * first.model.num_boosted_rounds()


def test_several_workers_are_refused(job: TrainJob) -> None:
    with pytest.raises(Unsupported, match="got workers=2; use workers=1, or strategy ddp"):
        Local().fit(replace(job, spec=job.spec.model_copy(update={"workers": 2})))


@pytest.mark.parametrize("beat_s", [pulse.BEAT_S, 0.0], ids=["a point a second", "a point a step"])
def test_a_run_has_a_curve_and_a_trial_leaves_none(
    job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beat_s: float
) -> None:
    """As with workers: points, epochs, TensorBoard, and what `raymill runs show` draws."""
    monkeypatch.setattr(pulse, "BEAT_S", beat_s)
    runs = Runs(job.spec.runs)
    Local().fit(replace(job, trial=Trial(lambda *told: None)))
    assert not (runs.root / job.run).exists()
    outcome = Local().fit(job)
    history = runs.history(job.run)
    assert history.epochs == outcome.history
    assert history.points[-1].rows == outcome.rows_seen
    assert all(point.loss > 0 and point.rows_per_second > 0 for point in history.points)
    (events,) = (runs.root / job.run / "tensorboard").children()
    assert b"train/loss" in events.read_bytes()
    record = RunRecord(
        run=job.run, model="local", flavor=job.flavor.name, strategy="local", started="now", updated="now",
        spec={}, snapshots={}, code="",
    )  # fmt: skip
    assert draw(record, history, tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
