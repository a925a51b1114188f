"""Values that travel with the master's calls: fewer calls, and nothing that waits for longer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.native.conftest import Cluster, Failed, Shared, counted, gate, nothing_is_left, start
from tests.native.nodes import call, const, placeholder, variable

PS0, PS1, W0, W1 = "/job:ps/task:0", "/job:ps/task:1", "/job:worker/task:0", "/job:worker/task:1"
LARGE = 1 << 18  # numbers of 8 bytes, which are too many for a message


@pytest.fixture
def pulled(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys that tasks ask each other for."""
    keys: list[str] = []
    for server in cluster.servers.values():
        pull = server._peers.pull

        def spy(address: str, step_id: int, key: str, *args: Any, pull: Any = pull) -> Any:
            keys.append(key)
            return pull(address, step_id, key, *args)

        monkeypatch.setattr(server._peers, "pull", spy)
    return keys


def test_what_the_masters_part_gives_and_takes_is_not_pulled(
    cluster: Cluster, pulled: list[str]
) -> None:
    session = cluster.session()
    session.add(
        placeholder("x"),
        call("a", np.add, "x:0", "x:0", device=PS0),
        call("b", np.add, "a:0", "a:0"),
        call("c", np.add, "b:0", "x:0", device=W1),
        call("d", np.add, "c:0", "a:0", device=W0),
    )
    assert session.run("d:0", "c:0", "a:0", feeds={"x:0": np.float64(1)}) == [7, 5, 2]
    assert pulled == []
    assert nothing_is_left(cluster)


def test_between_two_other_tasks_values_are_pulled(cluster: Cluster, pulled: list[str]) -> None:
    session = cluster.session()
    session.add(
        const("x", np.float64(1)),
        call("a", np.negative, "x:0", device=PS0),
        call("b", np.add, "a:0", "x:0", device=W1),
        call("c", np.add, "b:0", "a:0"),
    )
    assert session.run("c:0") == -1
    assert pulled == ["a:0"]


def test_large_values_and_control_edges_go_the_same_ways(cluster: Cluster, shared: Shared) -> None:
    session = cluster.session()
    session.add(
        placeholder("x"),
        call("a", np.negative, "x:0", device=PS0),
        call("b", np.negative, "a:0"),
        call("c", np.negative, "b:0", device=PS1),
        call("d", np.negative, "b:0", device=W1),
        call("e", np.add, "c:0", "d:0"),
        call("first", counted("first"), device=PS0),
        call("second", counted("second"), after=["first"]),
        call("third", counted("third"), after=["second"], device=PS1),
    )
    for x in (np.arange(float(LARGE)), np.arange(4.0)):
        shared.calls.clear()
        e, a, _ = session.run("e:0", "a:0", "third:0", feeds={"x:0": x})
        np.testing.assert_array_equal(e, -2 * x)
        np.testing.assert_array_equal(a, -x)
        assert [name for name, _ in shared.calls] == ["first", "second", "third"]
    assert nothing_is_left(cluster)


def test_a_value_does_not_wait_for_the_rest_of_its_part(cluster: Cluster, shared: Shared) -> None:
    session = cluster.session()
    session.add(
        call("a", counted("a"), device=PS0),
        call("slow", lambda: shared_opened(), device=PS0),
        call("b", lambda _: open_it(), "a:0"),
    )
    assert session.run("b:0", "slow:0") == [1, 1]


def test_a_part_does_not_wait_for_what_only_some_of_it_needs(
    cluster: Cluster, shared: Shared
) -> None:
    session = cluster.session()
    session.add(
        call("slow", lambda: shared_opened()),
        call("needs", counted("needs"), "slow:0", device=W1),
        call("free", lambda: open_it(), device=W1),
    )
    assert session.run("needs:0", "free:0") == [1, 1]


@pytest.mark.parametrize("fetch", ["e:0", "d:0", "c:0"])
def test_what_goes_back_and_forth_between_two_tasks_ends(cluster: Cluster, fetch: str) -> None:
    session = cluster.session()
    session.add(
        const("x", np.float64(1)),
        call("a", np.negative, "x:0", device=PS0),
        call("b", np.negative, "a:0"),
        call("c", np.add, "b:0", "a:0", device=PS0),
        call("d", np.add, "c:0", "b:0"),
        call("e", np.add, "d:0", "c:0", device=PS0),
    )
    assert session.run(fetch) == {"c:0": 0, "d:0": 1, "e:0": 1}[fetch]


def test_a_way_through_a_third_task_does_not_hold_up_the_first(cluster: Cluster) -> None:
    session = cluster.session()
    session.add(
        variable("init", "Assign", "x:0", of="v", device=PS0),
        variable("read", "Read", of="v", device=PS0),
        const("x", np.float64(2)),
        call("a", np.negative, "read:0"),
        call("b", np.negative, "a:0", device=W1),
        variable("back", "AssignAdd", "b:0", of="v", device=PS0, after=["read"]),
    )
    session.run(targets=["init"])
    assert session.run("back:0", "a:0") == [4, -2]


def test_an_output_that_is_fed_is_not_waited_for(cluster: Cluster, shared: Shared) -> None:
    session = cluster.session()
    session.add(
        call("two", lambda: (shared_opened(), 1), outputs=2, device=PS0),
        call("a", lambda value: open_it() + value, "two:0", device=PS0),
        call("b", np.negative, "a:0"),
    )
    assert session.run("b:0", "two:1", feeds={"two:0": np.int64(5)}) == [-6, 1]


def test_a_part_whose_values_never_come_does_not_begin(cluster: Cluster, shared: Shared) -> None:
    session = cluster.session()
    session.add(
        call("a", counted("a"), device=PS0),
        call("b", lambda _: 1 // 0, "a:0"),
        call("c", counted("c"), "b:0", device=W1),
    )
    with pytest.raises(Failed, match="b raised ZeroDivisionError"):
        session.run("c:0")
    assert [name for name, _ in shared.calls] == ["a"]
    assert nothing_is_left(cluster)


def test_a_step_ends_while_a_part_waits_to_be_handed_something(
    cluster: Cluster, shared: Shared
) -> None:
    session = cluster.session()
    session.add(call("slow", gate), call("c", counted("c"), "slow:0", device=W1))
    outcome = start(session, "c:0")
    shared.wait_for_operation()
    session.close()
    with pytest.raises(Failed, match="the session was closed"):
        outcome()
    shared.opened.set()
    assert nothing_is_left(cluster)
    assert shared.calls == []


def shared_opened() -> int:
    from tests.native.conftest import shared

    assert shared().opened.wait(10), "it is held up by what waits for it"
    return 1


def open_it() -> int:
    from tests.native.conftest import shared

    shared().opened.set()
    return 1
