"""Parquet to training batches: snapshot, read orders, lanes, loader, ledger."""

from raymill.data.learn import learn_encoder
from raymill.data.ledger import Ledger
from raymill.data.listing import take_snapshot
from raymill.data.loader import Batch, Loader, LoaderConfig, LoaderState
from raymill.data.orders import ORDERS, EpochPlan, Order
from raymill.data.predicate import parse_predicate, where
from raymill.data.snapshot import Snapshot
from raymill.data.statistics import with_statistics

__all__ = [
    "ORDERS", "Batch", "EpochPlan", "Ledger", "Loader", "LoaderConfig", "LoaderState", "Order", "Snapshot",
    "learn_encoder", "parse_predicate", "take_snapshot", "where", "with_statistics",
]  # fmt: skip
