"""Options that several commands take."""

from typing import Annotated, Final

import typer

DEFAULT_COLLECTION: Final = "docs"

Address = Annotated[
    str,
    typer.Option(envvar="SLUICE_ADDRESS", metavar="HOST:PORT", help="Address of the orchestrator."),
]
DEFAULT_ADDRESS: Final = "127.0.0.1:50050"

RetrievalAddress = Annotated[
    str,
    typer.Option(
        "--retrieval",
        envvar="SLUICE_RETRIEVAL_ADDRESS",
        metavar="HOST:PORT",
        help="Address of the retrieval service.",
    ),
]
DEFAULT_RETRIEVAL: Final = "127.0.0.1:50052"

EmbeddingAddress = Annotated[
    str,
    typer.Option("--embedding", metavar="HOST:PORT", help="Address of the embedding service."),
]
DEFAULT_EMBEDDING: Final = "127.0.0.1:50051"

RerankingAddress = Annotated[
    str,
    typer.Option("--reranking", metavar="HOST:PORT", help="Address of the reranking service."),
]
DEFAULT_RERANKING: Final = "127.0.0.1:50053"

Collection = Annotated[str, typer.Option("--collection", "-c", metavar="NAME", help="Name of the collection.")]

Timeout = Annotated[float, typer.Option(min=0.001, metavar="SECONDS", help="Deadline of the request.")]
DEFAULT_TIMEOUT_S: Final = 10.0

LongTimeout = Annotated[
    float,
    typer.Option("--timeout", min=0.001, metavar="SECONDS", help="How long to wait; the server continues after that."),
]
DEFAULT_LONG_TIMEOUT_S: Final = 3600.0

Filter = Annotated[
    str | None,
    typer.Option(
        "--filter",
        "-f",
        metavar="TEXT",
        help="Only documents whose metadata match, such as \"year >= 2020 and lang in ('en', 'de')\".",
    ),
]

Patience = Annotated[
    float,
    typer.Option(min=0.001, metavar="SECONDS", help="Give up after this long without an acknowledged document."),
]

# Counts are 32-bit integers in the API.
MOST: Final = 2**31 - 1

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
