"""TLS where calls leave the machine: an authority for one cluster, which vouches for its tasks.

It exists in the test process alone, as long as the cluster does. A task is given a certificate for
its address and its key; clients are given the authority's own certificate, the *root*, by which
they know that they talk to a task of this cluster. That they belong to it the token says, as ever.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec

from .errors import SpecError

__all__ = ["Authority", "Credentials"]

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Credentials:
    """By what a task shows who it is.

    Attributes:
        certificate: its own, in PEM.
        key: what only the task has, in PEM.
    """

    certificate: bytes
    key: bytes = field(repr=False)


class Authority:
    """Makes the certificates of one cluster.

    Attributes:
        root: the authority's own certificate, in PEM: what clients trust.

    Raises:
        SpecError: the library that makes certificates is not installed.
    """

    def __init__(self) -> None:
        if find_spec("trustme") is None:
            raise SpecError(
                "tasks that are reached over a network speak TLS, and trustme, which makes their "
                "certificates, is not installed",
                remedy="pip install 'pytest-localcluster[ray]'",
            )
        import trustme

        self._authority = trustme.CA(organization_name="pytest-localcluster")
        self.root = self._authority.cert_pem.bytes().decode()

    def issue(self, address: str) -> Credentials:
        """Return what the task at ``host:port`` is to show."""
        host = address.rpartition(":")[0].strip("[]")
        # Clients dial 127.0.0.1 for localhost.
        names = _LOOPBACK if host in _LOOPBACK else (host,)
        issued = self._authority.issue_cert(*names)
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        return Credentials(chain, issued.private_key_pem.bytes())
