"""`sluice token`: a new bearer token."""

import hashlib
import re
import secrets
from typing import Annotated, Final

import typer
from sluice.cli.console import err

_BYTES: Final = 32
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def token(
    name: Annotated[str, typer.Argument(help="Whose it is: logs and errors name it so.", show_default=False)],
    collections: Annotated[
        list[str] | None, typer.Option("--collection", "-c", metavar="NAME", help="Collection, or 'team-*'; again.")
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="May index and delete, not only read.")] = False,
    admin: Annotated[bool, typer.Option("--admin", help="May do all else too: load models, for example.")] = False,
    calls: Annotated[float | None, typer.Option(min=0.001, metavar="N", help="Most calls a second.")] = None,
    texts: Annotated[float | None, typer.Option(min=0.001, metavar="N", help="Most texts a second.")] = None,
) -> None:
    """Make a bearer token, and what the servers' file of tokens needs to know it.

    The token goes to standard output and is kept nowhere: give it to who shall call, as SLUICE_TOKEN. The lines for
    the file that servers are given as --tokens go to standard error.

    [bold]Examples[/]

      sluice token search-page -c docs --calls 50

      sluice token indexer -c 'team-*' --write 2>> tokens.yaml
    """
    if not _NAME.fullmatch(name):
        raise typer.BadParameter("expected letters, digits, '_', '.' and '-', 64 at most", param_hint="NAME")
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
    """As a YAML string, also when it looks like a number or a truth."""
    return "'" + text.replace("'", "''") + "'"
