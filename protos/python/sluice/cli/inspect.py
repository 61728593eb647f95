"""`sluice collections`, `sluice models` and `sluice pipelines`: the contents of a running system."""

from typing import Annotated

import typer
from google.protobuf.json_format import MessageToDict

from sluice.cli import options
from sluice.cli.access import access
from sluice.cli.console import out, size_words, table
from sluice.client import EmbeddingClient, RerankingClient, RetrievalClient, SearchClient
from sluice.client.answers import enum_word, model_name
from sluice.embedding.v1.embedding_service_pb2 import EmbeddingModel, Representation
from sluice.reranking.v1.reranking_service_pb2 import RerankingModel, Scoring
from sluice.retrieval.v1.retrieval_service_pb2 import Collection, CollectionStatistics

collections = typer.Typer(help="List, describe, optimize and drop collections.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of the collection.", show_default=False)]


@collections.command("list")
def list_collections(retrieval: options.RetrievalAddress = options.DEFAULT_RETRIEVAL) -> None:
    """List the collections with their sizes."""
    with RetrievalClient(retrieval, **access()) as client:
        found = client.collections()
    columns = ("collection", "documents", "deleted", "parts", "memory", "disk", "version", "created (UTC)")
    out.print(table(columns, map(_collection_row, found)))


def _collection_row(found: Collection) -> tuple[str, ...]:
    held = found.statistics
    return (
        found.name,
        f"{found.document_count:,}",
        f"{held.dead_document_count:,}",
        f"{held.part_count:,}",
        size_words(held.memory_bytes),
        size_words(held.segment_bytes + held.store_bytes),
        f"{found.version:,}",
        f"{found.create_time.ToDatetime():%Y-%m-%d %H:%M}",
    )


@collections.command("optimize")
def optimize_collection(
    name: Name,
    timeout: options.LongTimeout = options.DEFAULT_LONG_TIMEOUT_S,
    retrieval: options.RetrievalAddress = options.DEFAULT_RETRIEVAL,
) -> None:
    """Compact a collection now: reclaim the space of deleted documents, and index recent ones.

    The server also does this automatically.

    [bold]Example[/]

      sluice collections optimize docs
    """
    with RetrievalClient(retrieval, **access()) as client:
        result = client.optimize_collection(name, timeout_s=timeout)
    columns = ("", "parts", "indexed", "deleted", "memory", "segments on disk")
    rows = [_statistics_row(label, held) for label, held in (("before", result.before), ("after", result.after))]
    out.print(table(columns, rows))


def _statistics_row(label: str, held: CollectionStatistics) -> tuple[str, ...]:
    counts = (held.part_count, held.indexed_document_count, held.dead_document_count)
    return label, *(f"{count:,}" for count in counts), size_words(held.memory_bytes), size_words(held.segment_bytes)


@collections.command("describe")
def describe_collection(name: Name, retrieval: options.RetrievalAddress = options.DEFAULT_RETRIEVAL) -> None:
    """Print a collection and its schema as JSON.

    [bold]Example[/]

      sluice collections describe docs | jq .schema
    """
    with RetrievalClient(retrieval, **access()) as client:
        found = client.collection(name)
    out.print_json(
        data=MessageToDict(found, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    )


@collections.command("drop")
def drop_collection(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    retrieval: options.RetrievalAddress = options.DEFAULT_RETRIEVAL,
) -> None:
    """Delete a collection and all its documents.

    [bold]Example[/]

      sluice collections drop docs --yes
    """
    with RetrievalClient(retrieval, **access()) as client:
        count = client.collection(name).document_count
        if not yes:
            typer.confirm(f"Delete {name} and its {count:,} documents?", abort=True)
        out.print(f"{name} dropped, {client.drop_collection(name):,} documents deleted")


def models(
    embedding: options.EmbeddingAddress = options.DEFAULT_EMBEDDING,
    reranking: options.RerankingAddress = options.DEFAULT_RERANKING,
) -> None:
    """List the models that the embedding and reranking services serve."""
    with EmbeddingClient(embedding, **access()) as embedder, RerankingClient(reranking, **access()) as reranker:
        rows = [_embedding_row(model) for model in embedder.models()]
        rows += [_reranking_row(model) for model in reranker.models()]
    out.print(table(("service", "model", "output", "tokens", "graph", "runs on", "digest"), rows))


def pipelines(address: options.Address = options.DEFAULT_ADDRESS) -> None:
    """List the pipelines with their stages, and what keeps a pipeline from being used."""
    with SearchClient(address, **access()) as client:
        found = client.pipelines()
    rows = [
        (p.name, p.state, " → ".join(f"{s.name} ({s.kind}, {s.depth})" for s in p.stages), p.description) for p in found
    ]
    out.print(table(("pipeline", "state", "stages", "description"), rows))
    for pipeline in found:
        for problem in pipeline.problems:
            out.print(f"{pipeline.name}: {problem}", style="yellow", markup=False)


def _embedding_row(model: EmbeddingModel) -> tuple[str, ...]:
    kinds = [enum_word(Representation.Name, kind, "REPRESENTATION_") for kind in model.representations]
    output = f"{', '.join(kinds)}; {model.dimensions} dimensions, {model.similarity}"
    return _model_row("embedding", output, model)


def _reranking_row(model: RerankingModel) -> tuple[str, ...]:
    return _model_row("reranking", enum_word(Scoring.Name, model.scoring, "SCORING_").replace("_", " "), model)


def _model_row(service: str, output: str, model: EmbeddingModel | RerankingModel) -> tuple[str, ...]:
    digest = model.model.digest[:12]
    runs_on = model.execution_provider.removesuffix("ExecutionProvider")
    return service, model_name(model.model), output, str(model.max_token_count), model.variant, runs_on, digest
