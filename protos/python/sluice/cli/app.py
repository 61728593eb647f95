"""The commands of `sluice`, put together."""

from typing import Annotated

import typer

from sluice import __version__
from sluice.cli import demo, documents, inspect, snapshots, up
from sluice.cli.access import TlsCa, TlsCertificate, TlsKey, take
from sluice.cli.doctor.command import doctor
from sluice.cli.export import export
from sluice.cli.loadtest import evaluate, load
from sluice.cli.search import search
from sluice.cli.token import token

app = typer.Typer(
    help="Neural search served as gRPC microservices.",
    epilog="A first look: `sluice demo`. Then `sluice up`, `sluice index FILE --create`, `sluice search QUERY`. "
    "A bearer token is taken from SLUICE_TOKEN.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_SEARCH, _RUN = "Search and index", "Run a system"


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sluice {__version__}")
        raise typer.Exit


@app.callback()
def _sluice(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    tls_ca: TlsCa = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
) -> None:
    take(tls_ca, tls_certificate, tls_key)


app.command(rich_help_panel=_SEARCH)(search)
app.command(rich_help_panel=_SEARCH)(documents.index)
app.command(rich_help_panel=_SEARCH)(documents.delete)
app.add_typer(inspect.collections, name="collections", rich_help_panel=_SEARCH)
app.command(rich_help_panel=_SEARCH)(inspect.models)
app.command(rich_help_panel=_SEARCH)(inspect.pipelines)
app.add_typer(snapshots.snapshots, name="snapshots", rich_help_panel=_RUN)
app.command(rich_help_panel=_RUN)(up.status)
app.command(rich_help_panel=_RUN)(doctor)
app.command(rich_help_panel=_RUN)(up.up)
app.command(rich_help_panel=_RUN)(up.down)
app.command(rich_help_panel=_RUN)(token)
app.command(rich_help_panel=_RUN)(demo.demo)
app.command("demo-corpus", rich_help_panel=_RUN)(demo.demo_corpus)
for name, command in (("export", export), ("load", load), ("eval", evaluate)):
    # Each hands its arguments over to a program that explains itself.
    app.command(
        name,
        rich_help_panel=_RUN,
        add_help_option=False,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )(command)
