"""Devices: what a task offers, and where an operation goes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..._proto.device_pb2 import DeviceAttributes
from ..._spec import ClusterSpec, DeviceSpec, Task
from ...errors import InvalidArgumentError, SpecError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..._proto.config_pb2 import ConfigProto

__all__ = ["Placer", "attributes_of", "choose", "device_name", "devices_of", "host_device"]

_DESCRIPTION = "runs operations in threads of the task's process"


def device_name(task: Task, kind: str, index: int) -> str:
    """Return the full name of a device."""
    return f"/job:{task.job}/replica:0/task:{task.index}/device:{kind}:{index}"


def host_device(task: Task) -> str:
    """Return the device that every task has."""
    return device_name(task, "CPU", 0)


def devices_of(task: Task, config: ConfigProto) -> list[str]:
    """Return the names of a task's devices, by ``device_count``: at least one CPU."""
    counts = {kind.upper(): count for kind, count in config.device_count.items()}
    counts["CPU"] = max(1, counts.get("CPU", 1))
    return [device_name(task, kind, i) for kind in sorted(counts) for i in range(counts[kind])]


def attributes_of(devices: Sequence[str], incarnation: int) -> list[DeviceAttributes]:
    """Return what GetStatus tells of devices."""
    return [
        DeviceAttributes(
            name=name,
            device_type=name.rpartition("device:")[2].partition(":")[0],
            incarnation=incarnation,
            physical_device_desc=_DESCRIPTION,
        )
        for name in devices
    ]


class Placer:
    """Completes device strings as the master on ``task`` does for one session.

    Args:
        task: the master's own; operations that name no task go there.
        spec: the cluster.
        filters: device strings; if there are any, the session only sees tasks that one of them
            matches, and its own.

    Raises:
        InvalidArgumentError: a filter is no device string.
    """

    def __init__(self, task: Task, spec: ClusterSpec, filters: Sequence[str]) -> None:
        self.master = task
        self._spec = spec
        self._filters = tuple(filters)
        try:
            allowed = [DeviceSpec.from_string(text) for text in filters]
        except SpecError as error:
            raise InvalidArgumentError(f"in device_filters, {error}") from None
        self.tasks = [
            other
            for other in spec.tasks
            if not allowed or other == task or any(_matches(device, other) for device in allowed)
        ]
        self._known: dict[str, tuple[Task, str]] = {}

    def place(self, device: str, op: str) -> tuple[Task, str]:
        """Return the task and the full device for an operation that asks for ``device``.

        Raises:
            InvalidArgumentError: there is no such task, or the session may not use it.
        """
        found = self._known.get(device)
        if found is None:
            try:
                found = self._known[device] = self._place(device)
            except (InvalidArgumentError, SpecError) as error:
                raise InvalidArgumentError(
                    f"operation {op!r} cannot be placed on {device!r}: {error.message}",
                    op=op,
                    device=device,
                ) from None
        return found

    def _place(self, device: str) -> tuple[Task, str]:
        asked = DeviceSpec.from_string(device)
        job = asked.job or self.master.job
        index = asked.task
        if index is None:
            index = self.master.index if job == self.master.job else 0
        jobs = self._spec.as_dict()
        if job not in jobs or index >= len(jobs[job]):
            raise InvalidArgumentError(
                f"the cluster has no /job:{job}/task:{index}; "
                f"its tasks are {_list(self._spec.tasks)}"
            )
        task = Task(job, index)
        if task not in self.tasks:
            raise InvalidArgumentError(
                f"the session's device_filters {list(self._filters)} leave {task} out; "
                f"it may use {_list(self.tasks)}"
            )
        if asked.replica:
            raise InvalidArgumentError("every task has one replica only, replica:0")
        return task, device_name(task, asked.device_type or "CPU", asked.device_index or 0)


def choose(device: str, devices: Sequence[str], op: str, *, soft: bool) -> str:
    """Return the device of this task that an operation placed on ``device`` runs on.

    Args:
        device: a full name.
        devices: what this task has.
        op: the operation, for messages.
        soft: whether CPU:0 will do where the device does not exist.

    Raises:
        InvalidArgumentError: it does not exist.
    """
    if device in devices:
        return device
    if soft:
        return re.sub(r"device:\w+:\d+$", "device:CPU:0", device)
    raise InvalidArgumentError(
        f"operation {op!r} cannot be placed on {device!r}: its task has only {', '.join(devices)}"
        "\n  To fix this: raise device_count in the task's config, or set allow_soft_placement",
        op=op,
        device=device,
    )


def _matches(device: DeviceSpec, task: Task) -> bool:
    return device.job in (None, task.job) and device.task in (None, task.index)


def _list(tasks: Sequence[Task]) -> str:
    return ", ".join(map(str, tasks)) or "none"
