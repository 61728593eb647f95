"""The commands of `sluice`, put together."""

from typing import Annotated, Final

import typer

from sluice import __version__
from sluice.cli import documents, inspect, snapshots
from sluice.cli.access import TlsCa, TlsCertificate, TlsKey, take
from sluice.cli.entry_points import HELP_OPTIONS, RUN_PANEL, CommandGroup
from sluice.cli.search import search

_SEARCH_PANEL: Final = "Search and index"

app = typer.Typer(
    cls=CommandGroup,
    help="Neural search served as gRPC microservices.",
    epilog="To try it: `sluice demo`. Then `sluice up`, `sluice index FILE --create` and `sluice search QUERY`. "
    "The environment variable SLUICE_TOKEN holds the bearer token of a secured system.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings=dict(HELP_OPTIONS),
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sluice {__version__}")
        raise typer.Exit


@app.callback()
def _sluice(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    tls_ca: TlsCa = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
) -> None:
    take(tls_ca, tls_certificate, tls_key)


app.command(rich_help_panel=_SEARCH_PANEL)(search)
app.command(rich_help_panel=_SEARCH_PANEL)(documents.index)
app.command(rich_help_panel=_SEARCH_PANEL)(documents.delete)
app.add_typer(inspect.collections, name="collections", rich_help_panel=_SEARCH_PANEL)
app.command(rich_help_panel=_SEARCH_PANEL)(inspect.models)
app.command(rich_help_panel=_SEARCH_PANEL)(inspect.pipelines)
app.add_typer(snapshots.snapshots, name="snapshots", rich_help_panel=RUN_PANEL)
