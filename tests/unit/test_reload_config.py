"""TF Serving's version policies: what a reload serves, and which version answers who names none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toy

from raymill.errors import RaymillError
from raymill.repo import Repository
from raymill.serving.plane import Plane
from raymill.serving.proto import tfserving_messages_pb2 as tfs
from raymill.serving.spec import ModelSpec
from raymill.serving.tfserving_grpc import TFServingGrpc

Reload = Callable[..., tuple[int, list[int]]]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    repository = Repository(str(tmp_path / "models"))
    for number in (1, 2, 3):
        toy.publish(repository, tmp_path / str(number))
    return repository


@pytest.fixture
def plane(repository: Repository) -> Plane:
    plane = Plane(repository, {"toy": ModelSpec(serve=("latest",))})
    plane.load()
    return plane


@pytest.fixture
def reload(plane: Plane) -> Reload:
    """Reloads `toy` with a version policy; returns the version by default, and all that answer."""

    def reload(**policy: Any) -> tuple[int, list[int]]:
        config = tfs.ModelConfig(name="toy", model_version_policy=tfs.VersionPolicy(**policy))
        listed = tfs.ModelServerConfig(model_config_list=tfs.ModelConfigList(config=[config]))
        asyncio.run(TFServingGrpc(plane).HandleReloadConfigRequest(tfs.ReloadConfigRequest(config=listed)))
        served = plane.served()["toy"]
        return served.default, sorted(served.versions)

    return reload


@pytest.mark.parametrize("versions", [(1, 2), (2, 1), (1, 2, 1)])
def test_of_specific_versions_the_largest_answers(reload: Reload, versions: tuple[int, ...]) -> None:
    assert reload(specific={"versions": versions}) == (2, [1, 2])


def test_policies_that_follow_what_is_published(
    reload: Reload, plane: Plane, repository: Repository, tmp_path: Path
) -> None:
    assert reload(latest={"num_versions": 2}) == (3, [2, 3])
    assert reload(latest={"num_versions": 9}) == reload(all={}) == (3, [1, 2, 3])
    assert reload(latest={}) == reload() == (3, [3])
    for policy, served in (({"latest": {"num_versions": 2}}, [3, 4]), ({"all": {}}, [1, 2, 3, 4, 5])):
        reload(**policy)
        newest = toy.publish(repository, tmp_path / f"new-{served}").number
        plane.refresh()
        assert (plane.served()["toy"].default, sorted(plane.served()["toy"].versions)) == (newest, served)
        assert plane.served()["toy"].labels == {}


def test_a_client_is_not_told_where_the_repository_is(
    plane: Plane, repository: Repository, tmp_path: Path
) -> None:
    for name, version in (("nothing", 1), ("toy", 4)):
        (tmp_path / "models" / "toy" / "4").mkdir(exist_ok=True)
        (tmp_path / "models" / "toy" / "4" / "manifest.json").write_text("{}")
        config = tfs.ModelConfig(name=name)
        config.model_version_policy.specific.versions.append(version)
        listed = tfs.ModelServerConfig(model_config_list=tfs.ModelConfigList(config=[config]))
        with pytest.raises(RaymillError, match="'models") as error:
            asyncio.run(
                TFServingGrpc(plane).HandleReloadConfigRequest(tfs.ReloadConfigRequest(config=listed))
            )
        assert str(tmp_path) not in str(error.value)
    plane.refresh()
    assert "cannot be read" in plane.status("toy", 4)[0].error
    assert str(tmp_path) not in plane.status("toy", 4)[0].error
