"""Joining a cluster and refusing what it can never give, without one."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import ray

from raymill import cluster
from raymill.errors import Unavailable


def test_a_group_that_fits_exactly_is_accepted():
    cluster.check_capacity(4, {"CPU": 0.5}, {"CPU": 2.0})
    cluster.check_capacity(2, {"CPU": 1.0, "GPU": 1.0}, {"CPU": 2.0, "GPU": 2.0})


def test_too_many_workers_are_told_how_many_fit():
    with pytest.raises(Unavailable) as caught:
        cluster.check_capacity(9, {"CPU": 2.0}, {"CPU": 5.0})
    assert str(caught.value) == (
        "9 workers with 2 CPU each need 18 CPU, and this cluster can have 5 at most; "
        "use workers=2, or raise the cluster's limits"
    )


def test_a_resource_that_is_not_there_at_all():
    with pytest.raises(Unavailable, match=r"1 GPU each need 1 GPU.*0 at most; ask for no GPU"):
        cluster.check_capacity(1, {"CPU": 1.0, "GPU": 1.0}, {"CPU": 8.0})


def test_workers_that_no_nodes_hold_are_refused():
    nodes = [{"CPU": 3.0}, {"CPU": 3.0}, {"memory": 1.0}]
    cluster.check_room(2, {"CPU": 3.0}, nodes)
    with pytest.raises(Unavailable, match=r"3 workers with 2 CPU each do not fit.* hold 2; use workers=2"):
        cluster.check_room(3, {"CPU": 2.0}, nodes)
    with pytest.raises(Unavailable, match=r"hold 0; use smaller workers"):
        cluster.check_room(1, {"CPU": 4.0}, nodes)


@pytest.fixture
def init_arguments(monkeypatch):
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(ray, "init", lambda **arguments: calls.append(arguments))
    return calls


def test_outside_a_job_a_ray_of_its_own_is_started(init_arguments):
    cluster.connect()
    assert init_arguments[0]["address"] == "local"


def test_inside_a_job_ray_finds_the_cluster(init_arguments, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    cluster.connect()
    assert init_arguments[0]["address"] is None


def test_ray_address_is_left_to_ray(init_arguments, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    cluster.connect()
    assert init_arguments[0]["address"] is None


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "https://head"])
def test_the_address_for_submitting_is_no_address_for_running(init_arguments, monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(Unavailable, match=f"RAY_ADDRESS={address} is the address for submitting"):
        cluster.connect()
    assert not init_arguments


def test_the_dashboard_address_inside_a_job_is_no_mistake(init_arguments, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    cluster.connect()
    assert len(init_arguments) == 1


def test_workers_get_the_code_that_was_submitted(init_arguments):
    cluster.connect()
    assert init_arguments[0]["runtime_env"]["py_modules"] == [str(cluster.PACKAGE)]
    assert cluster.PACKAGE.name == "raymill"


def test_the_refusal_survives_the_way_back_from_a_worker():
    with pytest.raises(Unavailable) as caught:
        cluster.check_capacity(9, {"CPU": 2.0}, {"CPU": 5.0})
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
