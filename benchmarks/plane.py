"""What does serving add to the bare predict call, in one process, without a network?

For one row of the flights features and for 128: the framework's own call on encoded rows, the plane
(checks, encoding, predict), and the whole HTTP application from request bytes to response bytes.

    .venv/bin/python benchmarks/plane.py
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from common import calls_per_second, compare, finish

from raymill.features import Column, Encoder
from raymill.fitting import FeaturePlan
from raymill.flavors import FLAVORS
from raymill.repo import Lineage, Manifest, Repository
from raymill.repo.manifest import ENCODER_FILE, GOLDEN_FILE, Code, Golden
from raymill.serving.http import HttpApp
from raymill.serving.plane import Plane
from raymill.serving.spec import ModelSpec
from raymill.serving.tfserving_rest import TFServingRest

NUMERIC, CATEGORICAL, ROWS = 14, 5, 4096


def main() -> None:
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        table = sample()
        encoder = fit(table)
        for flavor in ("torch", "xgboost"):
            publish(flavor, table, encoder, Path(folder))
            for rows in (1, 128):
                figures |= measure(flavor, table, encoder, Path(folder), rows)
    finish("plane", figures)


def measure(flavor: str, table: pa.Table, encoder: Encoder, root: Path, rows: int) -> dict[str, float]:
    plane = Plane(Repository(str(root)), {flavor: ModelSpec(serve=("latest",))})
    plane.load()
    app = HttpApp(plane, [TFServingRest(plane)], 1 << 20)
    columns = table.slice(0, rows).select(encoder.names).to_pydict()
    features = encoder.encode_columns(columns)
    predictor = FLAVORS.load(flavor)().load(root / flavor / "1", encoder)
    names, values = list(columns), list(columns.values())
    body = orjson.dumps(
        {"instances": [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]}
    )
    loop = asyncio.new_event_loop()
    result = compare(
        {
            "bare predict": lambda: calls_per_second(lambda: predictor.predict(features)),
            "plane": lambda: calls_per_second(lambda: loop.run_until_complete(plane.infer(flavor, columns))),
            "HTTP application": lambda: calls_per_second(
                lambda: loop.run_until_complete(ask(app, flavor, body))
            ),
        },
        unit="calls/s",
        rounds=7,
    )
    result.show(f"{flavor}, {rows} rows a call", "bare predict")
    bare = 1e6 / result.median("bare predict")
    return {
        f"{flavor}_{rows}_bare_us": round(bare, 1),
        f"{flavor}_{rows}_plane_us": round(1e6 / result.median("plane") - bare, 1),
        f"{flavor}_{rows}_http_us": round(1e6 / result.median("HTTP application") - bare, 1),
    }


async def ask(app: HttpApp, model: str, body: bytes) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        assert message.get("status", 200) == 200

    path = f"/v1/models/{model}:predict"
    await app({"type": "http", "method": "POST", "path": path, "headers": []}, receive, send)


def sample() -> pa.Table:
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {f"n{i}": rng.normal(size=ROWS) for i in range(NUMERIC)}
    columns |= {f"c{i}": rng.choice([f"v{j}" for j in range(40)], ROWS) for i in range(CATEGORICAL)}
    return pa.table(columns | {"y": rng.random(ROWS) < 0.3})


def fit(table: pa.Table) -> Encoder:
    features = {
        name: Column(nulls="mean" if name[0] == "n" else "unknown") for name in table.column_names[:-1]
    }
    plan = FeaturePlan(features, "y", "binary", table.schema)
    return plan.fit(plan.statistics(table))


def publish(flavor: str, table: pa.Table, encoder: Encoder, root: Path) -> None:
    model: Any
    if flavor == "torch":
        from raymill.flavors.torch_flavor import TorchConfig
        from raymill.flavors.torch_learner import TorchLearner

        model = TorchLearner(encoder, TorchConfig(), seed=0)
    else:
        import xgboost

        from raymill.flavors.xgboost_flavor import XGBoostConfig, feature_types, matrix

        data = xgboost.DMatrix(
            matrix(encoder.encode_table(table)), encoder.encode_labels(table["y"]),
            feature_types=feature_types(encoder), enable_categorical=True,
        )  # fmt: skip
        model = xgboost.train(XGBoostConfig().parameters(encoder, 0), data, 100)
    with tempfile.TemporaryDirectory() as folder:
        staged = Path(folder)
        kind = FLAVORS.load(flavor)()
        kind.save(model, staged)
        rows = table.slice(0, 4).select(encoder.names)
        scores = kind.load(staged, encoder).predict(encoder.encode_table(rows))
        golden = Golden(inputs=rows.to_pydict(), scores=scores.tolist(), tolerance=1e-5)
        (staged / GOLDEN_FILE).write_text(golden.model_dump_json())
        (staged / ENCODER_FILE).write_text(encoder.model_dump_json())
        lineage = Lineage(
            run="benchmark",
            snapshots={},
            data={},
            spec={},
            seed=0,
            code=Code(sha256="", commit=None),
            packages={},
        )
        manifest = Manifest(
            model=flavor, flavor=flavor, task="binary", created="", signature=encoder.signature(),
            metrics={}, lineage=lineage, files=(),
        )  # fmt: skip
        Repository(str(root)).publish(flavor, staged, manifest, lambda _: None)


if __name__ == "__main__":
    main()
