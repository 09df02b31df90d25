"""What is known of training runs, kept in storage beside their checkpoints: it outlives the cluster."""

from raymill.runs.log import RunLog
from raymill.runs.record import History, Point, RunRecord, Runs

__all__ = ["History", "Point", "RunLog", "RunRecord", "Runs"]
