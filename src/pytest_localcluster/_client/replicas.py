"""Variables to the parameter servers, all else to a worker: replica_device_setter()."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from .._spec import ClusterSpec, DeviceSpec

if TYPE_CHECKING:
    from .operation import Operation

__all__ = ["replica_device_setter"]


def replica_device_setter(
    ps_tasks: int = 0,
    ps_device: str | None = "/job:ps",
    worker_device: str | None = "/job:worker",
    merge_devices: bool = True,
    cluster: Any = None,
    ps_ops: Collection[str] | None = None,
    ps_strategy: Callable[[Operation], int] | None = None,
) -> Callable[[Operation], str] | None:
    """Return a function for :func:`~pytest_localcluster.device` that spreads variables.

    Variables go to the ps tasks, one after the other; everything else to ``worker_device``. What
    inner scopes say wins, field by field.

    Args:
        ps_tasks: how many ps tasks there are; without any the result is None, which
            ``device()`` takes too.
        ps_device: where variables go.
        worker_device: where the rest goes.
        merge_devices: whether these complete a device that an inner scope gave in part;
            otherwise such a device is left as it is.
        cluster: a ClusterSpec, a mapping of its form, or a cluster; counts the tasks of the job of
            ``ps_device``, in place of ``ps_tasks``.
        ps_ops: the types of operations that go to ``ps_device``; None is variables alone.
        ps_strategy: a function of the operation that gives the index of its ps task, in place of
            one after the other.

    Example::

        with device(replica_device_setter(cluster=cluster, worker_device="/job:worker/task:1")):
            weights, bias = Variable(w0), Variable(b0)  # ps 0, ps 1
            scores = images @ weights + bias  # worker 1
    """
    on_ps = DeviceSpec.from_string(ps_device or "")
    on_worker = DeviceSpec.from_string(worker_device or "")
    if cluster is not None:
        spec = _spec_of(cluster)
        ps_tasks = spec.num_tasks(on_ps.job) if on_ps.job in spec.jobs else 0
    ps_tasks = operator.index(ps_tasks)
    if ps_tasks < 0:
        raise ValueError(f"ps_tasks={ps_tasks}: there cannot be fewer than no tasks")
    if ps_tasks == 0:
        return None
    kinds = frozenset(("Variable",) if ps_ops is None else ps_ops)
    turns = itertools.count()
    choose = ps_strategy or (lambda op: next(turns) % ps_tasks)

    def place(op: Operation) -> str:
        if op.device and not merge_devices:
            return op.device
        given = DeviceSpec.from_string(op.device)
        if op.type not in kinds or not ps_device:
            return on_worker.make_merged_spec(given).to_string()
        chosen = on_ps
        # A job chosen by an inner scope is not this one, and its tasks are not for us to number.
        if on_ps.job is not None and given.job in (None, on_ps.job):
            chosen = on_ps.make_merged_spec(DeviceSpec(task=choose(op)))
        return chosen.make_merged_spec(given).to_string()

    return place


def _spec_of(cluster: Any) -> ClusterSpec:
    spec = getattr(cluster, "spec", cluster)
    if isinstance(spec, ClusterSpec):
        return spec
    if isinstance(spec, Mapping):
        return ClusterSpec(spec)
    if hasattr(spec, "as_dict"):  # TensorFlow's
        return ClusterSpec(spec.as_dict())
    raise TypeError(f"cluster={cluster!r} is no ClusterSpec, nor a mapping from job to addresses")
