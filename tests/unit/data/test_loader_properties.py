"""What must hold for any data, lanes, workers and crash points: exactly once, equal batches, exact resume."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymill.config import parse
from raymill.data import Loader, LoaderConfig, LoaderState
from raymill.errors import Conflict, SpecError

FILES = st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=4), min_size=1, max_size=4).filter(
    lambda files: sum(map(sum, files)) > 0
)
CONFIGS = st.builds(
    lambda lanes, each, window, shuffle, seed: LoaderConfig(
        lanes=lanes, batch_rows=lanes * each, window=window, shuffle=shuffle, seed=seed
    ),
    lanes=st.integers(1, 6), each=st.integers(1, 17), window=st.integers(1, 4), shuffle=st.booleans(),
    seed=st.integers(0, 3),
)  # fmt: skip
WORKERS = st.integers(1, 7)
EPOCHS = st.integers(0, 2)


def global_batches(lake, config, workers, row_ids, epoch=0, from_step=0) -> list[list[int]]:
    """Return the rows of every global batch, rank by rank; all ranks must make equally many steps."""
    snapshot, encoder = lake
    ranks = [
        row_ids(Loader(snapshot, encoder, config, rank=rank, world_size=workers), epoch, from_step)
        for rank in range(workers)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    return [list(itertools.chain(*parts)) for parts in zip(*ranks, strict=True)]


@settings(max_examples=60, deadline=None)
@given(files=FILES, config=CONFIGS, workers=WORKERS, epoch=EPOCHS)
def test_every_row_reaches_one_rank_once(make_lake, row_ids, files, config, workers, epoch):
    lake = make_lake(files)
    batches = global_batches(lake, config, workers, row_ids, epoch)
    assert sorted(itertools.chain(*batches)) == list(range(lake[0].rows))


@settings(max_examples=60, deadline=None)
@given(files=FILES, config=CONFIGS, workers=WORKERS, epoch=EPOCHS)
def test_global_batches_do_not_depend_on_the_workers(make_lake, row_ids, files, config, workers, epoch):
    lake = make_lake(files)
    assert global_batches(lake, config, workers, row_ids, epoch) == global_batches(
        lake, config, 1, row_ids, epoch
    )


@settings(max_examples=60, deadline=None)
@given(files=FILES, config=CONFIGS, before=WORKERS, after=WORKERS, epoch=EPOCHS, crash=st.floats(0, 1))
def test_resume_on_other_workers_equals_uninterrupted(
    make_lake, row_ids, files, config, before, after, epoch, crash
):
    lake = make_lake(files)
    whole = global_batches(lake, config, before, row_ids, epoch)
    step = round(crash * len(whole))
    assert global_batches(lake, config, after, row_ids, epoch, step) == whole[step:]


@settings(max_examples=30, deadline=None)
@given(files=FILES, config=CONFIGS, workers=WORKERS)
def test_shares_are_balanced_and_weighted_by_the_global_batch(make_lake, files, config, workers):
    snapshot, encoder = make_lake(files)
    loaders = [Loader(snapshot, encoder, config, rank=r, world_size=workers) for r in range(workers)]
    largest = config.batch_rows // workers + (0 if config.lanes % workers == 0 else 1)
    for parts in zip(*(loader.epoch(0) for loader in loaders), strict=True):
        assert {part.global_rows for part in parts} == {sum(map(len, parts))}
        assert max(map(len, parts)) <= largest


@settings(max_examples=30, deadline=None)
@given(files=FILES, config=CONFIGS)
def test_rows_keep_their_features_and_labels_together(make_lake, files, config):
    snapshot, encoder = make_lake(files)
    for batch in Loader(snapshot, encoder, config).epoch(0):
        rows_N = batch.labels_N.astype(int)
        np.testing.assert_array_equal(batch.features.numeric_NF[:, 0], (rows_N / 2).astype(np.float32))
        np.testing.assert_array_equal(batch.features.codes_NC[:, 0], np.array([1, 2, 0])[rows_N % 3])


def test_epochs_and_seeds_differ_and_repeat(make_lake: Callable, row_ids: Callable) -> None:
    snapshot, encoder = make_lake([[20, 20], [20, 20]])

    def read(seed: int, epoch: int) -> list[list[int]]:
        return row_ids(Loader(snapshot, encoder, LoaderConfig(batch_rows=16, seed=seed)), epoch)

    assert read(0, 1) == read(0, 1)
    assert read(0, 0) != read(0, 1) != read(1, 0) != read(0, 0)


def test_state_is_small_and_refused_on_other_data_or_settings(make_lake: Callable) -> None:
    snapshot, encoder = make_lake([[20, 20]])
    other, _ = make_lake([[20, 21]])
    loader = Loader(snapshot, encoder, LoaderConfig(batch_rows=8))
    state = loader.state(3, 2)
    loader.check(state)
    with pytest.raises(Conflict, match="snapshot"):
        Loader(other, encoder, LoaderConfig(batch_rows=8)).check(state)
    with pytest.raises(Conflict, match="batch_rows"):
        Loader(snapshot, encoder, LoaderConfig(batch_rows=16)).check(state)
    assert LoaderState(**state.__dict__) == state


def test_rank_outside_the_world_is_refused(make_lake: Callable) -> None:
    snapshot, encoder = make_lake([[4]])
    with pytest.raises(SpecError, match="rank 2 of 2"):
        Loader(snapshot, encoder, LoaderConfig(), rank=2, world_size=2)
    with pytest.raises(SpecError, match="multiple of lanes"):
        parse(LoaderConfig, {"batch_rows": 10, "lanes": 3})


@settings(max_examples=40, deadline=None)
@given(files=FILES, config=CONFIGS, workers=WORKERS, leave=st.none() | st.integers(0, 5))
def test_epochs_begun_ahead_are_the_epochs(make_lake, row_ids, files, config, workers, leave):
    """One loader that reads ahead into the next epoch, left early or not, against a fresh one an epoch."""
    snapshot, encoder = make_lake(files)
    for rank in range(workers):
        ahead = Loader(snapshot, encoder, config, rank=rank, world_size=workers)
        for epoch in range(3):
            read = ahead.epoch(epoch, then=epoch + 1)
            found = [batch.labels_N.astype(int).tolist() for batch in itertools.islice(read, leave)]
            read.close()
            fresh = Loader(snapshot, encoder, config, rank=rank, world_size=workers)
            assert found == row_ids(fresh, epoch)[:leave]


def test_another_epoch_than_the_one_begun_ahead(make_lake: Callable, row_ids: Callable) -> None:
    snapshot, encoder = make_lake([[20, 20], [20, 20]])
    loader, fresh = (Loader(snapshot, encoder, LoaderConfig(batch_rows=8)) for _ in range(2))
    assert [len(batch) for batch in loader.epoch(0, then=1)] == [8] * 10
    assert row_ids(loader, 5) == row_ids(fresh, 5)
    list(loader.epoch(0, then=1))
    assert row_ids(loader, 1, 3) == row_ids(fresh, 1, 3)


def test_the_next_epoch_is_decoded_before_it_is_asked_for(make_lake: Callable) -> None:
    snapshot, encoder = make_lake([[20, 20]])
    loader = Loader(snapshot, encoder, LoaderConfig(batch_rows=8, window=2))
    begun = []
    decode = loader._decoder.decode_into
    loader._decoder.decode_into = lambda group, *rest: (begun.append(group), decode(group, *rest))[1]
    assert len(list(loader.epoch(0, then=1))) == 5
    next(iter(loader.epoch(1)))
    assert len(begun) == 4, "two row groups an epoch, none decoded twice"
