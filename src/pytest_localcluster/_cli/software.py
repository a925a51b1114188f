"""``doctor``: what is installed, and what the environment says to it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from importlib import metadata

from .checks import OK, PROBLEM, WARNING, Check, Look

__all__ = ["LOOKS"]

_ALSO = ("torch", "jax", "pytest-timeout", "pytest-cov", "pytest-asyncio")
"""What clusters get along with, and need not."""

_FOR = {
    "tensorflow": "runtime='tensorflow'",
    "ray": "launcher='ray'",
    "cli": "tables on a terminal",
}
"""The extras that are for users."""

_PROXIES = ("http_proxy", "grpc_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")

_SPARED = ("no_grpc_proxy", "no_proxy", "NO_PROXY")

_LOUD = ("GRPC_TRACE", "GRPC_VERBOSITY")

_FELT = ("GRPC_ENABLE_FORK_SUPPORT", "GRPC_EXPERIMENTS", "GRPC_POLL_STRATEGY")
"""Settings that change what gRPC does in tasks."""


def requirements() -> Iterator[Check]:
    """Whether what is installed is as new as it has to be."""
    from packaging.requirements import Requirement  # which pytest needs, so it is there

    for text in metadata.requires("pytest-localcluster") or ():
        wanted = Requirement(text)
        extra = next((e for e in _FOR if wanted.marker and f'"{e}"' in str(wanted.marker)), "")
        if wanted.marker is not None and not extra:
            continue
        found = _version(wanted.name)
        package = f"pytest-localcluster[{extra}]" if extra else text
        install = f"pip install '{package}'"
        if found is None:
            if extra:
                yield Check(wanted.name, f"not installed; it is for {_FOR[extra]}: {install}")
            else:
                yield Check(wanted.name, "not installed", PROBLEM, install)
        elif not wanted.specifier.contains(found, prereleases=True):
            needed = f"{found}, and {wanted.specifier} is needed"
            yield Check(wanted.name, needed, PROBLEM, install)
        else:
            yield Check(wanted.name, found)
    others = [f"{name} {found}" for name in _ALSO if (found := _version(name))]
    yield Check("other plugins and libraries", ", ".join(others) or "none that matters here")


def _version(name: str) -> str | None:
    # TensorFlow comes under more than one name, in files that are the same.
    for distribution in (name, f"{name}-cpu") if name == "tensorflow" else (name,):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return None


def environment() -> Iterator[Check]:
    """What the environment has gRPC do."""
    proxies = [name for name in _PROXIES if os.environ.get(name)]
    spared = next((os.environ[n] for n in _SPARED if n in os.environ), "")
    names = {name.strip() for name in spared.split(",")}
    if proxies and not names & {"*", "localhost", "127.0.0.1"}:
        yield Check(
            "proxies",
            f"{', '.join(proxies)} without no_proxy: gRPC clients of your own are led there, also "
            "on this machine; ours are not",
            WARNING,
            "set no_proxy=localhost,127.0.0.1,::1, or use server.channel()",
        )
    else:
        yield Check("proxies", "none in the way of this machine's own addresses")
    loud = [name for name in _LOUD if os.environ.get(name)]
    felt = [name for name in _FELT if os.environ.get(name)]
    others = sorted(name for name in os.environ if name.startswith("GRPC_"))
    if loud:
        found = f"{', '.join(loud)}: the logs of tasks are gRPC's then"
        yield Check("gRPC's settings", found, WARNING, f"unset {' '.join(loud)}")
    elif felt:
        found = f"{', '.join(felt)}: tasks inherit that"
        yield Check(
            "gRPC's settings", found, WARNING, f"unset {' '.join(felt)}, unless you mean it"
        )
    else:
        yield Check("gRPC's settings", ", ".join(others) or "none in the environment")


def port_server() -> Iterator[Check]:
    """Whether the port server that is asked for answers."""
    address = os.environ.get("PORTSERVER_ADDRESS")
    if not address:
        yield Check("port server", "none is asked for (PORTSERVER_ADDRESS)")
        return
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(2.0)
        try:
            client.connect(address.replace("@", "\0", 1) if address[0] == "@" else address)
        except OSError as error:
            found, state = f"{address} does not answer: {error.strerror or error}", WARNING
        else:
            found, state = f"{address} answers", OK
    yield Check("port server", found, state, "start it, or unset PORTSERVER_ADDRESS")


LOOKS: tuple[Look, ...] = (requirements, environment, port_server)
