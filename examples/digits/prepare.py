"""Write scikit-learn's handwritten digits, 8x8 pixels, as Parquet: 1,437 to learn from, 360 to validate on.

`python examples/digits/prepare.py`, or as a Ray job on a cluster's storage. An image is one fixed-size
list of 64 numbers, row by row, from 0 (paper) to 16 (ink).
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "platform"))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.datasets import load_digits

from raymill.storage import locate


def main() -> None:
    digits = load_digits()
    pixels = pa.FixedSizeListArray.from_arrays(pa.array(digits.data.astype(np.float32).ravel()), 64)
    table = pa.table({"pixels": pixels, "digit": digits.target})
    order = np.random.default_rng(0).permutation(len(table))
    for split, rows in (("train", order[:1437]), ("validation", order[1437:])):
        folder = locate(f"data/digits/{split}")
        folder.make_directory()
        with folder.filesystem.open_output_stream(f"{folder.path}/part-0.parquet") as file:
            pq.write_table(table.take(rows), file, row_group_size=128)
        print(f"{folder}: {len(rows)} rows")


if __name__ == "__main__":
    main()
