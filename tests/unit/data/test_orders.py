"""Samples: disjoint until exhausted, exact in size, fair to every row; incremental: only what is new."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymill.config import parse
from raymill.data import ORDERS, Ledger, Loader, LoaderConfig, take_snapshot, with_statistics
from raymill.data.incremental import IncrementalOrder
from raymill.data.sampled import SampledOrder
from raymill.errors import Conflict, Corrupt, DataError, SpecError

FILES = st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=5), min_size=1, max_size=4)
SHARES = st.sampled_from([0.05, 0.1, 0.25, 0.3, 0.5, 0.7, 1.0])


def read(lake, options, epoch, row_ids, order="sampled", workers=1, **config):
    snapshot, encoder = lake
    settings_ = LoaderConfig(order=order, options=options, batch_rows=16 * 6, lanes=3, **config)
    ranks = [
        row_ids(Loader(snapshot, encoder, settings_, rank=rank, world_size=workers), epoch)
        for rank in range(workers)
    ]
    return sorted(itertools.chain(*itertools.chain(*ranks)))


@settings(max_examples=50, deadline=None)
@given(
    files=FILES, fraction=SHARES, unit=st.sampled_from(["row_groups", "rows", "two_stage"]),
    within=SHARES, seed=st.integers(0, 2), workers=st.integers(1, 3),
)  # fmt: skip
def test_rotating_samples_are_disjoint_until_every_row_was_seen(
    make_lake, row_ids, files, fraction, unit, within, seed, workers
):
    lake = make_lake(files)
    snapshot, _ = lake
    options = {"fraction": fraction, "unit": unit}
    if unit == "two_stage":
        options["within"] = max(within, fraction)
    order = parse(SampledOrder, options)
    seen: list[int] = []
    for epoch in range(1000):
        try:
            order.plan(snapshot, seed=seed, epoch=epoch)
        except DataError:
            continue  # a part of few rows that rounding left empty
        seen += read(lake, options, epoch, row_ids, workers=workers, seed=seed)
        if len(seen) >= snapshot.rows:
            break
    assert sorted(seen) == list(range(snapshot.rows))


@pytest.mark.parametrize("unit", ["row_groups", "rows", "two_stage"])
@pytest.mark.parametrize("rotate", [True, False])
def test_every_row_is_drawn_equally_often(make_lake, unit, rotate):
    snapshot, _ = make_lake([[10, 10, 10, 10], [10, 10, 10, 10], [10, 10, 10, 10]])
    order = SampledOrder(fraction=0.25, unit=unit, rotate=rotate)
    epochs = 1200
    counts = np.zeros(snapshot.rows)
    for epoch in range(epochs):
        plan = order.plan(snapshot, seed=7, epoch=epoch)
        for group, rows in zip(plan.groups_K, plan.rows_K, strict=True):
            chosen = np.arange(rows) if plan.pick is None else plan.pick(int(group))
            assert len(chosen) == rows
            counts[group * 10 + chosen] += 1
    share = counts / epochs
    bound = 4.5 * np.sqrt(0.25 * 0.75 / epochs)  # of 120 binomial shares, one in 1,000 runs leaves 4.5 sigma
    assert np.abs(share - 0.25).max() < bound
    assert share.mean() == pytest.approx(0.25, abs=0.01)


OPTIONS = {"sampled": {"fraction": 0.4}}  # what an order cannot do without


@pytest.mark.parametrize("name", list(ORDERS))
def test_every_order_keeps_the_contract(make_lake, row_ids, name):
    snapshot, encoder = make_lake([[7, 0, 9], [8], [5, 6]])
    marked = Ledger().record(snapshot, np.array([7, 0, 0, 8, 0, 0])).mark(snapshot)
    config = LoaderConfig(order=name, options=OPTIONS.get(name, {}), lanes=3, batch_rows=12, seed=1)
    order = config.make_order()
    for epoch in range(4):
        plan = order.plan(marked, seed=1, epoch=epoch)
        again = order.plan(marked, seed=1, epoch=epoch)
        assert plan.groups_K.tolist() == again.groups_K.tolist()
        assert len(set(plan.groups_K.tolist())) == len(plan.groups_K)
        assert (plan.rows_K > 0).all()
        assert (plan.rows_K <= marked.group_rows_G[plan.groups_K]).all()
        batches = row_ids(Loader(marked, encoder, config), epoch)
        flat = list(itertools.chain(*batches))
        assert len(flat) == len(set(flat)) == plan.rows
        for workers in (2, 3, 4):
            ranks = [Loader(marked, encoder, config, rank=r, world_size=workers) for r in range(workers)]
            rest = [row_ids(loader, epoch, 1) for loader in ranks]
            assert [list(itertools.chain(*parts)) for parts in zip(*rest, strict=True)] == batches[1:]


def test_equal_arguments_give_equal_plans_and_others_do_not(make_lake):
    snapshot, _ = make_lake([[5] * 10, [5] * 10])
    order = SampledOrder(fraction=0.2, rotate=False)

    def groups(seed: int, epoch: int) -> list[int]:
        return order.plan(snapshot, seed=seed, epoch=epoch).groups_K.tolist()

    assert groups(1, 2) == groups(1, 2)
    assert len({tuple(groups(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def write_partitions(root, sizes):
    first = 0
    for name, groups in sizes.items():
        for part, rows in enumerate(groups):
            path = root / f"kind={name}" / f"part-{part}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            ids = np.arange(first, first + rows)
            pq.write_table(pa.table({"row": ids, "x": ids * 1.0}), path)
            first += rows


def test_stratified_by_partition_holds_each_in_its_share(tmp_path):
    write_partitions(tmp_path, {"a": [10] * 40, "b": [10] * 8})
    snapshot = take_snapshot(tmp_path)
    order = SampledOrder(fraction=0.25, stratify="kind")
    kinds = np.array(snapshot.partitions["kind"].to_pylist())[snapshot.group_file_G]
    for epoch in range(8):
        groups = order.plan(snapshot, seed=0, epoch=epoch).groups_K
        assert abs(int((kinds[groups] == "b").sum()) - 2) <= 1
        assert len(groups) == 12


def test_equal_allocation_returns_the_weights_that_undo_it(tmp_path):
    write_partitions(tmp_path, {"a": [10] * 40, "b": [10] * 8})
    snapshot = take_snapshot(tmp_path)
    order = SampledOrder(fraction=0.25, stratify="kind", allocation="equal", rotate=False)
    estimates = []
    for epoch in range(200):
        plan = order.plan(snapshot, seed=0, epoch=epoch)
        assert plan.weights_K.sum() * 10 == pytest.approx(snapshot.rows)
        first_rows = snapshot.group_ordinal_G * 0 + np.cumsum(snapshot.group_rows_G) - 10
        estimates.append(float((plan.weights_K * (10 * first_rows[plan.groups_K] + 45)).sum()))
    truth = snapshot.rows * (snapshot.rows - 1) / 2
    error = np.std(estimates) / len(estimates) ** 0.5
    assert abs(np.mean(estimates) - truth) < 4 * error  # the weighted total is unbiased


def test_weights_arrive_with_their_rows(tmp_path, make_lake):
    from raymill.features import Encoder, FittedColumn

    write_partitions(tmp_path, {"a": [10] * 40, "b": [10] * 8})
    snapshot = take_snapshot(tmp_path)
    encoder = Encoder(
        columns=(FittedColumn(name="x", kind="numeric", dtype="float64", nulls="error", null_count=0),),
        target="row", task="regression",
    )  # fmt: skip
    options = {"fraction": 0.25, "stratify": "kind", "allocation": "equal", "rotate": False}
    config = LoaderConfig(order="sampled", options=options, batch_rows=32, window=3)
    loader, total = Loader(snapshot, encoder, config), 0.0
    for batch in loader.epoch(0):
        expected = np.where(batch.labels_N < 400, 40 / 6, 8 / 6)
        np.testing.assert_allclose(batch.weights_N, expected, rtol=1e-6)
        total += float(batch.weights_N.sum()) * loader.weight_scale(0)
    assert total == pytest.approx(loader.rows(0))  # scaled, a row counts one on average
    assert Loader(snapshot, encoder, LoaderConfig(batch_rows=32)).weight_scale(0) == 1.0


def test_stratified_by_statistics_spreads_over_the_range(tmp_path):
    ids = np.random.default_rng(0).permutation(40)
    for number, position in enumerate(ids):
        values = np.full(5, position * 1.0)
        pq.write_table(pa.table({"x": values, "row": np.arange(5)}), tmp_path / f"{number:02d}.parquet")
    plain = take_snapshot(tmp_path)
    order = SampledOrder(fraction=0.1, stratify="x", strata=4)
    with pytest.raises(SpecError, match=r"'x' is no partition.*with_statistics"):
        order.plan(plain, seed=0, epoch=0)
    snapshot = with_statistics(plain, ["x"])
    for epoch in range(10):
        drawn = ids[order.plan(snapshot, seed=0, epoch=epoch).groups_K]
        assert sorted(int(position) // 10 for position in drawn) == [0, 1, 2, 3]
    with pytest.raises(SpecError, match="'y' is not in the data"):
        with_statistics(plain, ["y"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fraction": 0}, "greater than 0"),
        ({"fraction": 0.5, "unit": "two_stage", "within": 0.2}, "at least `fraction`"),
        ({"fraction": 0.5, "allocation": "equal"}, "needs `stratify`"),
        ({"fractoin": 0.5}, "Did you mean 'fraction'"),
    ],
)
def test_options_that_cannot_work_are_refused(options, message):
    with pytest.raises(SpecError, match=message):
        parse(SampledOrder, options)
    with pytest.raises(SpecError, match="read order 'sampled'"):
        LoaderConfig(order="sampled", options=options)


@settings(max_examples=30, deadline=None)
@given(files=FILES, known=st.integers(0, 4), replay=st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_incremental_reads_new_rows_and_the_replayed_share(make_lake, row_ids, files, known, replay):
    snapshot, encoder = make_lake(files)
    visits_G = np.where(snapshot.group_file_G < known, snapshot.group_rows_G, 0)
    marked = Ledger().record(snapshot, visits_G).mark(snapshot)
    new = set(np.flatnonzero(np.repeat(visits_G == 0, snapshot.group_rows_G)).tolist())
    old = set(range(snapshot.rows)) - new
    replayed: set[int] = set()
    for epoch in range(10):
        rows = read((marked, encoder), {"replay": replay}, epoch, row_ids, order="incremental")
        assert len(rows) == len(set(rows))
        assert set(rows) - old == new
        replayed |= set(rows) & old
    if not new or replay == 0:
        assert not replayed
    else:
        assert replayed == old or replay < 0.5


def test_incremental_needs_a_ledger(make_lake):
    snapshot, _ = make_lake([[5]])
    with pytest.raises(SpecError, match="compared with a ledger"):
        IncrementalOrder().plan(snapshot, seed=0, epoch=0)


def test_rewritten_and_vanished_files_follow_the_policy(tmp_path):
    write_partitions(tmp_path, {"a": [10, 20, 30]})
    before = take_snapshot(tmp_path)
    ledger = Ledger().record(before, before.group_rows_G)
    assert ledger.mark(before).group_known_G.all()
    folder = tmp_path / "kind=a"
    (folder / "part-0.parquet").unlink()
    pq.write_table(pa.table({"row": [1], "x": [1.0]}), folder / "part-1.parquet")
    after = take_snapshot(tmp_path)
    with pytest.raises(Conflict, match=r"1 files were rewritten.*part-1"):
        ledger.mark(after)
    with pytest.raises(Conflict, match=r"1 files .* gone.*part-0"):
        ledger.mark(after, rewritten="learn")
    assert ledger.mark(after, rewritten="learn", vanished="ignore").group_known_G.tolist() == [False, True]
    assert ledger.mark(after, rewritten="skip", vanished="ignore").group_known_G.all()
    learned = ledger.record(after, np.array([1, 0]))
    assert learned.compare(after).rewritten == ()


def test_a_ledger_survives_json_and_counts_rows(make_lake):
    snapshot, _ = make_lake([[10, 10, 7], [5]])
    ledger = Ledger().record(snapshot, np.array([20, 20, 0, 5]))
    document = ledger.to_json()
    again = Ledger.from_json(document)
    assert again.to_json() == document
    assert document["files"][0]["groups"] == [[2, 10, 20], [1, 7, 0]]
    assert (again.rows, again.visits) == (25, 45)
    assert again.compare(snapshot).known_G.tolist() == [True, True, False, True]
    assert again.record(snapshot, np.array([1, 0, 0, 0])).visits == 46
    with pytest.raises(Corrupt, match="no ledger"):
        Ledger.from_json({"format": "other"})


@settings(max_examples=40, deadline=None)
@given(files=FILES, step=st.integers(0, 12), shuffle=st.booleans(), fraction=SHARES)
def test_visits_are_the_rows_handed_out(make_lake, row_ids, files, step, shuffle, fraction):
    snapshot, encoder = make_lake(files)
    config = LoaderConfig(
        order="sampled", options={"fraction": fraction}, batch_rows=12, lanes=3, window=2, shuffle=shuffle
    )
    loader = Loader(snapshot, encoder, config)
    batches = row_ids(loader, 1)[:step]
    group_N = np.repeat(np.arange(snapshot.groups), snapshot.group_rows_G)
    expected = np.bincount(group_N[list(itertools.chain(*batches))], minlength=snapshot.groups)
    assert loader.visits(1, step).tolist() == expected.tolist()
