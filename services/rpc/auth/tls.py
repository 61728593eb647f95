"""TLS certificates of this process, as a server and as a client, reloaded when their files change.

Rule: an invalid set of files changes nothing and is logged once.

Facts: a server looks up its certificates at every handshake, so new ones apply to new connections and no connection is
closed. A channel keeps the certificates that it was created with, so clients create a new one. A certificate and its
key are two files that change one after the other. They do not match for a moment, and the next check finds both.
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
    """Files that cannot be used for TLS. The message says which and why."""


@dataclass(frozen=True)
class Files:
    """PEM files: a certificate, its key, and the authorities that sign the certificates of peers."""

    certificate: Path | None
    key: Path | None
    ca: Path | None


@dataclass(frozen=True)
class _Pems:
    """Contents of the files."""

    certificate: bytes | None
    key: bytes | None = field(repr=False)
    ca: bytes | None
    expires: datetime | None


class Certificates:
    """The certificates of one role. Raises TlsError if they are invalid at the start."""

    def __init__(self, role: Literal["server", "downstream", "metrics"], files: Files) -> None:
        self._role = role
        self._files = files
        self._paths = [path for path in (files.certificate, files.key, files.ca) if path is not None]
        self._fingerprint = fingerprint(self._paths)
        self._pems = _read(files)
        self.on_change: list[Callable[[], None]] = []
        """Callbacks after a change of the certificates."""

    @property
    def expires(self) -> datetime | None:
        """Expiry of the certificate; None without one."""
        return self._pems.expires

    def refresh(self) -> bool:
        """Reload the files if they changed. Return whether other certificates are in use."""
        current = fingerprint(self._paths)
        if current == self._fingerprint:
            return False
        self._fingerprint = current
        try:
            self._pems = _read(self._files)
        except TlsError as error:
            RELOADS.labels(self._role, "refused").inc()
            logger.error("certificates rejected; keeping the previous ones: %s", error)
            return False
        RELOADS.labels(self._role, "taken").inc()
        logger.info("certificates reloaded", extra={"role": self._role, "expires": self.expires})
        for callback in self.on_change:
            callback()
        return True

    async def watch(self, every_s: float) -> None:
        """Reload changed files every `every_s` seconds, until cancelled."""
        while True:
            await asyncio.sleep(every_s)
            self.refresh()

    def server_credentials(self) -> grpc.ServerCredentials:
        """Return credentials that follow the files.

        With authorities, callers must present a certificate signed by one of them.
        """
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(), self._configuration, require_client_authentication=self._pems.ca is not None
        )

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Return credentials for a new channel."""
        return grpc.ssl_channel_credentials(self._pems.ca, self._pems.key, self._pems.certificate)

    def http_context(self) -> ssl.SSLContext:
        """Return the context of a new HTTPS server, or of its next connection."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._files.certificate or "", self._files.key, password="")
        return context

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        assert self._pems.key is not None
        assert self._pems.certificate is not None
        return grpc.ssl_server_certificate_configuration([(self._pems.key, self._pems.certificate)], self._pems.ca)


def of_server(settings: ServerSettings) -> Certificates | None:
    """Return the certificates of a server; None for plain text. Raises TlsError."""
    if settings.tls_certificate is None:
        return None
    return Certificates("server", Files(settings.tls_certificate, settings.tls_key, settings.tls_client_ca))


def of_calls(settings: ServerSettings) -> Certificates | None:
    """Return the certificates for calls to other servers; None for plain text. Raises TlsError."""
    if settings.downstream_tls_ca is None:
        return None
    return Certificates("downstream", Files(settings.tls_certificate, settings.tls_key, settings.downstream_tls_ca))


def _read(files: Files) -> _Pems:
    """Return the contents of the files. Raises TlsError if they are unreadable, do not match, or have expired."""
    certificate, key, ca = map(_content, (files.certificate, files.key, files.ca))
    if files.ca is not None:
        _check(lambda: ssl.create_default_context(cafile=files.ca), f"{files.ca}: expected authorities, PEM")
    if files.certificate is None or files.key is None:
        return _Pems(certificate, key, ca, None)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # With an empty passphrase OpenSSL does not prompt for one on the terminal.
    _check(
        lambda: context.load_cert_chain(files.certificate or "", files.key, password=""),
        f"{files.certificate}, {files.key}: expected a certificate and its key without a passphrase, PEM",
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
    """Raise TlsError with the expectation if OpenSSL rejects the files."""
    try:
        attempt()
    except (ssl.SSLError, ValueError) as error:  # ValueError: a passphrase of another length
        raise TlsError(f"{expected}; OpenSSL says {getattr(error, 'reason', None) or error}") from error


def _expiry(certificate: Path) -> datetime:
    """Return the expiry of the first certificate of a PEM file."""
    # The standard library has no public function for dates, and a cryptography package is too much for one date.
    found = ssl._ssl._test_decode_cert(str(certificate))  # type: ignore[attr-defined]
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(found["notAfter"]), UTC)
