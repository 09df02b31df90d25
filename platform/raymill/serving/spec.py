"""The serve spec: what `jobs/serve.py --config` reads, and the arguments of `serve_apps/models.py`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from raymill.config import Spec


class BatchingSpec(Spec):
    """How requests of one model that come at the same time are predicted together."""

    max_rows: int = Field(default=1024, ge=1)
    """Rows of one call of the model; a larger request is one call of its own. 1: never together."""
    max_wait_ms: float = Field(default=0.0, ge=0, le=1000)
    """Longest wait for others. A lone request never waits: only where the last call had several
    requests is the next one held back. 0: together is what has come while the model was busy."""


class AutoscalingSpec(Spec):
    """Replicas by load; Ray Serve's own names and meanings."""

    min_replicas: int = Field(default=1, ge=0)
    """0 lets the replicas go after `downscale_to_zero_delay_s` without a request; the next one then waits
    for the cold start, 2 to 3 s and the time to load the models."""
    initial_replicas: int | None = Field(default=None, ge=0)
    max_replicas: int = Field(default=2, ge=1)
    target_ongoing_requests: float = Field(default=16, gt=0)
    """Requests a replica should be working on; more start replicas, fewer stop them."""
    look_back_period_s: float = Field(default=15, gt=10)
    """Seconds over which the load is averaged; more than the 10 s at which replicas report it."""
    upscale_delay_s: float = Field(default=5, ge=0)
    downscale_delay_s: float = Field(default=60, ge=0)
    downscale_to_zero_delay_s: float | None = Field(default=None, ge=0)
    """Seconds before the last replica goes; None is `downscale_delay_s`."""

    @model_validator(mode="after")
    def _ordered(self) -> AutoscalingSpec:
        initial = self.min_replicas if self.initial_replicas is None else self.initial_replicas
        if not self.min_replicas <= initial <= self.max_replicas:
            raise ValueError(
                "min_replicas <= initial_replicas <= max_replicas must hold, "
                f"got {self.min_replicas}, {initial} and {self.max_replicas}"
            )
        return self


class OwnPlacement(Spec):
    """A deployment of its own for one model: replicas that hold nothing else."""

    num_cpus: float = Field(default=1.0, ge=0)
    num_gpus: float = Field(default=0.0, ge=0)
    """A share of a GPU where it is below 1."""
    autoscaling: AutoscalingSpec = AutoscalingSpec()


class ModelSpec(Spec):
    """One model to serve."""

    serve: tuple[str | int, ...] = ("stable",)
    """Labels, version numbers, "latest", "latest:N" for the last N or "latest:all". All but numbers are
    followed: what they point at is loaded, then takes over, then the old version goes. A request that
    names no version gets the first."""

    placement: Literal["shared", "own"] = "shared"
    """shared: in the replicas that answer requests, beside other models. own: in replicas of its own, with
    its own autoscaling, CPUs and GPU, for one hop more; see docs/decisions/0013-serving-plane.md."""
    own: OwnPlacement = OwnPlacement()
    """What `placement: own` gets."""
    batching: BatchingSpec = BatchingSpec()
    max_queued_requests: int = Field(default=512, ge=1)
    """Requests of this model that one replica holds, waiting or in work; further ones get 429 or
    RESOURCE_EXHAUSTED at once, with the seconds after which to try again."""

    @field_validator("serve", mode="before")
    @classmethod
    def _no_truths(cls, serve: Any) -> Any:
        """Python takes true for 1."""
        truths = [each for each in serve if isinstance(each, bool)] if isinstance(serve, list | tuple) else []
        if truths:
            raise ValueError(
                f"a version is a label or a whole number, got {str(truths[0]).lower()}; "
                "put a label of that name into quotes"
            )
        return serve

    @field_validator("serve")
    @classmethod
    def _some(cls, serve: tuple[str | int, ...]) -> tuple[str | int, ...]:
        if not serve:
            raise ValueError("name at least one label or version to serve")
        return serve


