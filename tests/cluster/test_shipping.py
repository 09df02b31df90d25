"""What a submission ships, and which code runs: the upload's, on the driver and on every worker."""

from __future__ import annotations

from pathlib import Path

from conftest import Cluster

PROBE = (
    "import sys; sys.path.insert(0, 'jobs'); import _upload; import ray, raymill; "
    "from raymill.cluster import connect; connect(); "
    "where = ray.remote(lambda: __import__('raymill').__file__); "
    "print('WHERE', raymill.__file__, ray.get(where.remote()))"
)


def test_the_submitted_code_runs_not_the_installed(cluster: Cluster) -> None:
    """The environment has an installed raymill, the checkout's; neither process may import that."""
    code, output = cluster.submit("-c", PROBE)
    assert code == 0, output
    driver, worker = next(line for line in output.splitlines() if line.startswith("WHERE")).split()[1:]
    assert "working_dir_files" in driver
    assert "py_modules_files" in worker


def test_submission_ships_neither_venv_nor_data(cluster: Cluster) -> None:
    code, output = cluster.submit("-c", "import os; print(sorted(os.listdir('.')))")
    assert code == 0, output
    listing = next(line for line in output.splitlines() if line.startswith("["))
    assert "'jobs'" in listing
    for absent in (".venv", ".git", ".raymill", ".pytest_cache", ".mypy_cache"):
        assert f"'{absent}'" not in listing


def test_jobs_are_thin() -> None:
    for job in sorted((Path(__file__).parents[2] / "jobs").glob("*.py")):
        assert len(job.read_text().splitlines()) <= 60, job
