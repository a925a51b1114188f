"""What is refused, or decided, before there is any Ray; so it needs none."""

from __future__ import annotations

import os
from typing import Any

import pytest

from pytest_localcluster import (
    ClusterConfig,
    ClusterError,
    LocalCluster,
    RayLauncher,
    SpecError,
    UnsupportedError,
)
from pytest_localcluster._launch.ray.node import TaskActor
from pytest_localcluster._launch.ray.surroundings import environment


@pytest.mark.parametrize("launcher", ["ray", RayLauncher("somewhere:6379")])
def test_the_extra_is_named_where_it_is_missing(
    monkeypatch: pytest.MonkeyPatch, launcher: Any
) -> None:
    monkeypatch.setattr("pytest_localcluster._launch.ray.find_spec", lambda name: None)
    with pytest.raises(SpecError, match=r"ray(?s:.*)pip install 'pytest-localcluster\[ray\]'"):
        LocalCluster(launcher=launcher)


def test_links_are_refused_when_they_are_asked_for() -> None:
    with pytest.raises(SpecError, match="links=True cannot be had where tasks are on other"):
        ClusterConfig(launcher="ray", links=True)


@pytest.mark.parametrize("resources", [{}, {"CPU": 0}, {"CPU": True}, {"": 1}, {"CPU": "1"}, 1])
def test_resources_that_cannot_be(resources: Any) -> None:
    with pytest.raises(SpecError, match="says nothing that a task could take"):
        RayLauncher(resources=resources)


def test_an_address_that_is_none() -> None:
    with pytest.raises(SpecError, match="address=6379 is no address of a Ray cluster"):
        RayLauncher(6379)  # type: ignore[arg-type]


def test_rays_client() -> None:
    pytest.importorskip("ray", reason="needs ray: make test-all")
    with pytest.raises(UnsupportedError, match="through Ray's client, ray://head:10001"):
        LocalCluster(launcher=RayLauncher("ray://head:10001")).start()


def test_a_node_with_another_version() -> None:
    with pytest.raises(ClusterError, match=r"on this node, and 99\.9 at pytest"):
        TaskActor("99.9", [], (), {})


def test_launchers_that_say_the_same_are_equal() -> None:
    assert ClusterConfig(launcher=RayLauncher("a:1")) == ClusterConfig(launcher=RayLauncher("a:1"))
    assert RayLauncher("a:1") != RayLauncher("a:2")


class TestEnvironment:
    def test_what_tells_of_a_machine_is_left_to_the_node(self) -> None:
        given, without = environment({})
        assert "PATH" in os.environ
        assert not {"PATH", "HOME"} & (given.keys() | without)

    def test_what_the_test_has_changed_goes_along(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/changed")
        monkeypatch.setenv("COLOUR", "blue")
        monkeypatch.setenv("RAY_ADDRESS", "of this machine")
        monkeypatch.delenv("PATH")
        given, without = environment({"LOGNAME": "wanted"})
        assert (given["HOME"], given["COLOUR"]) == ("/changed", "blue")
        assert given["LOGNAME"] == "wanted"
        assert "RAY_ADDRESS" not in given
        assert "PATH" in without
