"""Records of runs: what is written is read back, resumed curves hold every row once, errors are plain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fsspec
import pytest
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event
from typer.testing import CliRunner

from raymill.cli import app
from raymill.errors import Corrupt, NotFound
from raymill.runs import History, Point, RunLog, RunRecord, Runs
from raymill.runs.chart import draw
from raymill.runs.record import MOST_POINTS
from raymill.runs.tensorboard import EventFile
from raymill.storage import Location, locate


def record(run: str = "r1", **changes: Any) -> RunRecord:
    document = {
        "run": run, "model": "flights", "flavor": "torch", "strategy": "ddp",
        "started": "2026-01-02T03:04:05+00:00", "updated": "2026-01-02T03:04:05+00:00",
        "spec": {"seed": 1}, "snapshots": {"train": "abc"}, "code": "0",
    }  # fmt: skip
    return RunRecord.model_validate({**document, **changes})


def point(rows: int, loss: float = 0.5) -> Point:
    return Point(
        rows=rows, seconds=rows / 100, epoch=1, step=rows // 10, loss=loss, rows_per_second=100.0, workers=2
    )


def events(data: bytes) -> list[Event]:
    """Return the events of a file, every checksum checked."""

    def masked(part: bytes) -> bytes:
        crc = crc32c(part)
        return ((((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")

    found = []
    while data:
        length = int.from_bytes(data[:8], "little")
        assert data[8:12] == masked(data[:8])
        body = data[12 : 12 + length]
        assert data[12 + length : 16 + length] == masked(body)
        found.append(Event.FromString(body))
        data = data[16 + length :]
    return found


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    runs = Runs(locate(tmp_path))
    written = runs.write(record(), status="finished", version=3, metrics={"test": {"auc": 0.7}})
    assert runs.names() == ["r1"]
    assert runs.record("r1") == written
    assert (written.version, written.status) == (3, "finished")
    assert runs.history("r1") == History()


def test_what_is_not_there_and_what_is_no_record(tmp_path: Path) -> None:
    runs = Runs(locate(tmp_path))
    runs.write(record("night"))
    with pytest.raises(NotFound, match=r"no run 'nigth'.*Did you mean 'night'"):
        runs.record("nigth")
    (tmp_path / "night" / "run.json").write_text('{"run": 1}')
    with pytest.raises(Corrupt, match=r"night/run.json.*is no record of a run"):
        runs.record("night")


def test_a_resumed_run_takes_back_what_it_does_again() -> None:
    history = History()
    for rows in (10, 20, 30, 40):
        history.add(point(rows, loss=1.0))
    for rows in (25, 35):
        history.add(point(rows, loss=0.5))
    assert [(p.rows, p.loss) for p in history.points] == [(10, 1.0), (20, 1.0), (25, 0.5), (35, 0.5)]
    for number in (1.0, 2.0, 2.0):
        history.end_epoch({"epoch": number, "loss": number})
    assert [entry["epoch"] for entry in history.epochs] == [1.0, 2.0]


def test_a_long_curve_is_thinned_and_keeps_its_ends() -> None:
    history = History()
    for rows in range(10, 10 * MOST_POINTS * 3, 10):
        history.add(point(rows))
    rows = [p.rows for p in history.points]
    assert len(rows) <= MOST_POINTS
    assert rows == sorted(rows)
    assert (rows[0], rows[-1]) == (10, 10 * MOST_POINTS * 3 - 10)


def test_the_log_stores_points_epochs_and_events_and_tells_listeners(tmp_path: Path) -> None:
    runs, heard = Runs(locate(tmp_path)), []
    log = RunLog(runs, "r1", listeners=[lambda point, new: heard.append((point.rows, new))])
    log.point(point(100), 100)
    log.point(point(200, loss=0.25), 100)
    log.epoch(200, {"epoch": 1.0, "loss": 0.3})
    log.close()
    again = RunLog(runs, "r1")
    again.point(point(300), 100)
    again.close()
    history = runs.history("r1")
    assert [p.rows for p in history.points] == [100, 200, 300]
    assert history.points[2].seconds == 2.0 + 3.0, "seconds go on where the first attempt ended"
    assert history.epochs == [{"epoch": 1.0, "loss": 0.3}]
    assert heard == [(100, 100), (200, 100)]
    first, second = sorted((tmp_path / "r1" / "tensorboard").iterdir())
    scalars = [
        (event.step, value.tag, value.simple_value)
        for event in events(first.read_bytes())[1:]
        for value in event.summary.value
    ]
    assert (200, "train/loss", 0.25) in scalars
    assert scalars[-1] == (200, "epoch/loss", pytest.approx(0.3))
    assert len(events(second.read_bytes())) == 2


def test_event_files_lie_in_any_storage() -> None:
    file = EventFile(locate("memory://runs/r/tensorboard"))
    file.add(1, {"loss": 1.0})
    file.flush()
    file.add(2_000_000_000, {"loss": 0.5})
    file.flush()
    found = events(fsspec.filesystem("memory").cat(f"/{location_path(file.location)}"))
    assert found[0].file_version == "brain.Event:2"
    assert [event.step for event in found] == [0, 1, 2_000_000_000]


def location_path(location: Location) -> str:
    return location.path.lstrip("/")


def test_the_shell_lists_and_shows_runs_and_draws_the_curve(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("RAYMILL_STORAGE", str(tmp_path))
    monkeypatch.setenv("RAYMILL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    runs = Runs("runs")
    runs.write(record("night"), status="finished", version=3, metrics={"test": {"auc": 0.7012}})
    runs.write(record("day", started="2026-01-03T03:04:05+00:00"))
    log = RunLog(runs, "night")
    for rows in range(100, 1000, 100):
        log.point(point(rows), 100)
    log.epoch(1000, {"epoch": 1.0, "rows": 1000.0, "loss": 0.3, "validation_auc": 0.68})
    log.close()
    listed = CliRunner().invoke(app, ["runs", "list"])
    assert listed.exit_code == 0, listed.output
    lines = [line for line in listed.output.splitlines() if "flights" in line]
    assert "day" in lines[0]
    assert "running" in lines[0]
    assert "test: auc 0.7012" in lines[1]
    assert "900" in lines[1]
    shown = CliRunner().invoke(app, ["runs", "show", "night", "--png", str(tmp_path / "curve.png")])
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout)["spec"] == {"seed": 1}
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    missing = CliRunner().invoke(app, ["runs", "show", "nihgt"])
    assert missing.exit_code == 2
    assert "Did you mean 'night'" in missing.output


def test_a_run_whose_job_died_is_told_by_its_silence(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("RAYMILL_STORAGE", str(tmp_path))
    monkeypatch.setenv("RAYMILL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    runs = Runs("runs")
    runs.write(record("night"))
    file = tmp_path / "runs/night/run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"updated": "2026-01-02T03:04:05+00:00"}))
    assert "silent for" in CliRunner().invoke(app, ["runs", "list"]).output


def test_nothing_learned_yet_is_no_curve(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="has no loss yet; it is running"):
        draw(record(), History(), tmp_path / "x.png")
