"""Puts this upload's `platform/` first on the path, before any raymill installed on the node."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "platform"))
