"""`sluice token`: make a bearer token."""

import hashlib
import re
import secrets
from typing import Annotated, Final

import typer
from sluice.cli.console import err

_BYTES: Final = 32
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def token(
    name: Annotated[str, typer.Argument(help="Name of the caller, for logs and errors.", show_default=False)],
    collections: Annotated[
        list[str] | None,
        typer.Option(
            "--collection",
            "-c",
            metavar="NAME",
            help="Collection that the token may access, or a pattern: 'team-*'. Repeatable.",
        ),
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Allow indexing and deleting too, not only reading.")] = False,
    admin: Annotated[bool, typer.Option("--admin", help="Allow everything, such as loading models.")] = False,
    calls: Annotated[float | None, typer.Option(min=0.001, metavar="N", help="Limit of calls per second.")] = None,
    texts: Annotated[float | None, typer.Option(min=0.001, metavar="N", help="Limit of texts per second.")] = None,
) -> None:
    """Make a bearer token, and its entry for the servers' token file.

    The token is printed to standard output and stored nowhere. The caller sets it
    as SLUICE_TOKEN. The entry is printed to standard error: add it to the file
    that the servers read as --tokens. It has a hash of the token, not the token.

    [bold]Examples[/]

      sluice token search-page -c docs --calls 50

      sluice token indexer -c 'team-*' --write 2>> tokens.yaml
    """
    if not _NAME.fullmatch(name):
        raise typer.BadParameter(f"expected 1 to 64 letters, digits or '_.-', got {name!r}", param_hint="NAME")
    secret = f"sluice_{secrets.token_urlsafe(_BYTES)}"
    lines = [
        f"- name: {_quoted(name)}",
        f"  sha256: {_quoted(hashlib.sha256(secret.encode()).hexdigest())}",
        f"  may: [{', '.join(('read', *(['write'] * (write or admin)), *(['admin'] * admin)))}]",
        f"  collections: [{', '.join(_quoted(pattern) for pattern in collections or ['*'])}]",
        *([f"  calls_per_s: {calls:g}"] if calls else []),
        *([f"  texts_per_s: {texts:g}"] if texts else []),
    ]
    err.print("\n".join(lines), markup=False, soft_wrap=True)
    print(secret)


def _quoted(text: str) -> str:
    """Return the text as a YAML string, even if it looks like a number or a boolean."""
    return "'" + text.replace("'", "''") + "'"
