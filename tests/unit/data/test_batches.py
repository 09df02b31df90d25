"""Batches as tensors, lanes pulled on their own, and memory that batches keep to themselves."""

from __future__ import annotations

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raymill.data import Loader, LoaderConfig
from raymill.data.frameworks import on_device
from raymill.errors import SpecError

FILES = st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=4), min_size=1, max_size=4)


def test_torch_batches_share_memory(make_lake):
    snapshot, encoder = make_lake([[20, 20], [20]])
    for batch in Loader(snapshot, encoder, LoaderConfig(batch_rows=16)).epoch(0):
        tensors = batch.as_torch()
        assert tensors.numeric.dtype == torch.float32
        assert tensors.codes.dtype == torch.int32
        assert tensors.weights is None
        assert (len(tensors), tensors.step, tensors.global_rows) == (len(batch), batch.step, len(batch))
        batch.labels_N[:] = -1
        assert (tensors.labels == -1).all()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no GPU"))])  # fmt: skip
def test_batches_on_a_device_are_the_batches(make_lake, device):
    snapshot, encoder = make_lake([[20, 20], [20]])
    loader = Loader(snapshot, encoder, LoaderConfig(batch_rows=16))
    found = list(on_device(loader.epoch(0), device))
    expected = list(loader.epoch(0))
    assert len(found) == len(expected)
    for mine, batch in zip(found, expected, strict=True):
        assert mine.numeric.device.type == device
        np.testing.assert_array_equal(mine.labels.cpu().numpy(), batch.labels_N)
        np.testing.assert_array_equal(mine.numeric.cpu().numpy(), batch.features.numeric_NF)
        np.testing.assert_array_equal(mine.codes.cpu().numpy(), batch.features.codes_NC)


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_batch_stays_what_it_was(make_lake, shuffle):
    snapshot, encoder = make_lake([[20, 20, 20], [20, 20]])
    loader = Loader(snapshot, encoder, LoaderConfig(batch_rows=16, window=1, shuffle=shuffle))
    kept = [(batch, batch.labels_N.copy(), batch.features.numeric_NF.copy()) for batch in loader.epoch(0)]
    for batch, labels_N, numeric_NF in kept:
        np.testing.assert_array_equal(batch.labels_N, labels_N)
        np.testing.assert_array_equal(batch.features.numeric_NF, numeric_NF)


@settings(max_examples=40, deadline=None)
@given(
    files=FILES, lanes=st.integers(1, 5), each=st.integers(1, 9),
    stops=st.lists(st.integers(0, 9), min_size=5),
)  # fmt: skip
def test_lanes_pulled_at_any_pace_give_every_row_once(make_lake, files, lanes, each, stops):
    snapshot, encoder = make_lake(files)
    config = LoaderConfig(lanes=lanes, batch_rows=lanes * each, window=2)
    loader = Loader(snapshot, encoder, config)
    before, steps = [], []
    for lane in range(lanes):
        taken = list(itertools.islice(loader.lane(0, lane), stops[lane]))
        before += [batch.labels_N for batch in taken]
        steps.append(len(taken))
    visits_G = loader.visits(0, steps)
    state = json.loads(json.dumps(asdict(loader.state(0, min(steps), steps))))
    after = [
        batch.labels_N
        for lane in reversed(range(lanes))
        for batch in loader.lane(0, lane, from_step=state["lane_steps"][lane])
    ]
    rows = np.concatenate([*before, *after]).astype(int)
    assert sorted(rows.tolist()) == list(range(snapshot.rows))
    group_N = np.repeat(np.arange(snapshot.groups), snapshot.group_rows_G)
    seen = np.concatenate([np.zeros(0), *before]).astype(int)
    assert visits_G.tolist() == np.bincount(group_N[seen], minlength=snapshot.groups).tolist()


def test_a_lane_left_standing_holds_no_other_up(make_lake):
    """What a slow worker does not take keeps no other waiting: a lane has its own budget and threads."""
    snapshot, encoder = make_lake([[20, 20, 20], [20, 20, 20]])
    config = LoaderConfig(lanes=3, batch_rows=6, window=1)
    loader = Loader(snapshot, encoder, config, prefetch_bytes=1, threads=1)
    slow = loader.lane(0, 0)
    rows = [next(slow).labels_N]
    for lane in (1, 2):
        with ThreadPoolExecutor(1) as another:  # a worker of its own, with a deadline
            pulled = another.submit(lambda lane=lane: [batch.labels_N for batch in loader.lane(0, lane)])
            rows += pulled.result(timeout=30)
    rows += [batch.labels_N for batch in slow]
    assert sorted(np.concatenate(rows).astype(int).tolist()) == list(range(snapshot.rows))


def test_lanes_together_are_the_global_batches(make_lake, row_ids):
    snapshot, encoder = make_lake([[20, 20], [20, 13]])
    loader = Loader(snapshot, encoder, LoaderConfig(lanes=3, batch_rows=12, window=2))
    lanes = [[batch.labels_N.astype(int).tolist() for batch in loader.lane(1, lane)] for lane in range(3)]
    together = [list(itertools.chain(*parts)) for parts in itertools.zip_longest(*lanes, fillvalue=[])]
    assert together == row_ids(loader, 1)
    with pytest.raises(SpecError, match="lane 3 of 3"):
        next(loader.lane(0, 3))


def test_a_tight_prefetch_budget_changes_nothing_but_speed(make_lake, row_ids):
    snapshot, encoder = make_lake([[20, 20, 20], [20, 20, 7]])
    config = LoaderConfig(lanes=2, batch_rows=12, window=2)
    expected = row_ids(Loader(snapshot, encoder, config))
    assert row_ids(Loader(snapshot, encoder, config, prefetch_bytes=0)) == expected
    assert row_ids(Loader(snapshot, encoder, config, prefetch_bytes=500, threads=4)) == expected
