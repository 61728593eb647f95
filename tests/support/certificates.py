"""Certificate authorities and the certificates that they issue, as PEM files."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import trustme
from sluice.client import tls_credentials


@dataclass(frozen=True)
class Identity:
    """A certificate and its key."""

    certificate: Path
    key: Path


class Authority:
    """Issues certificates for 127.0.0.1 into a folder. `ca` is its own certificate."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._ca = trustme.CA()
        self.ca = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.ca))

    def issue(self, name: str = "server", *, not_after: datetime | None = None) -> Identity:
        """Issue a certificate, replacing the one with the same name."""
        issued = self._ca.issue_cert("127.0.0.1", "localhost", not_after=not_after)
        identity = Identity(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        issued.private_key_pem.write_to_path(str(identity.key))
        identity.certificate.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
        return identity

    def credentials(self, shown: Identity | None = None) -> grpc.ChannelCredentials:
        """Return credentials of a client that trusts this authority and may present a certificate."""
        return tls_credentials(self.ca, shown.certificate, shown.key) if shown else tls_credentials(self.ca)


def settings_of(authority: Authority, identity: Identity, *, mutual: bool = False) -> dict[str, Any]:
    """Return settings of a server with this certificate; `mutual` also requires client certificates."""
    settings = {"tls_certificate": identity.certificate, "tls_key": identity.key, "reload_s": 0.02}
    return settings | ({"tls_client_ca": authority.ca} if mutual else {})
