"""Ranks agree on beats by counting steps, whatever their clocks say."""

from __future__ import annotations

import itertools

import pytest

from raymill.train.pulse import BEAT_S, Pulse


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_beat_a_second_whatever_the_pace():
    clock = Clock()
    pulse = Pulse(lambda mine: [mine], clock=clock)
    beats = []
    for step in range(4000):
        clock.now += 0.001 if step < 2000 else 0.25
        if beat := pulse.step(10, 5.0, 0.0, lambda: False):
            beats.append((clock.now, beat))
    assert all(beat.loss == 0.5 for _, beat in beats)
    gaps = [later - sooner for (sooner, _), (later, _) in itertools.pairwise(beats)]
    assert gaps[-1] == pytest.approx(BEAT_S, rel=0.3)
    assert sum(beat.rows for _, beat in beats) + pulse.rows == 40_000


def test_all_ranks_follow_the_slowest():
    told = []
    pulse = Pulse(lambda mine: [mine, (3.0, 2.0, True, 0.5)], clock=Clock())
    beat = pulse.step(8, 1.0, 0.25, lambda: told.append(1) or False)
    assert beat is not None
    assert (beat.loss, beat.seconds, beat.leaving, beat.wait_s) == (0.5, 2.0, True, 0.5)
    assert len(told) == 1
