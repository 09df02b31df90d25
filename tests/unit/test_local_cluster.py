"""Starting the local cluster: what is refused before Ray starts."""

from __future__ import annotations

from typing import Any

import pytest

from raymill import local_cluster
from raymill.errors import InvalidInput


@pytest.mark.parametrize("argument", ["ray_port", "dashboard_port"])
@pytest.mark.parametrize("port", [10_002, 19_999])
def test_a_port_of_rays_workers_is_refused(
    argument: str, port: int, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(local_cluster.HOME_VARIABLE, str(tmp_path / "home"))
    flag = "--" + argument.replace("_", "-")
    with pytest.raises(InvalidInput, match=rf"{port} .* 10002 to 19999; choose one outside with {flag}"):
        local_cluster.up(**{argument: port})
    assert not (tmp_path / "home").exists()
