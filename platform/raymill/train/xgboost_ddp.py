"""XGBoost through xgboost-ray: every actor holds its row groups, histograms are all-reduced.

xgboost-ray shards lists of files; here a data source of our own gives it row groups of the snapshot,
encoded by the encoder that serving uses, so that a dataset of one big file trains on many workers.
Boosting reads all rows each round: of the read order only `full` makes sense.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from xgboost_ray import RayDMatrix, RayParams
from xgboost_ray import train as xgboost_ray_train
from xgboost_ray.data_sources import DataSource

from raymill import cluster
from raymill.data import Snapshot
from raymill.data.decode import Decoder
from raymill.errors import Unsupported
from raymill.features import Encoder
from raymill.flavors.options import best_round
from raymill.flavors.xgboost_flavor import XGBoostConfig, feature_names, feature_types, matrix
from raymill.train.base import Outcome, TrainJob
from raymill.train.spec import TrainSpec
from raymill.train.xgboost_measure import Watch

LABEL = "__label__"
DECODE_THREADS = 2


@dataclass(frozen=True)
class EncodedRowGroups:
    """What xgboost-ray calls the data: all row groups; each actor loads its own."""

    snapshot: Snapshot
    encoder: Encoder


class RowGroupSource(DataSource):  # type: ignore[misc]
    """Hands row groups to xgboost-ray's actors; a shard is a row group's number."""

    supports_central_loading = False
    supports_distributed_loading = True

    @staticmethod
    def is_data_type(data: Any, filetype: Any = None) -> bool:
        return isinstance(data, EncodedRowGroups)

    @staticmethod
    def get_n(data: EncodedRowGroups) -> int:
        return data.snapshot.groups

    @staticmethod
    def load_data(
        data: EncodedRowGroups,
        ignore: Sequence[str] | None = None,
        indices: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> pd.DataFrame:
        """Return the encoded rows of the row groups `indices`, with their labels."""
        decoder = Decoder(data.snapshot, data.encoder)
        groups = list(range(data.snapshot.groups) if indices is None else indices)
        rows = data.snapshot.group_rows_G[groups].tolist()
        features, labels_N = decoder.empty(sum(rows))
        starts = np.cumsum([0, *rows])
        with ThreadPoolExecutor(DECODE_THREADS) as pool:
            fills = [
                pool.submit(
                    decoder.decode_into, group, 0, count,
                    features.take(slice(start, start + count)), labels_N[start : start + count],
                )
                for group, count, start in zip(groups, rows, starts.tolist(), strict=False)
            ]  # fmt: skip
            for fill in fills:
                fill.result()
        frame = pd.DataFrame(matrix(features), columns=feature_names(data.encoder), copy=False)
        frame[LABEL] = labels_N
        return frame


def fit(job: TrainJob) -> Outcome:
    """Boost on `workers` xgboost-ray actors and return the booster.

    Raises:
        Unsupported: a read order that leaves rows out.
    """
    spec, encoder, snapshot = job.spec, job.encoder, job.snapshots["train"]
    if spec.read.order != "full":
        raise Unsupported(
            f"flavor xgboost reads all rows every round, read order {spec.read.order!r} would not be kept; "
            "use order full, or a torch flavor"
        )
    config: XGBoostConfig = spec.flavor_config()
    data = RayDMatrix(
        EncodedRowGroups(snapshot, encoder),
        label=LABEL,
        feature_types=feature_types(encoder),
        enable_categorical=True,
        distributed=True,
    )
    data.loader.data_source = RowGroupSource
    warnings.filterwarnings("ignore", message=".*num_actors.*smaller than 2")  # what `workers: 1` asks for
    told: dict[str, Any] = {}
    booster = xgboost_ray_train(
        config.parameters(encoder, spec.seed),
        data,
        num_boost_round=config.rounds,
        evals=[(data, "train")],
        verbose_eval=False,
        additional_results=told,
        callbacks=[Watch(config, job.snapshots["validation"], encoder, snapshot.rows)],
        ray_params=RayParams(
            num_actors=min(_actors(spec), snapshot.groups),
            cpus_per_actor=max(1, int(spec.cpus_per_worker)),
            gpus_per_actor=1 if spec.gpu else 0,
            max_actor_restarts=spec.max_failures,
        ),
    )
    history = _history(told)
    trained = int(history[-1]["round"])
    kept = best_round(config.early_stopping, encoder.task, history)
    return Outcome(
        booster[:kept] if kept else booster,
        rows_seen=snapshot.rows * trained,
        history=history,
        visits_G=snapshot.group_rows_G * trained,
    )


def _history(told: dict[str, Any]) -> list[dict[str, float]]:
    """Return what the first actor measured, by round; a round that was boosted again counts once."""
    entries = {entry["round"]: entry for entry in told["callback_returns"][0]}
    return [entries[key] for key in sorted(entries)]


def _actors(spec: TrainSpec) -> int:
    """Return how many actors boost: of an elastic range as many as the cluster has room for now.

    The number is then kept: an actor that is lost comes back, for its rows must be in every round.
    """
    if not spec.is_elastic:
        return spec.most_workers
    fits = cluster.room(spec.worker_resources(), cluster.nodes())
    return min(max(fits, spec.fewest_workers), spec.most_workers)
