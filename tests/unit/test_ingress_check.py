"""A Serve without its fast ingress serves nothing, and says how to start it with."""

import pytest

from raymill.errors import Unavailable
from raymill.serving.deploy import FAST_INGRESS
from raymill.serving.deployment import check_ingress


@pytest.mark.parametrize("missing", FAST_INGRESS)
def test_a_serve_that_was_started_without_is_refused_with_the_way_out(missing, monkeypatch):
    for name, value in FAST_INGRESS.items():
        monkeypatch.setenv(name, value)
    check_ingress()
    monkeypatch.delenv(missing)
    with pytest.raises(Unavailable, match=f"`{missing}=1 ray start"):
        check_ingress()
