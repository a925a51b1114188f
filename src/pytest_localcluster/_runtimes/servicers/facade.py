"""The server as adders see it: services can be registered on it; the task starts and ends it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import grpc

from ...errors import SpecError
from .registration import is_async, methods_of

if TYPE_CHECKING:
    from ..._spec import Task

__all__ = ["Facade", "kind_of"]


def kind_of(handler: Any) -> str:
    """Return which attribute of a method's handler has its function: ``unary_stream``, ..."""
    requests = "stream" if handler.request_streaming else "unary"
    responses = "stream" if handler.response_streaming else "unary"
    return f"{requests}_{responses}"


class Facade(grpc.Server, grpc.aio.Server):  # type: ignore[misc]  # grpc has no types
    """Keeps services until it is known which kind of server they need.

    Args:
        task: whose server it is.
        address: where it is going to listen.
        because: why only grpc.aio can serve, as far as that is known; "" if grpc.server can.
        make: makes the server; it is given ``because``.

    Attributes:
        services: the names of the services that were registered.
        because: why only grpc.aio can serve; "" if grpc.server can.
    """

    def __init__(self, task: Task, address: str, because: str, make: Callable[[str], Any]) -> None:
        self.services: set[str] = set()
        self.because = because
        self._generic: list[Any] = []
        self._methods: dict[str, Mapping[str, Any]] = {}
        self._make = make
        self._server: Any = None
        self._task = task
        self._address = address

    def needs_asyncio(self, because: str) -> None:
        """Learn why only grpc.aio can serve; SpecError if it is too late for that."""
        if self.because:
            return
        if self._server is not None:
            raise SpecError(
                f"{because}, and {self._task} has a port already on a server without asyncio",
                remedy="register the services before add_secure_port()",
            )
        self.because = because

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[Any]) -> None:
        """Take handlers that find the method of a call themselves."""
        for handler in generic_rpc_handlers:
            if isinstance(handler, grpc.ServiceRpcHandler):
                self.services.add(handler.service_name())
            for method, function in methods_of(handler):
                self._look_at(method, function)
            self._generic.append(handler)

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, Any]
    ) -> None:
        """Take a service.

        Raises:
            SpecError: it was registered before.
        """
        if service_name in self._methods:
            raise SpecError(
                f"service {service_name} is registered twice on {self._task}",
                remedy="register each service by one function only",
            )
        for method, handler in method_handlers.items():
            self._look_at(f"/{service_name}/{method}", getattr(handler, kind_of(handler)))
        self._methods[service_name] = method_handlers
        self.services.add(service_name)

    def _look_at(self, method: str, function: Any) -> None:
        if is_async(function):
            self.needs_asyncio(f"{method} is a coroutine function")

    def add_secure_port(self, address: str, server_credentials: Any) -> int:
        """Have the server listen at one more address, of the user's own."""
        port: int = self.server().add_secure_port(address, server_credentials)
        return port

    def server(self) -> Any:
        """Return the server, of the kind that is needed as far as that is known."""
        if self._server is None:
            self._server = self._make(self.because)
        return self._server

    def deliver(self) -> None:
        """Register all services on the server."""
        server = self.server()
        if self._generic:
            server.add_generic_rpc_handlers(tuple(self._generic))
        for name, methods in self._methods.items():
            if isinstance(server, grpc.Server):
                server.add_registered_method_handlers(name, methods)
            else:  # of grpc.aio, whose older releases take no other handlers
                handler = grpc.method_handlers_generic_handler(name, methods)
                server.add_generic_rpc_handlers((handler,))
        self._server = None  # whoever keeps this object does not keep the server

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
