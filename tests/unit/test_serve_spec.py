"""A serve spec that cannot mean what it says is refused with the rule."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from raymill.serving.spec import ServeSpec


def spec(**settings: Any) -> ServeSpec:
    return ServeSpec.model_validate({"models": {"m": {}}, **settings})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"models": {"m": {"serve": [True]}}}, "a label or a whole number, got true; put a label .* quotes"),
        ({"models": {"m": {"serve": ["stable", False]}}}, "got false"),
        ({"protocols": [], "grpc_protocols": []}, "at least one of `protocols` or `grpc_protocols`"),
        ({"port": 9000}, r"must differ, got 9000 for both; .*`grpc_protocols: \[\]`"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings, words):
    with pytest.raises(ValidationError, match=words):
        spec(**settings)


def test_what_can_be_meant_is_taken():
    assert spec(models={"m": {"serve": ["true", 1, "stable"]}}).models["m"].serve == ("true", 1, "stable")
    assert spec(protocols=[]).grpc_protocols
    assert spec(port=9000, grpc_protocols=[]).port == spec().grpc_port
