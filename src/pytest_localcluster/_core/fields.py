"""Fields in braces, such as ``{port}``, that a cluster fills in where it is given text for a task.

Only the names below are fields; every other brace stays as it is, so that configurations in JSON or
in nginx's language need no escapes. A field that names a job, a task or a port that does not exist
is refused when the cluster is described, before anything starts.

===============================  ==================================================================
``{host}`` ``{port}``            where the task is to serve; ``{address}`` is both, ``host:port``
``{job}`` ``{index}``            the task's job, and its index there
``{ports[NAME]}``                one of the task's own further ports
``{dir}``                        a folder of the task's own
``{tf_config}``                  the cluster as JSON
``{hosts[JOB]}``                 the addresses of a job's tasks, with commas between
``{address[JOB]}``               the address of the only task of a job, ``{host[JOB]}`` and
                                 ``{port[JOB]}`` its parts
``{address[JOB][INDEX]}``        the address of one task, and so on
``{address[JOB][INDEX][NAME]}``  its further port of that name, and so on; without the index, of
                                 the only task. ``{hosts[JOB][NAME]}`` lists that of all tasks.
===============================  ==================================================================
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SpecError

if TYPE_CHECKING:
    from .._spec import ClusterSpec, Task

__all__ = ["FIELDS", "Fields", "Names", "uses_folder"]

_FIELD = re.compile(
    r"\{(?:(?P<own>host|port|address|job|index|tf_config|dir)"
    r"|ports\[(?P<named>[^\[\]{}]+)\]"
    r"|(?P<kind>hosts|host|port|address)\[(?P<job>[^\[\]{}]+)\]"
    r"(?:\[(?P<index>[0-9]{1,9})\])?(?:\[(?P<name>[^\[\]{}]+)\])?)\}"
)

FIELDS = (
    "{host} {port} {address} {job} {index} {dir} {ports[NAME]} {tf_config} {hosts[JOB]}, and "
    "{host[JOB]} {port[JOB]} {address[JOB]} with [INDEX] behind where the job has several tasks"
)
"""All fields, for messages."""


@dataclass(frozen=True)
class Names:
    """The names that fields of a cluster can have.

    Attributes:
        jobs: the tasks of each job, None where their number is not known yet; None if there may be
            other jobs.
        ports: the names of the further ports of each job; None if they are not known yet.
    """

    jobs: Mapping[str, int | None] | None
    ports: Mapping[str, tuple[str, ...]] | None

    def check(self, text: str, where: str, job: str) -> None:
        """Check the fields in the text for the tasks of ``job``.

        Args:
            text: with its fields.
            where: what the text is, for messages: ``the command of job 'ps'``.
            job: the job of the tasks that are given it.

        Raises:
            SpecError: a field names something that the cluster does not have.
        """
        for match in _FIELD.finditer(text):
            if match["named"] is not None:
                self._check_port(match[0], match["named"], job, where)
            elif match["job"] is not None:
                self._check_task(match, where)

    def _check_port(self, shown: str, name: str, job: str, where: str) -> None:
        if self.ports is None or name in (known := self.ports.get(job, ())):
            return
        have = ", ".join(known) if known else "no port but the one that they serve at"
        raise SpecError(
            f"{where} has {shown}, and tasks of {job!r} have no port {name!r}: they have {have}",
            remedy=f"{_near(name, known)}add the name to ports=, as in ports=({name!r},)",
        )

    def _check_task(self, match: re.Match[str], where: str) -> None:
        shown, job, index, name = match[0], match["job"], match["index"], match["name"]
        if self.jobs is None:
            return
        if job not in self.jobs:
            raise SpecError(
                f"{where} has {shown}, and this cluster has no job {job!r}: {', '.join(self.jobs)}",
                remedy=f"{_near(job, self.jobs)}the fields are {FIELDS}",
            )
        count = self.jobs[job]
        if count is not None and index is not None and int(index) >= count:
            raise SpecError(
                f"{where} has {shown}, and job {job!r} has {_tasks(count)}",
                remedy="count its tasks from 0",
            )
        if count is not None and index is None and match["kind"] != "hosts" and count != 1:
            if count == 0:
                raise SpecError(
                    f"{where} has {shown}, and job {job!r} has no task", remedy="ask for one"
                )
            example = f"{{{match['kind']}[{job}][0]{f'[{name}]' if name else ''}}}"
            raise SpecError(
                f"{where} has {shown}, which is one task's, and job {job!r} has {_tasks(count)}",
                remedy=f"write {example} for the first, or {{hosts[{job}]}} for the addresses of "
                "all",
            )
        if name is not None:
            self._check_port(shown, name, job, where)


def _tasks(count: int) -> str:
    return f"{count} task{'' if count == 1 else 's'}"


def _near(name: str, known: Mapping[str, object] | tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]!r}? " if near else ""


def uses_folder(text: str) -> bool:
    """Return whether ``{dir}`` is in the text."""
    return "{dir}" in text


@dataclass(frozen=True)
class Fields:
    """The values of the fields for one task.

    Attributes:
        task: which task it is.
        spec: all tasks and their addresses, as this task sees them.
        hosts: the host of each task, as others dial it.
        ports: the further ports of each task, name to number.
        folder: the task's own; None if it has none.
        tf_config: the cluster as JSON.
    """

    task: Task
    spec: ClusterSpec
    hosts: Mapping[Task, str]
    ports: Mapping[Task, Mapping[str, int]]
    folder: Path | None
    tf_config: str = field(repr=False)

    def fill(self, text: str) -> str:
        """Return the text with the values of its fields."""
        return _FIELD.sub(self._value, text) if "{" in text else text

    def _value(self, match: re.Match[str]) -> str:
        own = match["own"]
        if own == "job":
            return self.task.job
        if own == "index":
            return str(self.task.index)
        if own == "tf_config":
            return self.tf_config
        if own == "dir":
            return str(self.folder)
        if own is not None:
            return _part(own, self._address(self.task, None))
        if match["named"] is not None:
            return str(self.ports[self.task][match["named"]])
        addresses = [self._address(task, match["name"]) for task in self._tasks(match)]
        if match["kind"] == "hosts":
            return ",".join(addresses)
        return _part(match["kind"], addresses[0])

    def _tasks(self, match: re.Match[str]) -> Iterator[Task]:
        job, index = match["job"], match["index"]
        for task in self.ports:
            if task.job == job and (index is None or task.index == int(index)):
                yield task

    def _address(self, task: Task, name: str | None) -> str:
        if name is None:
            return self.spec.task_address(task.job, task.index)
        return f"{self.hosts[task]}:{self.ports[task][name]}"


def _part(kind: str, address: str) -> str:
    host, _, port = address.rpartition(":")
    return {"host": host, "port": port, "address": address}[kind]
