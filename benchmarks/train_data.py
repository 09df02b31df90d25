"""The benchmark's rows: 28 float32 features, a label that depends on them without being given away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FEATURES = 28
NAMES = [f"f{i:02d}" for i in range(FEATURES)]


def write(root: Path, *, train: int, validation: int, files: int, groups: int) -> None:
    """Write `train` and `validation` rows below `root`, the former in so many files of so many row groups."""
    for part in range(files + 1):
        rows = validation if part == files else train // files
        folder = root / ("validation" if part == files else "train")
        folder.mkdir(parents=True, exist_ok=True)
        x, y = sample(rows, part)
        table = pa.table(dict(zip(NAMES, x.T, strict=True)) | {"label": y})
        pq.write_table(table, folder / f"{part}.parquet", row_group_size=-(-rows // groups))


def sample(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 [rows, 28] and labels, 0 or 1 in float32."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, FEATURES), dtype=np.float32)
    score = x[:, 0] * x[:, 1] + np.sin(3 * x[:, 2]) + np.abs(x[:, 3]) - 0.8 + 0.5 * x[:, 4:8].sum(axis=1)
    chance = 1 / (1 + np.exp(-score))
    return x, (rng.random(rows) < chance).astype(np.float32)


def spec(root: Path, run: str, **settings: Any) -> dict[str, Any]:
    """Return a train spec over these rows as a document, `settings` over it."""
    return {
        "model": "benchmark", "workers": 2, "run": run, "runs": str(root / "runs"),
        "publish": {"repository": str(root / "models"), "label": None},
        "data": {
            "train": str(root / "train"), "validation": str(root / "validation"), "target": "label",
            "features": dict.fromkeys(NAMES),
        },
    } | settings  # fmt: skip
