"""All models of a serve spec in one application: `serve deploy serve_apps/models.yaml`."""

from ray.serve import Application

from raymill.serving.deployment import build
from raymill.serving.spec import ServeSpec


def app(spec: ServeSpec) -> Application:
    return build(spec)
