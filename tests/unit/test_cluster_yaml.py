"""cluster.yaml: valid by Ray's own check, and what must be equal on all nodes is."""

from __future__ import annotations

import copy
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from raymill.serving.deploy import INGRESS_ENVIRONMENT

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "cluster.yaml"
ON_EVERY_NODE = {
    **INGRESS_ENVIRONMENT,
    "RAY_AUTH_MODE": "token",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
}


@pytest.fixture
def document() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))


def check(document: dict[str, Any]) -> dict[str, Any]:
    """Validate as `ray up` does before it talks to the cloud."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(document))
    validate_config(prepared)
    return prepared


def exports(command: str) -> dict[str, str]:
    """Return what a shell command line exports before it runs `ray start`."""
    found: dict[str, str] = {}
    for part in command.partition("ray start")[0].split(";"):
        words = shlex.split(part)
        if words[:1] == ["export"]:
            found |= dict(word.split("=", 1) for word in words[1:])
    return found


def start(document: dict[str, Any], kind: str) -> str:
    commands = [c for c in document[f"{kind}_start_ray_commands"] if "ray start" in c]
    assert len(commands) == 1
    return commands[0]


def test_ray_accepts_it(document):
    prepared = check(document)
    assert prepared["available_node_types"]["cpu"]["min_workers"] == 2


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: d.update(max_wrokers=3),
        lambda d: d.update(max_workers=1),
        lambda d: d["available_node_types"]["cpu"]["resources"].update(CPU="eight"),
        lambda d: d["available_node_types"]["cpu"].pop("node_config"),
        lambda d: d.update(head_node_type="absent"),
        lambda d: d.pop("cluster_synced_files"),
    ],
)
def test_the_check_can_refuse(document, spoil):
    spoil(document)
    with pytest.raises(Exception):  # noqa: B017  Ray raises several types
        check(document)


@pytest.mark.parametrize("kind", ["head", "worker"])
def test_every_node_starts_with_what_serve_and_train_read(document, kind):
    found = exports(start(document, kind))
    assert found.items() >= ON_EVERY_NODE.items()
    assert found["RAYMILL_STORAGE"].startswith("oss://")
    assert found["PYTHONPATH"] == "/root/raymill"
    assert found["PYTHONPATH"] in document["file_mounts"]


def test_head_and_workers_export_the_same(document):
    assert exports(start(document, "head")) == exports(start(document, "worker"))


def test_workers_join_the_head_on_its_port(document):
    port = re.search(r"--port=(\d+)", start(document, "head"))
    assert port
    assert f"--address=$RAY_HEAD_IP:{port[1]}" in start(document, "worker")
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in start(document, "head")


def test_the_provider_is_one_that_works(document):
    provider = document["provider"]
    assert provider["type"] == "external", "the wheel has no defaults for type aliyun"
    assert provider["cache_stopped_nodes"] is False, "the provider's default raises when it ends a node"
    assert provider["use_internal_ips"] is True, "the provider waits for ever for a public address"
    module, _, name = provider["module"].rpartition(".")
    source = (Path(__import__("ray").__file__).parent.parent / module.replace(".", "/")).with_suffix(".py")
    assert f"class {name}(" in source.read_text(encoding="utf-8")


def test_the_provider_gets_every_key_that_it_reads(document):
    """Those without which creating a network or a node raises KeyError."""
    needed = {"region", "access_key", "access_key_secret", "key_name", "zone_id", "cidr_block"}
    assert needed <= document["provider"].keys()
    for rule in document["provider"]["security_group_rule"]:
        assert rule.keys() == {"port_range", "source_cidr_ip", "ip_protocol"}
        assert not rule["source_cidr_ip"].startswith("0.0.0.0")
    for kind in document["available_node_types"].values():
        assert kind["node_config"].keys() == {"InstanceType", "ImageId"}


def test_every_worker_type_has_bounds(document):
    kinds = dict(document["available_node_types"])
    assert kinds.pop(document["head_node_type"])["resources"] == {"CPU": 0}
    assert kinds
    for kind in kinds.values():
        assert 0 <= kind["min_workers"] <= kind["max_workers"]
    assert sum(kind["max_workers"] for kind in kinds.values()) >= document["max_workers"]


def test_nodes_install_by_the_constraints_and_get_token_and_checkout(document):
    commands = "\n".join(document["setup_commands"])
    assert "--constraint /root/raymill/constraints.txt" in commands
    assert (ROOT / "constraints.txt").exists()
    assert "aliyun-python-sdk-core" in commands
    assert "aliyun-python-sdk-ecs" in commands
    assert document["file_mounts"]["/root/raymill"] == "."
    assert document["file_mounts"]["/root/.ray/auth_token"] == "~/.ray/auth_token"
    assert {".venv", ".git"} <= set(document["rsync_exclude"])


def test_no_secret_is_in_the_file(document):
    for key in ("access_key", "access_key_secret"):
        assert re.fullmatch(r"<.*>", document["provider"][key])


def test_the_readmes_own_machines_start_with_the_same():
    block = re.search(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    assert block
    lines = block[1].splitlines()
    starts = [at for at, line in enumerate(lines) if "ray start" in line]
    assert len(starts) == 2
    found = exports(";".join(line.partition("#")[0] for line in lines[: starts[0]]))
    assert found.items() >= ON_EVERY_NODE.items()
    assert {"RAYMILL_STORAGE", "PYTHONPATH"} <= found.keys()
