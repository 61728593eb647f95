"""`sluice snapshots`: consistent copies of all data of the retrieval service."""

from typing import Annotated

import typer
from google.protobuf.json_format import MessageToDict

from sluice.cli import options
from sluice.cli.access import access
from sluice.cli.console import out, size_words, table
from sluice.client import RetrievalClient
from sluice.retrieval.v1.retrieval_service_pb2 import Snapshot

snapshots = typer.Typer(
    help="Create, list and delete snapshots. `python -m services.retrieval.restore` restores one.",
    no_args_is_help=True,
)


@snapshots.command("create")
def create(
    keep: Annotated[int, typer.Option(min=0, metavar="N", help="Delete all but the newest N; 0 deletes none.")] = 0,
    name: Annotated[str, typer.Option(help="Name of the snapshot. The default is the current time.")] = "",
    timeout: options.LongTimeout = options.DEFAULT_LONG_TIMEOUT_S,
    retrieval: options.RetrievalAddress = options.DEFAULT_RETRIEVAL,
) -> None:
    """Create a snapshot. Reads and writes continue while it is made.

    If the exit code is 0, the snapshot is complete and on disk. If it is 1, the
    server rejected the request and nothing is left, or the timeout has passed.

    [bold]Examples[/]

      sluice snapshots create

      sluice snapshots create --name before-upgrade

      sluice snapshots create --keep 7
    """
    with RetrievalClient(retrieval, **access()) as client:
        created = client.create_snapshot(name, keep=keep, timeout_s=timeout)
    out.print(table(_COLUMNS, [_row(created.snapshot)]))
    for deleted in created.deleted:
        out.print(f"{deleted} deleted")


@snapshots.command("list")
def list_snapshots(json: options.Json = False, retrieval: options.RetrievalAddress = options.DEFAULT_RETRIEVAL) -> None:
    """List the snapshots, the oldest first."""
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
    """Delete a snapshot.

    [bold]Example[/]

      sluice snapshots delete before-upgrade
    """
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
