"""Certificates: what this process shows and whom it trusts, as a server and as a caller; read again when they change.

Rule: files that do not belong together change nothing; it is told in the log once.

Facts: a server asks for its certificates at every handshake, so new ones hold for new connections and none is cut. A
channel keeps what it was made with, so callers make a new one. A certificate and its key are two files and change one
after the other: for a moment they do not fit, and the next look finds them whole.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import grpc

from services.rpc.file_watch import fingerprint
from services.rpc.observability.metrics import RELOADS
from services.rpc.settings import ServerSettings

logger = logging.getLogger(__name__)


class TlsError(Exception):
    """Files that cannot be used for TLS; the message says which and why."""


@dataclass(frozen=True)
class Files:
    """PEM files: a certificate with its key, and the authorities of those at the other end."""

    certificate: Path | None
    key: Path | None
    ca: Path | None


@dataclass(frozen=True)
class _Pems:
    """What the files hold."""

    certificate: bytes | None
    key: bytes | None = field(repr=False)
    ca: bytes | None
    expires: datetime | None


class Certificates:
    """The certificates of one role. Raises TlsError when they are wrong from the start."""

    def __init__(self, role: Literal["server", "downstream", "metrics"], files: Files) -> None:
        self._role = role
        self._files = files
        self._paths = [path for path in (files.certificate, files.key, files.ca) if path is not None]
        self._fingerprint = fingerprint(self._paths)
        self._pems = _read(files)
        self.on_change: list[Callable[[], None]] = []
        """Called after the certificates changed."""

    @property
    def expires(self) -> datetime | None:
        """When the certificate ends; None without one."""
        return self._pems.expires

    def refresh(self) -> bool:
        """Read the files again when they changed; whether there is something new."""
        current = fingerprint(self._paths)
        if current == self._fingerprint:
            return False
        self._fingerprint = current
        try:
            self._pems = _read(self._files)
        except TlsError as error:
            RELOADS.labels(self._role, "refused").inc()
            logger.error("the changed certificates are wrong, those before stay: %s", error)
            return False
        RELOADS.labels(self._role, "taken").inc()
        logger.info("certificates changed", extra={"role": self._role, "expires": self.expires})
        for tell in self.on_change:
            tell()
        return True

    async def watch(self, every_s: float) -> None:
        """Refresh again and again, until cancelled."""
        while True:
            await asyncio.sleep(every_s)
            self.refresh()

    def server_credentials(self) -> grpc.ServerCredentials:
        """Credentials that follow the files. With authorities, callers must show a certificate of one of them."""
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(), self._configuration, require_client_authentication=self._pems.ca is not None
        )

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Credentials of a channel made now."""
        return grpc.ssl_channel_credentials(self._pems.ca, self._pems.key, self._pems.certificate)

    def http_context(self) -> ssl.SSLContext:
        """What a server of HTTPS made now, or the next connection of one, shows."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._files.certificate or "", self._files.key, password="")
        return context

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        assert self._pems.key is not None
        assert self._pems.certificate is not None
        return grpc.ssl_server_certificate_configuration([(self._pems.key, self._pems.certificate)], self._pems.ca)


def of_server(settings: ServerSettings) -> Certificates | None:
    """What the server shows to its callers; None for plain text. Raises TlsError."""
    if settings.tls_certificate is None:
        return None
    return Certificates("server", Files(settings.tls_certificate, settings.tls_key, settings.tls_client_ca))


def of_calls(settings: ServerSettings) -> Certificates | None:
    """What is shown to other servers; None for plain text. Raises TlsError."""
    if settings.downstream_tls_ca is None:
        return None
    return Certificates("downstream", Files(settings.tls_certificate, settings.tls_key, settings.downstream_tls_ca))


def _read(files: Files) -> _Pems:
    """The files' contents. Raises TlsError when they cannot be read, do not belong together, or have expired."""
    certificate, key, ca = map(_content, (files.certificate, files.key, files.ca))
    if files.ca is not None:
        _check(lambda: ssl.create_default_context(cafile=files.ca), f"{files.ca}: expected authorities, PEM")
    if files.certificate is None or files.key is None:
        return _Pems(certificate, key, ca, None)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # An empty pass phrase: without one OpenSSL would ask for it on the terminal.
    _check(
        lambda: context.load_cert_chain(files.certificate or "", files.key, password=""),
        f"{files.certificate}, {files.key}: expected a certificate and its key without a pass phrase, PEM",
    )
    expires = _expiry(files.certificate)
    if expires <= datetime.now(UTC):
        raise TlsError(f"{files.certificate}: the certificate expired at {expires:%Y-%m-%d %H:%M} UTC")
    return _Pems(certificate, key, ca, expires)


def _content(path: Path | None) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        raise TlsError(f"{path}: {error.strerror}") from error


def _check(attempt: Callable[[], object], expected: str) -> None:
    """Raise TlsError with what was expected when OpenSSL refuses."""
    try:
        attempt()
    except (ssl.SSLError, ValueError) as error:  # ValueError: a pass phrase of another length
        raise TlsError(f"{expected}; OpenSSL says {getattr(error, 'reason', None) or error}") from error


def _expiry(certificate: Path) -> datetime:
    """When the first certificate of a PEM file ends."""
    # No public function of the standard library reads dates, and a package of cryptography is much for one date.
    found = ssl._ssl._test_decode_cert(str(certificate))  # type: ignore[attr-defined]
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(found["notAfter"]), UTC)
