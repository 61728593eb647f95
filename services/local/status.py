"""`sluice status`: the health of each service."""

from typing import Annotated

import typer
from sluice.cli import options
from sluice.cli.access import access
from sluice.cli.console import CommandFailed, out

from services.local.health import SERVING, health

_RetrievalAddress = Annotated[str, typer.Option(metavar="HOST:PORT", help="Address of the retrieval service.")]


def status(
    address: options.Address = options.DEFAULT_ADDRESS,
    embedding: options.EmbeddingAddress = options.DEFAULT_EMBEDDING,
    retrieval: _RetrievalAddress = options.DEFAULT_RETRIEVAL,
    reranking: options.RerankingAddress = options.DEFAULT_RERANKING,
) -> None:
    """Show the health of each service. The exit code is 1 unless all four serve.

    [bold]Examples[/]

      sluice status

      sluice status --address search.internal:50050 --retrieval retrieval.internal:50052
    """
    addresses = {"orchestrator": address, "embedding": embedding, "retrieval": retrieval, "reranking": reranking}
    states = {name: health(name, place, access=access()) for name, place in addresses.items()}
    for name, state in states.items():
        out.print(f"{name:<13} {addresses[name]:<22} {state}", style=None if state == SERVING else "red")
    if set(states.values()) != {SERVING}:
        raise CommandFailed("not all services serve; `sluice doctor` looks for the reason, `sluice up` starts a system")
