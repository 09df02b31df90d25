"""Clients that nobody here wrote, each in an environment and a process of its own.

Their pins and ours must not meet, and two of them in one process would register the same protobuf
messages twice. An environment is made on first use from `clients/<name>.txt` and kept in `tests/.envs`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import venv
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CLIENTS = HERE / "clients"
ENVIRONMENTS = HERE.parent / ".envs"


def environment(name: str) -> Path:
    """Return the folder of programs of the environment that holds exactly `clients/<name>.txt`."""
    requirements = CLIENTS / f"{name}.txt"
    folder = ENVIRONMENTS / f"{name}-{hashlib.sha256(requirements.read_bytes()).hexdigest()[:8]}"
    ENVIRONMENTS.mkdir(exist_ok=True)
    with (ENVIRONMENTS / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test processes run side by side
        if not (folder / ".ready").exists():
            venv.create(folder, with_pip=True, clear=True)
            install = (
                folder / "bin" / "pip",
                "install",
                "--quiet",
                "--no-deps",
                "--no-compile",
                "-r",
                requirements,
            )
            done = subprocess.run(install, env=alone(), capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            (folder / ".ready").touch()
    return folder / "bin"


def run(name: str, *arguments: str, timeout: float = 120) -> Any:
    """Run `clients/<name>.py` in its environment and return the JSON of its last line."""
    command = (str(environment(name) / "python"), str(CLIENTS / f"{name}.py"), *arguments)
    done = subprocess.run(command, env=alone(), capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def alone() -> dict[str, str]:
    """Return this process's environment without what would bring our packages along."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
