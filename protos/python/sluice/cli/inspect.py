"""`sluice collections`, `sluice models` and `sluice pipelines`: what a running system has."""

from collections.abc import Iterable
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToDict
from rich.table import Table

from sluice.cli import options
from sluice.cli.console import out
from sluice.client import EmbeddingClient, RerankingClient, RetrievalClient, SearchClient
from sluice.client.answers import enum_word, model_name
from sluice.embedding.v1.embedding_service_pb2 import EmbeddingModel, Representation
from sluice.reranking.v1.reranking_service_pb2 import RerankingModel, Scoring

collections = typer.Typer(help="List, describe and drop collections.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of the collection.", show_default=False)]


@collections.command("list")
def list_collections(retrieval: options.RetrievalAddress = options.DEFAULT_RETRIEVAL) -> None:
    """List the collections."""
    with RetrievalClient(retrieval) as client:
        found = client.collections()
    rows = [
        (c.name, f"{c.document_count:,}", str(c.version), f"{c.create_time.ToDatetime():%Y-%m-%d %H:%M}") for c in found
    ]
    out.print(_table(("collection", "documents", "version", "created (UTC)"), rows))


@collections.command("describe")
def describe_collection(name: Name, retrieval: options.RetrievalAddress = options.DEFAULT_RETRIEVAL) -> None:
    """Print a collection and its schema as JSON."""
    with RetrievalClient(retrieval) as client:
        found = client.collection(name)
    out.print_json(
        data=MessageToDict(found, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    )


@collections.command("drop")
def drop_collection(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    retrieval: options.RetrievalAddress = options.DEFAULT_RETRIEVAL,
) -> None:
    """Delete a collection and all its documents."""
    with RetrievalClient(retrieval) as client:
        count = client.collection(name).document_count
        if not yes:
            typer.confirm(f"Delete {name} and its {count:,} documents?", abort=True)
        out.print(f"{name} dropped, {client.drop_collection(name):,} documents deleted")


def models(
    embedding: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where embedding serves.")] = "127.0.0.1:50051",
    reranking: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where reranking serves.")] = "127.0.0.1:50053",
) -> None:
    """List the models that are served."""
    with EmbeddingClient(embedding) as embedder, RerankingClient(reranking) as reranker:
        rows = [_embedding_row(model) for model in embedder.models()]
        rows += [_reranking_row(model) for model in reranker.models()]
    out.print(_table(("service", "model", "gives", "tokens", "graph", "runs on", "digest"), rows))


def pipelines(address: options.Address = options.DEFAULT_ADDRESS) -> None:
    """List the pipelines and their stages."""
    with SearchClient(address) as client:
        found = client.pipelines()
    rows = [(p.name, " → ".join(f"{s.name} ({s.kind}, {s.depth})" for s in p.stages), p.description) for p in found]
    out.print(_table(("pipeline", "stages", "description"), rows))


def _embedding_row(model: EmbeddingModel) -> tuple[str, ...]:
    kinds = [enum_word(Representation.Name, kind, "REPRESENTATION_") for kind in model.representations]
    gives = f"{', '.join(kinds)}; {model.dimensions} dimensions, {model.similarity}"
    return _model_row("embedding", gives, model)


def _reranking_row(model: RerankingModel) -> tuple[str, ...]:
    return _model_row("reranking", enum_word(Scoring.Name, model.scoring, "SCORING_").replace("_", " "), model)


def _model_row(service: str, gives: str, model: EmbeddingModel | RerankingModel) -> tuple[str, ...]:
    digest = model.model.digest[:12]
    runs_on = model.execution_provider.removesuffix("ExecutionProvider")
    return service, model_name(model.model), gives, str(model.max_token_count), model.variant, runs_on, digest


def _table(columns: Iterable[str], rows: Iterable[tuple[str, ...]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table
