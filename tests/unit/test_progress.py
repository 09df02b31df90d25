"""Progress lines under a clock of our own."""

from __future__ import annotations

import pytest

from raymill.progress import INTERVAL_S, Progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def lines():
    return []


def test_a_line_says_share_counts_rate_values_and_time_left(clock, lines):
    progress = Progress("epoch 1/3", 1000, clock=clock, write=lines.append)
    clock.now += 2.0
    progress.advance(400, loss=0.48214)
    assert lines == [
        "epoch 1/3 [########............]  40% 400/1,000 rows, 200 rows/s, loss 0.4821, 3 s left"
    ]


def test_lines_come_at_a_calm_pace(clock, lines):
    progress = Progress("x", 100, clock=clock, write=lines.append)
    for _ in range(40):
        clock.now += INTERVAL_S / 4
        progress.advance(1)
    assert len(lines) == 10


def test_the_last_line_always_comes_and_says_done(clock, lines):
    progress = Progress("x", 2_000_000, "files", clock=clock, write=lines.append)
    progress.advance(2_000_000)
    assert lines == []
    clock.now += 0.5
    progress.finish(auc=0.7)
    assert lines == [
        "x [####################] 100% 2,000,000/2,000,000 files, 4,000,000 files/s, auc 0.7000, done"
    ]


def test_nothing_to_do_is_no_division_by_zero(clock, lines):
    Progress("x", 0, clock=clock, write=lines.append).finish()
    assert lines == ["x [####################] 100% 0/0 rows, 0 rows/s, done"]


def test_lines_go_to_stdout_at_once(capsys):
    Progress("x", 1).finish()
    assert capsys.readouterr().out.startswith("x [....................]   0% 0/1 rows")


def test_what_was_done_before_counts_for_the_share_and_not_for_the_pace(clock, lines):
    progress = Progress("x", 100, done=80, clock=clock, write=lines.append)
    clock.now += 2.0
    progress.advance(10)
    assert lines == ["x [##################..]  90% 90/100 rows, 5 rows/s, 2 s left"]


def test_a_terminal_is_redrawn_in_place(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    progress = Progress("x", 10)
    progress.advance(10)
    progress.finish()
    assert capsys.readouterr().out.count("\n") == 1
