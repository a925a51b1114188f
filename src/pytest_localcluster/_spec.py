"""Who is in a cluster and where: Task, DeviceSpec, ClusterSpec, and TF_CONFIG both ways."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .errors import SpecError

if TYPE_CHECKING:
    from ._proto.cluster_pb2 import ClusterDef

__all__ = ["ClusterSpec", "DeviceSpec", "Task", "job_name", "whole_number"]

_JOB = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_NUMBER = re.compile(r"[0-9]{1,9}")  # int() reads not every \d, and not any number of them
_TASK = re.compile(rf"/job:([^/:]+)(?:/replica:0)?/task:({_NUMBER.pattern})")
_ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):(?P<port>\d{1,5})")


def job_name(name: object) -> str:
    """Return ``name`` if a device string can hold it as a job; raise SpecError otherwise."""
    if not isinstance(name, str) or not _JOB.fullmatch(name):
        raise SpecError(
            f"{name!r} is no name for a job: "
            "no device string such as /job:worker/task:0 could hold it",
            remedy="use a letter, then letters, digits and underscores",
        )
    return name


def whole_number(value: object) -> int | None:
    """Return ``value`` as an int; None for what counts nothing: booleans, fractions, text."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]  # that is what is tested
    except TypeError:
        return None


def _index(value: object, what: str) -> int:
    index = whole_number(value)
    if index is not None and index >= 0:
        return index
    raise SpecError(f"{what} is a whole number from 0 up, not {value!r}")


@dataclass(frozen=True, order=True)
class Task:
    """One member of a job; prints as ``/job:ps/task:0``."""

    job: str
    index: int

    def __post_init__(self) -> None:
        job_name(self.job)
        object.__setattr__(self, "index", _index(self.index, f"the index of a {self.job} task"))

    def __str__(self) -> str:
        return f"/job:{self.job}/task:{self.index}"

    @classmethod
    def parse(cls, text: str) -> Task:
        """Read ``/job:ps/task:0``; ``/replica:0`` may stand between."""
        match = _TASK.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise SpecError(f"{text!r} names no task", remedy="write it as /job:ps/task:0")
        return cls(match[1], int(match[2]))

    @classmethod
    def from_tf_config(cls, tf_config: str) -> Task | None:
        """Read the task out of a TF_CONFIG value; None if it names none (a client's)."""
        task = _tf_config(tf_config).get("task")
        if task is None:
            return None
        if not isinstance(task, dict) or not {"type", "index"} <= task.keys():
            raise SpecError(
                f"the task in TF_CONFIG is {task!r}",
                remedy='write it as {"type": "worker", "index": 0}',
            )
        index = task["index"]
        # TensorFlow's own documentation writes the index as a number or as a string of digits.
        if isinstance(index, str) and _NUMBER.fullmatch(index):
            index = int(index)
        return cls(task["type"], index)


@dataclass(frozen=True)
class DeviceSpec:
    """A place on a task, in whole or in part: ``/job:ps/replica:0/task:0/device:CPU:0``.

    A part left None matches any; :meth:`make_merged_spec` fills it in.
    """

    job: str | None = None
    replica: int | None = None
    task: int | None = None
    device_type: str | None = None
    device_index: int | None = None

    def __post_init__(self) -> None:
        if self.job is not None:
            job_name(self.job)
        for field in ("replica", "task", "device_index"):
            value = getattr(self, field)
            if value is not None:
                object.__setattr__(self, field, _index(value, f"the {field} of a device"))
        if self.device_type is not None:
            if not isinstance(self.device_type, str) or not _JOB.fullmatch(self.device_type):
                raise SpecError(f"{self.device_type!r} is no device type", remedy="use CPU or GPU")
            object.__setattr__(self, "device_type", self.device_type.upper())

    @classmethod
    def from_string(cls, spec: str) -> DeviceSpec:
        """Read a device string, in whole or in part; ``/cpu:0`` is short for ``/device:CPU:0``."""
        if not isinstance(spec, str):
            raise SpecError(f"a device is named by a string, not {spec!r}")
        parts: dict[str, Any] = {}
        for part in filter(None, spec.split("/")):
            key, *rest = part.split(":")
            if key.lower() in ("cpu", "gpu"):
                key, rest = "device", [key, *rest]
            if key in ("job", "replica", "task") and len(rest) == 1:
                values = {key: rest[0]}
            elif key == "device" and len(rest) in (1, 2):
                values = dict(zip(("device_type", "device_index"), rest, strict=False))
            else:
                raise _bad_device(spec, part)
            for name, text in values.items():
                if name in parts:
                    raise _bad_device(spec, part)
                if name in ("job", "device_type"):
                    parts[name] = text
                elif _NUMBER.fullmatch(text):
                    parts[name] = int(text)
                elif text == "*" and name == "device_index":
                    parts[name] = None
                else:
                    raise _bad_device(spec, part)
        return cls(**parts)

    def to_string(self) -> str:
        """Write the parts that are set, in TensorFlow's order."""
        text = ""
        if self.job is not None:
            text += f"/job:{self.job}"
        if self.replica is not None:
            text += f"/replica:{self.replica}"
        if self.task is not None:
            text += f"/task:{self.task}"
        if self.device_type is not None:
            index = "*" if self.device_index is None else self.device_index
            text += f"/device:{self.device_type}:{index}"
        return text

    __str__ = to_string

    def make_merged_spec(self, dev: DeviceSpec) -> DeviceSpec:
        """Return this spec with the parts that ``dev`` sets put over its own."""
        merged = {name: value for name, value in vars(dev).items() if value is not None}
        return replace(self, **merged)

    def matches(self, other: DeviceSpec) -> bool:
        """Tell whether every part set here has the same value in ``other``."""
        return all(
            value is None or getattr(other, name) == value for name, value in vars(self).items()
        )


