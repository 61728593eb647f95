"""The credentials of every command: TLS, a client certificate, a bearer token."""

import os
from pathlib import Path
from typing import Annotated, Final, TypedDict

import grpc
import typer

from sluice.cli.console import CommandFailed
from sluice.client.credentials import bearer, tls_credentials


class Access(TypedDict):
    """The credentials that every client takes."""

    token: str | None
    credentials: grpc.ChannelCredentials | None


_given: Final = Access(token=None, credentials=None)


def access() -> Access:
    """Return the credentials from the environment and from the options before the command."""
    return _given


TlsCa = Annotated[
    Path | None,
    typer.Option(envvar="SLUICE_TLS_CA", metavar="FILE", help="Use TLS, and trust these authorities, PEM."),
]
TlsCertificate = Annotated[
    Path | None,
    typer.Option(envvar="SLUICE_TLS_CERTIFICATE", metavar="FILE", help="Client certificate, PEM, for mutual TLS."),
]
TlsKey = Annotated[
    Path | None,
    typer.Option(envvar="SLUICE_TLS_KEY", metavar="FILE", help="Key of the client certificate, PEM."),
]


def take(ca: Path | None, certificate: Path | None, key: Path | None) -> None:
    """Keep the credentials for the command that follows. Raises CommandFailed, without the token in its message.

    The token comes from SLUICE_TOKEN. There is no flag for it, because process lists and shell histories show flags.
    """
    token = os.environ.get("SLUICE_TOKEN")
    try:
        bearer(token or None)
        _given["token"] = token or None
        if ca or certificate or key:
            _given["credentials"] = tls_credentials(ca, certificate, key)
    except ValueError as error:
        raise CommandFailed(f"SLUICE_TOKEN, SLUICE_TLS_CERTIFICATE or SLUICE_TLS_KEY: {error}") from None
    except OSError as error:
        raise CommandFailed(f"{error.filename}: {error.strerror}") from error
