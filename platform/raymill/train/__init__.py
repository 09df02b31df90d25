"""Training: one spec, strategies by name, exact metrics, a published version at the end."""

from typing import TYPE_CHECKING

from raymill.registry import Registry

if TYPE_CHECKING:
    from raymill.train.base import Strategy

STRATEGIES: "Registry[type[Strategy]]" = Registry(
    "strategy", {"ddp": "raymill.train.ddp:DataParallel", "local": "raymill.train.local:Local"}
)

__all__ = ["STRATEGIES"]
