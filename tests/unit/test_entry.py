"""The command line of jobs, as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

JOB = """
import os
from raymill.config import Spec
from raymill.entry import run_job

class Nothing(Spec):
    pass

def main(spec):
    print("a worker's line, as Ray prints it")
    os._exit(0)  # whatever is still in a buffer is lost

run_job(Nothing, main)
"""


def test_a_log_file_has_every_line_at_once(tmp_path: Path) -> None:
    """A person who follows the file, or a job that is killed, must not miss the last kilobytes."""
    (tmp_path / "spec.yaml").write_text("{}")
    command = [sys.executable, "-c", JOB, "--config", str(tmp_path / "spec.yaml")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with (tmp_path / "log").open("wb") as log:
        subprocess.run(command, env=environment, stdout=log, check=True)
    assert (tmp_path / "log").read_text() == "a worker's line, as Ray prints it\n"
