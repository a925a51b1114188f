"""State on a task: initialised, changed, shared by name, in the order that was asked for."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from pytest_localcluster import (
    Session,
    Variable,
    constant,
    control_dependencies,
    device,
    errors,
    group,
    placeholder,
    variables_initializer,
)

from .conftest import Tasks


def test_assignments_give_the_new_value(session: Session) -> None:
    with device("/job:ps/task:0"):
        w = Variable([1.0, 2.0, 3.0], name="w")
    session.run(w.initializer)
    assert session.run(w.assign_add([1, 1, 1])).tolist() == [2, 3, 4]
    assert session.run(w.assign_sub(w)).tolist() == [0, 0, 0]
    assert session.run(w.scatter_add([0, 2, 0], [1.0, 2.0, 3.0])).tolist() == [4, 0, 2]
    assert session.run(w.assign(np.arange(3))).tolist() == [0, 1, 2]
    assert session.run(w).tolist() == session.run(w.read()).tolist() == [0, 1, 2]
    assert session.run([w * 2, w[1], w.sum(), 1 + w])[0].tolist() == [0, 2, 4]


def test_a_variable_that_is_not_initialised_is_named(session: Session) -> None:
    with device("/job:ps/task:1"):
        w = Variable(0.0, name="weights")
    with pytest.raises(errors.FailedPreconditionError, match="weights") as caught:
        session.run(w + 1)
    assert "/job:ps/task:1" in str(caught.value)
    assert "variables_initializer" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.assign([1.0, 2.0]), r"shape"),
        (lambda w: w.assign_add(1j), r"complex"),
        (lambda w: w.assign_sub(np.ones((1, 3))), r"shape"),
        (lambda w: w.scatter_add([3], [1.0]), r"3"),
        (lambda w: w.scatter_add([0.5], [1.0]), r"float64"),
    ],
)
def test_a_change_that_does_not_fit_is_refused(session: Session, change: Any, message: str) -> None:
    w = Variable(np.zeros(3, np.float32), name="w")
    session.run(w.initializer)
    with pytest.raises(errors.InvalidArgumentError, match=message) as caught:
        session.run(change(w))
    assert "w" in caught.value.message
    assert session.run(w).tolist() == [0, 0, 0]


def test_initial_values_of_every_kind(session: Session) -> None:
    first = Variable(np.float32(2), name="first")
    second = Variable(first.initial_value * 3, name="second", dtype=np.float64)
    third = Variable(lambda: np.ones(2), name="third", dtype=np.int8)
    text = Variable(["a", "b"], name="text")
    session.run(variables_initializer([first, second, third, text]))
    found = session.run([first, second, third, text])
    assert [np.asarray(f).tolist() for f in found] == [2, 6, [1, 1], ["a", "b"]]
    assert [np.asarray(f).dtype.str for f in found] == ["<f4", "<f8", "|i1", "<U1"]


def test_sessions_share_a_variable_by_its_name(tasks: Tasks) -> None:
    with device("/job:ps/task:0"):
        mine, theirs = Variable(1.0, name="shared"), Variable(5.0, name="shared")
        own, other = Variable(1.0), Variable(2.0)
    with Session(tasks.target("worker", 0)) as one, Session(tasks.target("worker", 1)) as two:
        one.run(mine.initializer)
        assert two.run(theirs.assign_add(1)) == 2
        assert one.run(mine) == 2
        one.run(variables_initializer([own, other]))
        assert two.run([own, other]) == [1, 2], "unnamed variables have names of their own"


def test_concurrent_adds_lose_nothing(tasks: Tasks) -> None:
    with device("/job:ps/task:1"):
        count = Variable(np.zeros(100, np.int64), name="count")
    add = count.assign_add(np.ones(100, np.int64))
    with Session(tasks.target("worker", 0)) as one, Session(tasks.target("worker", 1)) as two:
        one.run(count.initializer)

        def work(session: Session) -> None:
            for _ in range(25):
                session.run(add)

        threads = [threading.Thread(target=work, args=(s,)) for s in (one, two, one, two)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert one.run(count).tolist() == [100] * 100


def test_a_variable_is_read_once_a_step(session: Session) -> None:
    w = Variable(1.0, name="w")
    session.run(w.initializer)
    step = [w - w, w.assign_add(1)]
    for _ in range(20):
        assert session.run(step)[0] == 0


def test_control_dependencies_order_what_is_made_inside(session: Session) -> None:
    with device("/job:ps/task:0"):
        w = Variable(1.0, name="w")
    session.run(w.initializer)
    with device("/job:worker/task:1"), control_dependencies([w.assign_add(1)]):
        after = w.read()
        with control_dependencies([w.assign_add(10)]):
            last = w + 0
            with control_dependencies(None):
                free = constant(1) + 1
    assert session.run(after) == 2
    assert session.run(last) == 13
    assert session.run(free) == 2
    assert session.run(w) == 13, "what needs no step does not run it"
    assert w.read().op.control_inputs == ()


def test_a_scope_over_a_run_does_not_change_what_is_fetched(session: Session) -> None:
    w = Variable(1.0, name="w")
    session.run(w.initializer)
    with control_dependencies([w.assign_add(1)]):
        assert session.run(w) == 1


def test_what_control_dependencies_refuses() -> None:
    v = Variable(0.0, name="v")
    with pytest.raises(TypeError, match="takes Tensors and operations, not <Variable v>; use its"):
        control_dependencies([v]).__enter__()
    with pytest.raises(TypeError, match="takes a list of Tensors and operations, not 3"):
        control_dependencies(3).__enter__()  # type: ignore[arg-type]


def test_a_group_runs_all_of_it_and_gives_none(session: Session) -> None:
    with device("/job:ps/task:0"):
        a = Variable(0, name="a")
    with device("/job:ps/task:1"):
        b = Variable(0, name="b")
    session.run(variables_initializer([a, b]))
    both = group(a.assign_add(1), [group(b.assign_add(2))], name="both")
    assert session.run(both) is None
    assert session.run({"step": both, "again": [both]}) == {"step": None, "again": [None]}
    assert session.run([a, b]) == [2, 4]
    with control_dependencies([both]):
        after = constant(1) + a.read()
    assert session.run(after) == 4
    assert session.run([group(), both]) == [None, None]
    assert repr(both) == "<Operation both (NoOp)>"


def test_what_variables_initializer_refuses() -> None:
    v: Any = Variable(0.0, name="v")
    with pytest.raises(TypeError, match="takes a list of variables, not <Variable v>"):
        variables_initializer(v)
    with pytest.raises(TypeError, match="takes variables, not <Tensor"):
        variables_initializer([v.read()])


def test_a_large_variable_comes_and_goes(session: Session) -> None:
    big = np.random.default_rng(0).random((512, 300))
    with device("/job:ps/task:0"):
        w = Variable(big, name="big")
    x = placeholder(np.float64, big.shape)
    session.run(w.initializer)
    np.testing.assert_array_equal(session.run(w.assign_add(x), {x: big}), big + big)
    with device("/job:worker/task:1"):
        np.testing.assert_allclose(session.run(w - x, {x: big}), big)