class ReplicaSpec(Spec):
    """One replica's share of a node, and its limits."""

    num_cpus: float = Field(default=0.5, ge=0)
    max_ongoing_requests: int = Field(default=128, ge=1)
    max_queued_requests: int = Field(default=512, ge=-1)
    """Requests that may wait; further ones get 503 at once. -1: no limit."""
    max_body_bytes: int = Field(default=64 << 20, ge=1)
    """Larger request bodies get 413, larger gRPC messages, packed or unpacked, RESOURCE_EXHAUSTED."""
    memory_budget_mb: float | None = Field(default=None, gt=0)
    """Most megabytes of model files that one replica keeps in memory. Of more, the least recently used
    are dropped, and loaded again by the next request for them, which waits for it. None: keep all."""


class HttpSpec(Spec):
    """What HTTP clients may ask for."""

    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may call from a browser, such as "https://app.example.com"; "*" is any, none
    is none."""
    gzip_min_bytes: int = Field(default=1024, ge=0)
    """Answers of this size and above are packed for clients that accept gzip."""


class ServeSpec(Spec):
    """Models to serve from a repository, and how."""

    repository: str = "models"
    models: dict[str, ModelSpec]
    """Model name to what is served of it; an empty value serves the label `stable`."""
    protocols: tuple[str, ...] = ("tfserving_rest", "oip_rest", "mms_rest")
    """Wire protocols over HTTP."""
    grpc_protocols: tuple[str, ...] = ("tfserving_grpc", "oip_grpc", "grpc_health")
    """Wire protocols over gRPC; none starts no gRPC server."""
    poll_seconds: float = Field(default=2.0, gt=0)
    """How often replicas look where labels point."""
    host: str = "127.0.0.1"
    """Address the ingress listens on; 0.0.0.0 for all. Ray's token does not guard this port."""
    port: int = Field(default=8000, ge=1, le=65535)
    grpc_port: int = Field(default=9000, ge=1, le=65535)
    autoscaling: AutoscalingSpec = AutoscalingSpec()
    shape: Literal["autoscaled", "single", "replicated", "multi_primary"] = "autoscaled"
    """Of the replicas that answer requests. autoscaled: as many as the load needs, anywhere. single: one,
    one node answers. replicated: `replicas`, each on a node of its own; one node's port answers, and any
    replica stands in for another. multi_primary: a port and a replica on every node."""
    replicas: int | None = Field(default=None, ge=1)
    """For replicated, default 2, and multi_primary, default one a node."""
    replica: ReplicaSpec = ReplicaSpec()
    access_log_every: int = Field(default=100, ge=0)
    """One request in so many is written to the access log, and every one that broke; 0: none."""
    http: HttpSpec = HttpSpec()

    @model_validator(mode="after")
    def _replicas_have_a_meaning(self) -> ServeSpec:
        if self.replicas is not None and self.shape in ("autoscaled", "single"):
            raise ValueError(
                f"`replicas` is for the shapes replicated and multi_primary, got {self.replicas} with shape "
                f"{self.shape}; set autoscaling.min_replicas and max_replicas instead"
            )
        return self

    @model_validator(mode="after")
    def _can_be_asked(self) -> ServeSpec:
        if not self.protocols and not self.grpc_protocols:
            raise ValueError("name at least one of `protocols` or `grpc_protocols`: got none of either")
        if self.grpc_protocols and self.port == self.grpc_port:
            raise ValueError(
                f"`port` and `grpc_port` must differ, got {self.port} for both; change one, or serve no gRPC "
                "(`grpc_protocols: []`)"
            )
        return self

    @field_validator("models", mode="before")
    @classmethod
    def _empty_means_defaults(cls, models: Any) -> Any:
        if not isinstance(models, dict):
            return models
        return {name: {} if model is None else model for name, model in models.items()}

    @field_validator("models")
    @classmethod
    def _some(cls, models: dict[str, ModelSpec]) -> dict[str, ModelSpec]:
        if not models:
            raise ValueError("name at least one model to serve")
        return models

    @field_validator("protocols")
    @classmethod
    def _known(cls, protocols: tuple[str, ...]) -> tuple[str, ...]:
        from raymill.serving import PROTOCOLS

        for name in protocols:
            PROTOCOLS.load(name)
        return protocols

    @field_validator("grpc_protocols")
    @classmethod
    def _known_grpc(cls, protocols: tuple[str, ...]) -> tuple[str, ...]:
        from raymill.serving import GRPC_PROTOCOLS

        for name in protocols:
            GRPC_PROTOCOLS.load(name)
        return protocols
