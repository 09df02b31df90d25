"""Every code block of the README, run in order as a newcomer would, in a copy of the checkout.

Only two things differ from what is printed: ports, so that a running demo is not disturbed, and
`make test`, which runs this very test and is therefore only checked to be a target.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, free_port

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
"""`bash` is run here; `sh` is for several machines, and tests/unit/test_cluster_yaml.py reads it."""


def blocks() -> list[tuple[str, str]]:
    return BLOCK.findall((ROOT / "README.md").read_text())


def test_every_block_is_a_command() -> None:
    assert {language for language, _ in blocks()} == {"bash", "sh"}
    text = "".join(body for _, body in blocks())
    for command in ("make demo", "make test", "make stop", "raymill up", "curl"):
        assert command in text
    assert text.count("ray job submit --working-dir . -- python jobs/") == 6


def copy_checkout(target: Path, port: int, grpc_port: int) -> None:
    """Copy what git tracks, times kept, with the served port changed."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, tracked.stdout.split("\0")):
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy)
    for name in ("README.md", "serve_apps/models.yaml"):
        text = (target / name).read_text().replace("8000", str(port)).replace("9000", str(grpc_port))
        (target / name).write_text(text)
    serve = target / "examples/flights/serve.yaml"
    serve.write_text(serve.read_text() + f"port: {port}\ngrpc_port: {grpc_port}\n")


@pytest.mark.timeout(900)
def test_the_readme_runs_as_printed(tmp_path: Path) -> None:
    port = free_port()
    copy_checkout(tmp_path / "raymill", port, free_port())
    virtual_environment = Path(sys.prefix)
    script = "\n".join(
        body
        for language, body in BLOCK.findall((tmp_path / "raymill/README.md").read_text())
        if language == "bash"
    )
    script = script.replace("make test", "make -n test > /dev/null")
    script = script.replace(".venv/", f"{virtual_environment}/")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY")},
        "VENV": str(virtual_environment),
        "RAYMILL_HTTP_PORT": str(port),
        "RAYMILL_DASHBOARD_PORT": str(free_port()),
        "RAYMILL_RAY_PORT": str(free_port()),
        "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"),
    }
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", script],
        cwd=tmp_path / "raymill", env=environment, text=True, capture_output=True,
    )  # fmt: skip
    if done.returncode:
        subprocess.run(["make", "stop"], cwd=tmp_path / "raymill", env=environment)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    assert '"predictions":[' in done.stdout.replace(" ", "")
    assert "EV5815 EWR-RIC 2013-11-27" in done.stdout
    assert "stopped http://127.0.0.1" in done.stdout
