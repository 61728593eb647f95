"""`sluice snapshots`: consistent copies of everything retrieval has."""

from typing import Annotated

import typer
from google.protobuf.json_format import MessageToDict

from sluice.cli import options
from sluice.cli.access import access
from sluice.cli.console import out, size_words, table
from sluice.client import RetrievalClient
from sluice.retrieval.v1.retrieval_service_pb2 import Snapshot

snapshots = typer.Typer(
    help="Make, list and delete snapshots. Restore one with `python -m services.retrieval.restore`.",
    no_args_is_help=True,
)


@snapshots.command("create")
def create(
    keep: Annotated[int, typer.Option(min=0, help="Delete the eldest beyond this many; 0 deletes none.")] = 0,
    name: Annotated[str, typer.Option(help="Its name; the present time unless given.")] = "",
    timeout: options.LongTimeout = options.DEFAULT_LONG_TIMEOUT_S,
    retrieval: options.RetrievalAddress = options.DEFAULT_RETRIEVAL,
) -> None:
    """Make a snapshot, while reads and writes go on.

    It is whole and on disk when this ends with status 0. Status 1: it was refused and nothing is left of it, or the
    time to wait ended.
    """
    with RetrievalClient(retrieval, **access()) as client:
        done = client.create_snapshot(name, keep=keep, timeout_s=timeout)
    out.print(table(_COLUMNS, [_row(done.snapshot)]))
    for deleted in done.deleted:
        out.print(f"{deleted} deleted")


@snapshots.command("list")
def list_snapshots(json: options.Json = False, retrieval: options.RetrievalAddress = options.DEFAULT_RETRIEVAL) -> None:
    """List the snapshots, the eldest first."""
    with RetrievalClient(retrieval, **access()) as client:
        found = client.snapshots()
    if json:
        out.print_json(data=[MessageToDict(one, preserving_proto_field_name=True) for one in found])
    else:
        out.print(table(_COLUMNS, map(_row, found)))


@snapshots.command("delete")
def delete(
    name: Annotated[str, typer.Argument(help="Name of the snapshot.", show_default=False)],
    retrieval: options.RetrievalAddress = options.DEFAULT_RETRIEVAL,
) -> None:
    """Delete a snapshot."""
    with RetrievalClient(retrieval, **access()) as client:
        client.delete_snapshot(name)
    out.print(f"{name} deleted")


_COLUMNS = ("snapshot", "made (UTC)", "collections", "documents", "size", "SHA-256")


def _row(found: Snapshot) -> tuple[str, ...]:
    return (
        found.name,
        f"{found.create_time.ToDatetime():%Y-%m-%d %H:%M}",
        f"{len(found.collections):,}",
        f"{sum(one.document_count for one in found.collections):,}",
        size_words(found.size_bytes),
        found.digest[:12],
    )
