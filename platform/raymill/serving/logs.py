"""Where a replica's logs are: two files beside Serve's own, which the dashboard shows.

`raymill_...log` has warnings, errors with their traces, and which versions came and went; `access_...log`
has the access log, a JSON object a line. Serve gives handlers to its own logger alone, and keeps what is
written to stderr until there are a thousand lines.
"""

from __future__ import annotations

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

from raymill.serving.metrics import access_log

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def write_logs(deployment: str) -> None:
    """Have this process's log records written; to be called in a replica."""
    import ray
    from ray import serve
    from ray.serve._private.logging_utils import get_serve_logs_dir

    folder = Path(get_serve_logs_dir())
    folder.mkdir(parents=True, exist_ok=True)
    replica = serve.get_replica_context().replica_id.unique_id
    node = ray._private.worker._global_node
    for kind, logger, form in (
        ("raymill", logging.getLogger("raymill"), FORMAT),
        ("access", access_log, "%(message)s"),
    ):
        handler = RotatingFileHandler(
            folder / f"{kind}_{deployment}_{replica}.log",
            maxBytes=node.max_bytes,
            backupCount=node.backup_count,
        )
        handler.setFormatter(logging.Formatter(form))
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
