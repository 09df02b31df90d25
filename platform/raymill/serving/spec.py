"""The serve spec: what `jobs/serve.py --config` reads, and the arguments of `serve_apps/models.py`."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator, model_validator

from raymill.config import Spec


class ModelSpec(Spec):
    """One model to serve."""

    serve: tuple[str | int, ...] = ("stable",)
    """Labels, version numbers or "latest". Labels and latest are followed: what they point at is
    loaded, then takes over, then the old version goes. A request that names no version gets the first."""

    @field_validator("serve")
    @classmethod
    def _some(cls, serve: tuple[str | int, ...]) -> tuple[str | int, ...]:
        if not serve:
            raise ValueError("name at least one label or version to serve")
        return serve


class AutoscalingSpec(Spec):
    """Replicas by load; Ray Serve's own names and meanings."""

    min_replicas: int = Field(default=1, ge=0)
    max_replicas: int = Field(default=2, ge=1)
    target_ongoing_requests: float = Field(default=16, gt=0)
    """Requests a replica should be working on; more start replicas, fewer stop them."""
    upscale_delay_s: float = Field(default=5, ge=0)
    downscale_delay_s: float = Field(default=60, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> AutoscalingSpec:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas <= max_replicas must hold, got {self.min_replicas} and {self.max_replicas}"
            )
        return self


class ReplicaSpec(Spec):
    """One replica's share of a node, and its limits."""

    num_cpus: float = Field(default=0.5, ge=0)
    max_ongoing_requests: int = Field(default=128, ge=1)
    max_queued_requests: int = Field(default=512, ge=-1)
    """Requests that may wait; further ones get 503 at once. -1: no limit."""
    max_body_bytes: int = Field(default=64 << 20, ge=1)
    """Larger request bodies get 413."""


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
    poll_seconds: float = Field(default=2.0, gt=0)
    """How often replicas look where labels point."""
    host: str = "127.0.0.1"
    """Address the ingress listens on; 0.0.0.0 for all. Ray's token does not guard this port."""
    port: int = Field(default=8000, ge=1, le=65535)
    autoscaling: AutoscalingSpec = AutoscalingSpec()
    replica: ReplicaSpec = ReplicaSpec()
    http: HttpSpec = HttpSpec()

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
