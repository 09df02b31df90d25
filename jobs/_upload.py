"""Puts this upload's `platform/` first on the path, before any raymill installed on the node.

The upload itself comes last, for what a spec names by its Python path.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "platform"))
sys.path.append(str(ROOT))
