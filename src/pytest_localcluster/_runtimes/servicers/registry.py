"""The server as adders see it: services can be registered on it; the task starts and ends it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import grpc

from ...errors import SpecError
from .adders import check_handler

if TYPE_CHECKING:
    from ..._spec import Task

__all__ = ["Registry", "kind_of"]


def kind_of(handler: Any) -> str:
    """Return which attribute of a method's handler has its function: ``unary_stream``, ..."""
    requests = "stream" if handler.request_streaming else "unary"
    responses = "stream" if handler.response_streaming else "unary"
    return f"{requests}_{responses}"


class Registry(grpc.Server):  # type: ignore[misc]  # grpc has no types
    """Hands services on to the server of a task, and remembers their names.

    Args:
        server: the server.
        task: whose it is.
        address: where it is going to listen.

    Attributes:
        services: the names of the services that were registered.
    """

    def __init__(self, server: grpc.Server, task: Task, address: str) -> None:
        self.services: set[str] = set()
        self._registered: set[str] = set()
        self._server = server
        self._task = task
        self._address = address

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[Any]) -> None:
        """Take handlers that find the method of a call themselves."""
        handlers = tuple(generic_rpc_handlers)
        for handler in handlers:
            if isinstance(handler, grpc.ServiceRpcHandler):
                self.services.add(handler.service_name())
        self._server.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, Any]
    ) -> None:
        """Take a service.

        Raises:
            SpecError: it was registered before, or can only run under asyncio.
        """
        if service_name in self._registered:
            raise SpecError(
                f"service {service_name} is registered twice on {self._task}",
                remedy="register each service by one function only",
            )
        for method, handler in method_handlers.items():
            check_handler(f"/{service_name}/{method}", getattr(handler, kind_of(handler)))
        self._registered.add(service_name)
        self.services.add(service_name)
        self._server.add_registered_method_handlers(service_name, method_handlers)

    def add_secure_port(self, address: str, server_credentials: Any) -> int:
        """Have the server listen at one more address, of the user's own."""
        port: int = self._server.add_secure_port(address, server_credentials)
        return port

    def add_insecure_port(self, address: str) -> NoReturn:
        """Refuse: the task has an address."""
        self._refuse(f"add_insecure_port({address!r})")

    def start(self) -> NoReturn:
        """Refuse: the task starts its server when all services are registered."""
        self._refuse("start()")

    def stop(self, grace: float | None) -> NoReturn:
        """Refuse: the task stops its server."""
        self._refuse("stop()")

    def wait_for_termination(self, timeout: float | None = None) -> NoReturn:
        """Refuse: the task could not start."""
        self._refuse("wait_for_termination()")

    def _refuse(self, what: str) -> NoReturn:
        raise SpecError(
            f"{what} is not for functions that register services: {self._task} starts its server "
            f"itself, at {self._address}, when all are registered",
            remedy="leave that line out",
        )
