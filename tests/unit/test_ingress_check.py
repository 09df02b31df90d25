"""A Serve without its fast ingress serves nothing, and says how to start it with."""

import pytest

from raymill.errors import Unavailable
from raymill.local_cluster import node_environment
from raymill.serving.deploy import FAST_INGRESS, INGRESS_ENVIRONMENT, document
from raymill.serving.deployment import check_ingress
from raymill.serving.spec import ServeSpec


@pytest.mark.parametrize("missing", FAST_INGRESS)
def test_a_serve_that_was_started_without_is_refused_with_the_way_out(missing, monkeypatch):
    for name, value in FAST_INGRESS.items():
        monkeypatch.setenv(name, value)
    check_ingress()
    monkeypatch.delenv(missing)
    with pytest.raises(Unavailable, match=f"`{missing}=1 ray start"):
        check_ingress()


def test_retries_are_the_operators_and_the_fast_ingress_is_not(monkeypatch):
    def told() -> list[dict[str, str]]:
        sent = document(ServeSpec(models={"m": {}}))["controller_options"]["runtime_env"]["env_vars"]
        node = node_environment("/tmp/nowhere", "storage")
        return [sent, {name: node[name] for name in INGRESS_ENVIRONMENT}]

    for name in INGRESS_ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    assert told() == [INGRESS_ENVIRONMENT] * 2
    monkeypatch.setenv("RAY_SERVE_HAPROXY_RETRIES", "0")
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "0")
    assert told() == [INGRESS_ENVIRONMENT | {"RAY_SERVE_HAPROXY_RETRIES": "0"}] * 2
