"""Temporary folders go with the block, and those of killed processes with the next sweep."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from raymill.scratch import scratch, sweep

HOLD = (
    "import sys, time; from raymill.scratch import scratch\n"
    "with scratch('held') as folder:\n"
    "  (folder / 'big').write_text('x'); print(folder, flush=True); time.sleep(60)"
)


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


def test_a_folder_is_empty_and_goes_with_the_block(tmp_path: Path) -> None:
    with scratch("publish") as folder:
        assert list(folder.iterdir()) == []
        (folder / "model").write_text("x")
        assert sweep() == [], "what is in use stays"
        assert folder.is_relative_to(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        folder = Path(holder.stdout.readline().strip())
        assert sweep() == [], "its process lives"
        os.kill(holder.pid, signal.SIGKILL)
    assert (folder / "big").exists()
    assert sweep() == [folder.parent]
    assert list(tmp_path.iterdir()) == []
