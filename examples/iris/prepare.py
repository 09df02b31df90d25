"""Write scikit-learn's iris flowers as Parquet: 120 rows to learn from, 30 to validate on.

`python examples/iris/prepare.py`, or as a Ray job on a cluster's storage.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "platform"))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.datasets import load_iris

from raymill.storage import locate


def main() -> None:
    iris = load_iris()
    columns = {name.removesuffix(" (cm)").replace(" ", "_") + "_cm": iris.data[:, i].astype(np.float32)
               for i, name in enumerate(iris.feature_names)}  # fmt: skip
    table = pa.table(columns | {"species": iris.target_names[iris.target].astype(object)})
    order = np.random.default_rng(0).permutation(len(table))
    for split, rows in (("train", order[:120]), ("validation", order[120:])):
        folder = locate(f"data/iris/{split}")
        folder.make_directory()
        with folder.filesystem.open_output_stream(f"{folder.path}/part-0.parquet") as file:
            pq.write_table(table.take(rows), file, row_group_size=30)
        print(f"{folder}: {len(rows)} rows")


if __name__ == "__main__":
    main()
