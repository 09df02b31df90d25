"""Each bad input: one clear error that names rule, value and way out, before any worker starts."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Cluster

from raymill.errors import Diverged, RaymillError
from raymill.train.run import train


def dataset(folder: Path, rows: int = 400, **columns: Any) -> Path:
    folder.mkdir(parents=True)
    table = {"x": [float(i % 7) for i in range(rows)], "c": ["a", "b"] * (rows // 2)}
    table |= {"late": [i % 3 == 0 for i in range(rows)]} | columns
    pq.write_table(pa.table(table), folder / "part-0.parquet", row_group_size=100)
    return folder


def workers_started() -> int:
    from ray.util.state import list_actors

    names = ("RayTrainWorker", "_RemoteRayXGBoostActor")
    return sum(actor.class_name.endswith(names) for actor in list_actors(limit=10_000))


def truncated(folder: Path) -> Path:
    path = dataset(folder) / "part-1.parquet"
    path.write_bytes((folder / "part-0.parquet").read_bytes()[:-200])
    return folder


CASES: dict[str, tuple[Callable[[Path], Path], dict[str, str], list[str]]] = {
    "missing column": (dataset, {"data.features": "{x: {}, distnace: {}}"}, ["distnace", "have: x, c, late"]),
    "target missing": (dataset, {"data.target": "lat"}, ["no column 'lat'", "Did you mean 'late'"]),
    "wrong dtype": (dataset, {"data.features": "{c: {kind: numeric}}"}, ["'c'", "numeric", "text"]),
    "empty dataset": (lambda f: dataset(f, rows=0, late=pa.array([], pa.bool_())), {}, ["no rows"]),
    "truncated file": (truncated, {}, ["part-1.parquet", "truncated"]),
    "no such dataset": (lambda f: f / "nowhere", {}, ["no dataset at", "nowhere"]),
    "one class": (lambda f: dataset(f, late=[True] * 400), {}, ["one class only", "True", "400 rows"]),
    "target is a feature": (dataset, {"data.features": "{x: {}, late: {}}"}, ["own answer"]),
    "nulls against policy": (lambda f: dataset(f, x=[None] + [1.0] * 399), {}, ["1 nulls", "nulls: mean"]),
    "too many workers": (dataset, {"workers": "640", "read.batch_rows": "640"}, ["640 CPU", "use workers="]),
    "one class to stop early on": (
        lambda f: dataset(f, late=[True] * 400),
        {"flavors.torch.early_stopping": "{}"},
        ["early_stopping watches auc", "one class only, True", "400 rows", "watch log_loss"],
    ),
    "hyper-parameter that XGBoost refuses": (
        dataset,
        {"flavor": "xgboost", "flavors.xgboost.params": "{grow_policy: sideways}"},
        ["sideways", "depthwise", "flavors.xgboost"],
    ),
    "no such network": (dataset, {"flavors.torch.network": "nowhere:net"}, ["nowhere"]),
    "network of another output": (
        dataset,
        {"flavors.torch.network": "counting_net:three_logits"},
        ["counting_net:three_logits", "[2, 3]", "binary"],
    ),
    "gpu where there is none": (dataset, {"gpu": "true"}, ["GPU", "ask for no GPU"]),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_before_workers_start(
    case: str, joined: Cluster, train_spec: Callable[..., Any], tmp_path: Path
) -> None:
    make, overrides, words = CASES[case]
    path = make(tmp_path / "data")
    settings = {
        "model": "bad", "data.train": str(path), "data.validation": str(path), "data.test": "null",
        "data.features": "{x: {}, c: {}}", "read.batch_rows": "64",
    } | overrides  # fmt: skip
    before = workers_started()
    with pytest.raises(RaymillError) as caught:
        train(train_spec(*(f"{key}={value}" for key, value in settings.items())))
    for word in words:
        assert word in str(caught.value)
    assert workers_started() == before
    assert not (joined.storage / "models" / "bad").exists()


def test_a_repository_that_cannot_be_written_is_refused(
    joined: Cluster, train_spec: Callable[..., Any], tmp_path: Path
) -> None:
    """A file in the way: works for root too, whom permissions do not stop."""
    (tmp_path / "taken").write_text("a file")
    path = dataset(tmp_path / "data")
    with pytest.raises(RaymillError, match="cannot be written"):
        train(
            train_spec(
                f"publish.repository={tmp_path / 'taken'}", f"data.train={path}", f"data.validation={path}",
                "data.test=null", "data.features={x: {}}", "read.batch_rows=64",
            )
        )  # fmt: skip


@pytest.mark.parametrize("flavor", ["torch", "tensorflow", "xgboost"])
def test_what_a_worker_finds_reaches_the_person_whole_and_at_once(
    joined: Cluster, train_spec: Callable[..., Any], tmp_path: Path, flavor: str
) -> None:
    """A label in the validation data that training never saw: only a worker reads those rows."""
    before = workers_started()
    seen = dataset(tmp_path / "seen", late=["yes", "no"] * 200)
    unseen = dataset(tmp_path / "unseen", late=["yes", "maybe"] * 200)
    with pytest.raises(RaymillError, match=r"classes that training never saw: \['maybe'\]") as caught:
        train(
            train_spec(
                "model=bad", f"flavor={flavor}", "task=multiclass",
                f"data.train={seen}", f"data.validation={unseen}",
                "data.test=null", "data.features={x: {}}", "read.batch_rows=64",
            )
        )  # fmt: skip
    assert len(str(caught.value).splitlines()) == 1
    assert workers_started() == before + 2, "trying again gives the same"
    assert not (joined.storage / "models" / "bad").exists()
    deadline = time.monotonic() + 30
    while reserved() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not reserved(), "this process goes on, and others want the CPUs"
    assert not multiprocessing.active_children(), "Python would wait for them before it ends"


def reserved() -> list[str]:
    """Return the placement groups that hold or wait for resources."""
    from ray.util import placement_group_table

    groups = placement_group_table().items()
    return [name for name, group in groups if group["state"] in ("CREATED", "PENDING")]


def test_a_run_that_diverges_ends_at_once_and_says_where(
    joined: Cluster, train_spec: Callable[..., Any], tmp_path: Path
) -> None:
    path, before = dataset(tmp_path / "data"), workers_started()
    with pytest.raises(Diverged, match=r"step \d+, on rows of part-0.parquet.*last good checkpoint"):
        train(
            train_spec(
                "model=bad", "task=regression", f"data.train={path}", f"data.validation={path}",
                "data.test=null", "data.target=x", "data.features={c: {}}", "read.batch_rows=64",
                "flavors.torch={optimizer: sgd, learning_rate: 1.0e30}",
            )
        )  # fmt: skip
    assert workers_started() == before + 2, "trying again gives the same"
    assert not (joined.storage / "models" / "bad").exists()


def test_a_job_prints_one_line_and_no_trace(cluster: Cluster) -> None:
    code, output = cluster.submit(
        "jobs/train.py", "--config", "examples/flights/train.yaml", "--set", "wrokers=3"
    )
    assert code != 0
    assert "unknown key 'wrokers'" in output
    assert "Did you mean 'workers'?" in output
    assert "Traceback" not in output