def _bad_device(spec: str, part: str) -> SpecError:
    return SpecError(
        f"{spec!r} names no device: {part!r} is not understood",
        remedy="write it as /job:ps/replica:0/task:0/device:CPU:0; any part may be left out",
    )


class ClusterSpec:
    """Which jobs a cluster has, and the address of each of their tasks. Immutable.

    Args:
        cluster: a mapping from job name to the list of its tasks' addresses (``host:port``),
            by index; a job without tasks has an empty list.
    """

    def __init__(self, cluster: Mapping[str, Iterable[str]]) -> None:
        if not isinstance(cluster, Mapping):
            raise SpecError(
                f"a cluster spec maps job names to lists of addresses; this is {cluster!r}",
                remedy='write it as {"worker": ["localhost:2222"], "ps": []}',
            )
        self._jobs: dict[str, tuple[str, ...]] = {}
        seen: dict[str, Task] = {}
        for job, given in cluster.items():
            job_name(job)
            if isinstance(given, str) or not isinstance(given, Iterable):
                raise SpecError(f"job {job!r} needs a list of addresses, not {given!r}")
            self._jobs[job] = addresses = tuple(given)
            for index, address in enumerate(addresses):
                task = Task(job, index)
                _check_address(address, task)
                if address in seen:
                    raise SpecError(f"{seen[address]} and {task} have the same address, {address}")
                seen[address] = task

    @classmethod
    def from_tf_config(cls, tf_config: str) -> ClusterSpec:
        """Read the cluster out of a TF_CONFIG value."""
        cluster = _tf_config(tf_config).get("cluster")
        if cluster is None:
            raise SpecError("TF_CONFIG has no cluster", remedy='add a "cluster" to it')
        return cls(cluster)

    @property
    def jobs(self) -> list[str]:
        """The names of the jobs, in the order given."""
        return list(self._jobs)

    def num_tasks(self, job: str) -> int:
        """Return how many tasks ``job`` has."""
        return len(self.job_tasks(job))

    def job_tasks(self, job: str) -> list[str]:
        """Return the addresses of ``job``'s tasks, by index."""
        try:
            return list(self._jobs[job])
        except KeyError:
            known = ", ".join(self._jobs) or "none"
            raise SpecError(f"no job {job!r} in this cluster; its jobs are: {known}") from None

    def task_address(self, job: str, index: int) -> str:
        """Return the address of one task."""
        addresses = self.job_tasks(job)
        if not 0 <= index < len(addresses):
            raise SpecError(f"no task {index} in job {job!r}, which has {len(addresses)}")
        return addresses[index]

    @property
    def tasks(self) -> list[Task]:
        """Every task, job by job."""
        return [
            Task(job, i) for job, addresses in self._jobs.items() for i in range(len(addresses))
        ]

    def as_dict(self) -> dict[str, list[str]]:
        """Return a new mapping from job to the list of its addresses, which may be empty."""
        return {job: list(addresses) for job, addresses in self._jobs.items()}

    def as_cluster_def(self) -> ClusterDef:
        """Return a ClusterDef message (wire-compatible with TensorFlow's), jobs sorted by name."""
        from ._proto.cluster_pb2 import ClusterDef, JobDef

        jobs = [
            JobDef(name=job, tasks=dict(enumerate(self._jobs[job]))) for job in sorted(self._jobs)
        ]
        return ClusterDef(job=jobs)

    def tf_config(self, task: Task | None = None) -> str:
        """Return the value of TF_CONFIG for ``task``, or for a client of the cluster if None."""
        # Without jobs that have no tasks: TensorFlow's strategies crash on an empty list.
        cluster = {job: addresses for job, addresses in self.as_dict().items() if addresses}
        config: dict[str, object] = {"cluster": cluster}
        if task is not None:
            self.task_address(task.job, task.index)
            config["task"] = {"type": task.job, "index": task.index}
        config["rpc_layer"] = "grpc"
        return json.dumps(config)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClusterSpec) and self._jobs == other._jobs

    def __hash__(self) -> int:
        return hash(frozenset(self._jobs.items()))

    def __repr__(self) -> str:
        return f"ClusterSpec({self.as_dict()!r})"


def _check_address(address: object, task: Task) -> None:
    match = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
    if match is None or not 0 < int(match["port"]) < 65536:
        raise SpecError(
            f"{address!r} is no address for {task}",
            remedy="write it as host:port, with a port from 1 to 65535",
        )


def _tf_config(text: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except (TypeError, ValueError) as error:
        raise SpecError(f"TF_CONFIG is not JSON ({error}): {text!r}") from None
    if not isinstance(config, dict):
        raise SpecError(f"TF_CONFIG is a JSON object with cluster and task, not {text!r}")
    return config
