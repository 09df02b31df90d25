"""What is refused before Serve hears of it: damaged versions, and replicas that fit nowhere."""

from __future__ import annotations

import json

import pytest
import toy

from raymill.errors import Corrupt, NotFound, Unavailable
from raymill.repo import Repository
from raymill.serving import preflight
from raymill.serving.preflight import check, check_replicas, replicas_by_node
from raymill.serving.spec import ServeSpec

NODES = [{"CPU": 4.0}, {"CPU": 2.0, "GPU": 1.0}]


@pytest.fixture
def repository(tmp_path) -> Repository:
    made = Repository(str(tmp_path / "models"))
    for weight in (1.0, 2.0, 3.0):
        toy.publish(made, tmp_path / f"staged-{weight}", weight=weight)
    made.label("toy", "stable", 2)
    return made


def spec(repository: Repository, *serve: str | int) -> ServeSpec:
    return ServeSpec.model_validate({"repository": repository.root.uri, "models": {"toy": {"serve": serve}}})


def test_what_is_served_is_told_by_version_and_each_version_is_read_once(repository, monkeypatch):
    read: list[int] = []
    monkeypatch.setattr(preflight, "verify", lambda version: read.append(version.number))
    told = check(spec(repository, "stable", 2, "latest", "latest:2"))
    assert told == {"toy": {"stable": 2, "2": 2, "latest": 3, "latest:2": 3}}
    assert sorted(read) == [2, 3]


def test_a_damaged_version_is_named_with_what_asks_for_it_and_others_do_not_matter(repository):
    file = repository.version("toy", 2).location / "model.json"
    file.write_bytes(file.read_bytes()[:-1])
    check(spec(repository, "latest"))
    with pytest.raises(
        Corrupt, match=r"'toy', version 2 \(`serve: \[stable\]`\).*model\.json.* bytes.*publish"
    ) as e:
        check(spec(repository, "latest", "stable"))
    assert str(e.value).endswith("or serve another version")
    with pytest.raises(Corrupt, match=r"'toy', version 2 \(`serve: \[latest:all\]`\)"):
        check(spec(repository, "latest:all"))


def test_a_manifest_that_is_none_is_told_the_same_way(repository):
    (repository.version("toy", 2).location / "manifest.json").write_bytes(json.dumps({}).encode())
    with pytest.raises(Corrupt, match=r"'toy', version 2 .*manifest of"):
        check(spec(repository, "stable"))


def test_what_is_not_there_is_told_with_what_is(repository):
    with pytest.raises(NotFound, match=r"no label 'canary'.*stable -> 2"):
        check(spec(repository, "canary"))


def wants(cpus: float = 1.0, gpus: float = 0.0, replica: float = 0.5) -> ServeSpec:
    own = {"placement": "own", "own": {"num_cpus": cpus, "num_gpus": gpus}}
    return ServeSpec.model_validate({"models": {"m": own}, "replica": {"num_cpus": replica}})


def test_replicas_that_a_node_holds_are_accepted():
    check_replicas(wants(4.0, replica=4.0), NODES, None)
    check_replicas(wants(2.0, 1.0, replica=0.0), NODES, None)
    check_replicas(wants(0.0, 0.0), NODES, None)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (
            wants(5.0),
            r"`models\.m\.own\.num_cpus` asks for 5 CPU .*no node.*than 4; set it to 4 or lower",
        ),
        (wants(1.0, 2.0), r"`models\.m\.own\.num_gpus` asks for 2 GPU .*more than 1; set it to 1 or lower"),
        (wants(replica=4.5), r"`replica\.num_cpus` asks for 4\.5 CPU .*more than 4"),
        (wants(3.0, 1.0), r"`models\.m\.own` asks for 3 CPU and 1 GPU .*no node of this cluster has both"),
    ],
)
def test_a_replica_that_no_node_holds_is_refused(asked, words):
    with pytest.raises(Unavailable, match=words):
        check_replicas(asked, NODES, None)


def test_a_gpu_where_there_is_none_is_refused():
    with pytest.raises(Unavailable, match=r"0\.5 GPU .*more than 0; ask for no GPU, or add larger nodes"):
        check_replicas(wants(gpus=0.5), [{"CPU": 4.0}], None)


def test_a_cluster_that_may_grow_is_asked_for_its_ceiling():
    check_replicas(wants(8.0, 2.0), NODES, {"CPU": 16.0, "GPU": 2.0})
    with pytest.raises(Unavailable, match="can never have more than 16; set it to 16"):
        check_replicas(wants(17.0), NODES, {"CPU": 16.0})


def test_a_shape_with_a_node_for_each_replica_needs_the_nodes():
    def by_node(nodes: int, shape: str, replicas: int | None = None) -> int | None:
        return replicas_by_node(ServeSpec(models={"m": {}}, shape=shape, replicas=replicas), nodes)

    assert [by_node(3, shape) for shape in ("autoscaled", "single", "replicated", "multi_primary")] == [
        None, None, 2, 3,
    ]  # fmt: skip
    with pytest.raises(Unavailable, match=r"replicated with 2 replicas .* has 1; add nodes"):
        by_node(1, "replicated")
