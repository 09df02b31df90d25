"""An object store by its real protocol: moto's S3 server in a process of its own, Arrow's own client."""

from __future__ import annotations

import itertools
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import environments
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import toy

from raymill.data import Loader, LoaderConfig, parse_predicate, take_snapshot, where
from raymill.errors import DataError, NotFound
from raymill.features import Encoder, FittedColumn
from raymill.repo import Repository, load_version
from raymill.storage import locate

ROWS, FILES, GROUP_ROWS = 300, 4, 50


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """Return "s3://<bucket>{}?<options>", to be formatted with a path inside the bucket."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = (environments.environment("moto") / "python", "-m", "moto.server", "-p", str(port))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_DEFAULT_REGION", "us-east-1"), ("AWS_EC2_METADATA_DISABLED", "true"),
        ):  # fmt: skip
            patch.setenv(name, value)
        server = subprocess.Popen(
            command, env=environments.alone(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            _wait(f"http://127.0.0.1:{port}/moto-api/")
            options = f"scheme=http&endpoint_override=127.0.0.1:{port}&region=us-east-1"
            locate(f"s3://lake?{options}&allow_bucket_creation=true").make_directory()
            yield f"s3://lake{{}}?{options}"
        finally:
            server.terminate()
            server.wait()


def _wait(url: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except OSError:
            assert time.monotonic() < deadline, f"nothing answers at {url}"
            time.sleep(0.1)


@pytest.fixture(scope="module")
def lake(bucket: str) -> str:
    """A dataset in folders by day, its label the row's number."""
    uri = bucket.format("/clicks")
    for number in range(FILES):
        ids = np.arange(number * ROWS, (number + 1) * ROWS)
        file = locate(uri) / f"day={number % 2}" / f"part-{number}.parquet"
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"a": ids.astype(np.float32), "row": ids}), sink, row_group_size=GROUP_ROWS)
        file.write_bytes(sink.getvalue().to_pybytes())
    return uri


def encoder() -> Encoder:
    column = FittedColumn(name="a", kind="numeric", dtype="float32", nulls="error", null_count=0)
    return Encoder(columns=(column,), target="row", task="regression")


def rows_of(loader: Loader) -> list[int]:
    return sorted(int(row) for batch in loader.epoch(0) for row in batch.labels_N)


def test_a_dataset_is_read_once_by_all_ranks(lake):
    snapshot = take_snapshot(lake, stored="beside")
    assert (snapshot.rows, snapshot.groups) == (FILES * ROWS, FILES * ROWS // GROUP_ROWS)
    assert take_snapshot(lake, stored="beside").id == snapshot.id
    config = LoaderConfig(batch_rows=96, lanes=3, window=2)
    ranks = [Loader(snapshot, encoder(), config, rank=rank, world_size=2) for rank in range(2)]
    assert sorted(itertools.chain(*map(rows_of, ranks))) == list(range(FILES * ROWS))


def test_samples_and_partitions_of_a_dataset(lake):
    snapshot = take_snapshot(lake)
    odd = where(snapshot, parse_predicate([["day", "==", 1]], snapshot.schema))
    assert len(rows_of(Loader(odd, encoder(), LoaderConfig()))) == odd.rows == FILES * ROWS // 2
    sampled = LoaderConfig(order="sampled", options={"fraction": 0.25})
    assert len(rows_of(Loader(snapshot, encoder(), sampled))) == FILES * ROWS // 4


def test_a_file_rewritten_during_the_epoch_is_named(lake):
    snapshot = take_snapshot(lake)
    file = locate(lake) / "day=1" / "part-1.parquet"
    data = file.read_bytes()
    file.write_bytes(data + b"more")
    try:
        with pytest.raises(DataError, match=r"part-1.parquet.*changed since the snapshot"):
            rows_of(Loader(snapshot, encoder(), LoaderConfig()))
    finally:
        file.write_bytes(data)


def test_what_is_not_there(bucket):
    with pytest.raises(NotFound, match="no dataset at 's3://lake/nothing"):
        take_snapshot(bucket.format("/nothing"))


def test_a_repository_publishes_labels_and_serves(bucket, tmp_path: Path):
    uri = bucket.format("/models")
    for weight in (2.0, 3.0):
        toy.publish(Repository(uri), tmp_path / str(weight), weight=weight)
    Repository(uri).label("toy", "stable", 1)
    Repository(uri).label("toy", "stable", 2)
    again = Repository(uri)
    assert again.resolve("toy", "stable") == 2
    for number, weight in ((1, 2.0), (2, 3.0)):
        loaded = load_version(again.version("toy", number), tmp_path / f"loaded-{number}")
        staged = toy.ToyFlavor().load(tmp_path / str(weight), toy.encoder())
        expected = staged.predict(toy.encoder().encode_columns(toy.ROWS))
        np.testing.assert_array_equal(loaded.predict_columns(toy.ROWS), expected)
