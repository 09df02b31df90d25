"""Parquet to training batches: snapshot, read orders, lanes, loader."""

from raymill.data.listing import take_snapshot
from raymill.data.loader import Batch, Loader, LoaderConfig, LoaderState
from raymill.data.orders import ORDERS, EpochPlan, Order
from raymill.data.snapshot import Snapshot

__all__ = [
    "ORDERS", "Batch", "EpochPlan", "Loader", "LoaderConfig", "LoaderState", "Order", "Snapshot",
    "take_snapshot",
]  # fmt: skip
