"""How every command reaches a system that asks who calls: by TLS, with a certificate, with a token."""

import os
from pathlib import Path
from typing import Annotated, Final, TypedDict

import grpc
import typer

from sluice.cli.console import CommandFailed
from sluice.client.credentials import bearer, tls_credentials


class Access(TypedDict):
    """What every client takes."""

    token: str | None
    credentials: grpc.ChannelCredentials | None


_given: Final = Access(token=None, credentials=None)


def access() -> Access:
    """What the environment and the options before the command say."""
    return _given


TlsCa = Annotated[
    Path | None,
    typer.Option(envvar="SLUICE_TLS_CA", metavar="FILE", help="Authorities of the servers, PEM: call them by TLS."),
]
TlsCertificate = Annotated[
    Path | None,
    typer.Option(envvar="SLUICE_TLS_CERTIFICATE", metavar="FILE", help="Certificate to show to the servers, PEM."),
]
TlsKey = Annotated[Path | None, typer.Option(envvar="SLUICE_TLS_KEY", metavar="FILE", help="Its private key, PEM.")]


def take(ca: Path | None, certificate: Path | None, key: Path | None) -> None:
    """Note what is given. Raises CommandFailed, which does not tell the token.

    The token comes from SLUICE_TOKEN and from no flag: the list of processes and the shell's history show flags.
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
