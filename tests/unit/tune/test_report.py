"""What a person sees of a study: lines, tables, plots, the page, and `raymill study`."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from raymill.cli import app
from raymill.config import load
from raymill.search import report
from raymill.search.header import StudyHeader
from raymill.search.importance import importance
from raymill.search.plots import importance_of, plots
from raymill.search.report import draw, html, write_report
from raymill.search.study import Study
from raymill.search.watch import Watch, ranked
from raymill.storage import locate
from raymill.train.spec import TrainSpec

ROOT = Path(__file__).resolve().parents[3]
SPACE = {
    "parameters": {
        "flavors.xgboost.learning_rate": {"type": "float", "low": 0.001, "high": 1.0, "log": True},
        "flavors.xgboost.max_depth": {"type": "int", "low": 2, "high": 8},
        "read.shuffle": {"type": "boolean"},
        "seed": {"type": "int", "low": 1, "high": 9, "when": {"read.shuffle": True}},
    }
}


@pytest.fixture(autouse=True)
def _coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "DPI", 20)  # fine pictures take a second each


def header(**changes: Any) -> StudyHeader:
    train = yaml.safe_load((ROOT / "examples/flights/train.yaml").read_text())
    return StudyHeader.model_validate(
        {
            "space": SPACE, "stages": [{"searcher": "random", "trials": 16}],
            "objectives": [{"metric": "auc", "mode": "max"}], "meta": {"train": train},
        } | changes
    )  # fmt: skip


def run(study: Study) -> Study:
    """Run a study whose objective is the learning rate alone; trial 3 fails."""
    while (trial := study.ask()) is not None:
        rate, depth = (trial.params[f"flavors.xgboost.{name}"] for name in ("learning_rate", "max_depth"))
        if trial.number == 3:
            study.tell(3, {}, status="failed", error="ValueError: <no> rows", seconds=0.1)
        else:
            study.tell(trial.number, {"auc": float(np.log(rate)), "loss": depth + rate}, seconds=1.5)
    return study


def test_a_line_for_each_trial_that_ends_and_a_table_at_times() -> None:
    now, study = [0.0], Study(header())
    console = Console(width=150, record=True, file=io.StringIO())
    watch = Watch("demo", study.record, console=console, clock=lambda: now[0])
    first, _ = study.ask(), study.tell(0, {"auc": 0.7}, seconds=2.0)
    watch.tick()
    watch.tick()
    assert first is not None
    study.ask()
    study.tell(1, {}, status="failed", error="ValueError: no rows", seconds=0.1)
    study.ask()
    now[0] = 60.0
    watch.tick()
    text = console.export_text()
    assert text.count("trial 0 random: learning_rate=") == 1
    assert "-> auc 0.7 in 2.0 s, the best so far" in text
    assert re.search(r"trial 1 random: .* failed: ValueError: no rows", text)
    assert "study demo: 1 complete, 1 failed, 1 running" in text
    assert re.search(r"│ 2 +│ random +│ running", text)


def test_trials_are_ranked_by_the_first_objective_and_failures_are_left_out() -> None:
    record = run(Study(header())).record
    values = [trial.metrics["auc"] for trial in ranked(record)]
    assert values == sorted(values, reverse=True)
    assert len(values) == 15


def test_the_parameter_that_alone_decides_is_the_important_one() -> None:
    found = importance_of(run(Study(header(stages=[{"searcher": "random", "trials": 40}]))).record)
    assert max(found, key=lambda name: found[name]) == "flavors.xgboost.learning_rate"
    assert sum(found.values()) == pytest.approx(1.0)
    assert all(value >= 0 for value in found.values())


def test_importance_is_zero_where_nothing_tells_trials_apart() -> None:
    losses_N = np.arange(8.0)
    assert importance({"x": np.full(8, 0.5)}, losses_N, {"x": None}) == {"x": 0.0}
    assert importance({"x": np.full(2, 0.5)}, losses_N[:2], {"x": None}) == {"x": 0.0}
    assert importance({}, losses_N, {}) == {}


def test_every_plot_is_drawn_of_a_study_and_none_of_an_empty_one() -> None:
    two = header(objectives=[{"metric": "auc", "mode": "max"}, {"metric": "loss", "mode": "min"}])
    drawn = draw(run(Study(two)).record)
    assert drawn.keys() == plots().keys()
    assert all(data.startswith(b"\x89PNG") for data in drawn.values())
    assert draw(Study(header()).record) == {}
    assert "pareto" not in draw(run(Study(header())).record)


def test_a_study_whose_trials_all_failed_is_shown_too() -> None:
    study = Study(header())
    study.ask()
    study.tell(0, {}, status="failed", error="x", seconds=0.0)
    assert draw(study.record) == {}
    assert "No trial has succeeded yet" in html("s", study.record, {})


def test_the_page_stands_alone_and_escapes_what_it_shows(tmp_path: Path) -> None:
    written = write_report("a<b", run(Study(header())).record, locate(tmp_path))
    assert {file.name for file in written} == {"report.html", *(f"{n}.png" for n in plots() if n != "pareto")}
    page = (tmp_path / "report.html").read_text()
    assert "<title>study a&lt;b</title>" in page
    assert 'title="ValueError: &lt;no&gt; rows"' in page
    assert page.count('src="data:image/png;base64,') == 4
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert page.count("<tr") == 2 + 4 + 16


def test_the_shell_lists_and_shows_studies_and_writes_a_spec_that_trains(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("RAYMILL_STORAGE", str(tmp_path))
    monkeypatch.setenv("RAYMILL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    run(Study.open_or_create(str(tmp_path / "studies" / "demo"), header())).close()
    shell = CliRunner()
    listed = shell.invoke(app, ["study", "list"])
    assert "15 complete, 1 failed" in listed.output
    assert "max auc" in listed.output
    shown = shell.invoke(
        app,
        ["study", "show", "demo", "--out", str(tmp_path / "best.yaml"), "--report", str(tmp_path / "page")],
    )
    assert shown.exit_code == 0, shown.output
    assert (tmp_path / "page" / "report.html").exists()
    best = load(TrainSpec, tmp_path / "best.yaml")
    record = Study.read(str(tmp_path / "studies" / "demo"))
    wanted = record.best()
    assert wanted is not None
    assert best.study == f"demo/{wanted.number}"
    assert best.flavors["xgboost"]["learning_rate"] == wanted.params["flavors.xgboost.learning_rate"]


def test_a_study_that_is_not_there_is_one_clear_error(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("RAYMILL_STORAGE", str(tmp_path))
    monkeypatch.setenv("RAYMILL_HOME", str(tmp_path / "home"))
    shown = CliRunner().invoke(app, ["study", "show", "nowhere"])
    assert shown.exit_code == 2
    assert "no study at" in shown.output
