"""Indexing, searching and embedding of a collection through the services."""

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from rich.progress import track
from sluice.cli.console import CommandFailed, err
from sluice.cli.refusals import Refusal
from sluice.client import Document, EmbeddingClient, Pipeline, SearchClient
from sluice.client.indexing import DEFAULT_PATIENCE_S
from sluice.embedding.v1.embedding_service_pb2 import REPRESENTATION_DENSE

from loadtest.collection import passage
from loadtest.quality.health import F32
from loadtest.quality.losses import Standings

_SEARCH_S: Final = 30.0
_EMBED_S: Final = 300.0
_BATCH: Final = 32


@dataclass
class Searched:
    """Results of one pipeline for every query."""

    rankings: dict[str, list[str]] = field(default_factory=dict)
    """Document ids, best first, by query."""
    standings: dict[str, dict[str, Standings]] = field(default_factory=dict)
    """Rank of each document after each stage, by query and document."""
    latencies_s: list[float] = field(default_factory=list)
    degraded: int = 0


def index(
    client: SearchClient, name: str, documents: Sequence[Document], *, patience_s: float = DEFAULT_PATIENCE_S
) -> list[Refusal]:
    """Index documents, and return the rejected ones. Documents that are stored already cost nothing.

    Prints how many documents were truncated.

    Raises CommandFailed if all are rejected, and Unavailable when `patience_s` is over.
    """
    acknowledgements = client.index(name, documents, create=True, patience_s=patience_s)
    known = list(track(acknowledgements, "indexing", total=len(documents), console=err))
    refused = [
        Refusal(one.reason, one.message, document_id=one.document_id) for one in known if one.outcome == "failed"
    ]
    if truncated := sum(one.dropped_token_count > 0 for one in known):
        err.print(f"{truncated:,} of {len(known):,} documents are longer than the model reads and were truncated")
    if documents and len(refused) == len(documents):
        raise CommandFailed(f"all {len(refused):,} documents were rejected; the first: {refused[0]}")
    return refused


def search(client: SearchClient, name: str, pipeline: Pipeline, queries: Mapping[str, str]) -> Searched:
    """Search every query with a pipeline, one after the other: the latency is that of an idle system."""
    found = Searched()
    top_k = min(stage.depth for stage in pipeline.stages)
    for query_id, text in track(queries.items(), f"searching, {pipeline.name}", console=err):
        started = time.perf_counter()
        answer = client.search(name, text, pipeline=pipeline.name, top_k=top_k, timeout_s=_SEARCH_S)
        found.latencies_s.append(time.perf_counter() - started)
        found.degraded += answer.degraded
        found.rankings[query_id] = [result.document.document_id for result in answer.results]
        found.standings[query_id] = {
            result.document.document_id: {standing.stage: standing.rank for standing in result.standings}
            | {"answer": rank}
            for rank, result in enumerate(answer.results, start=1)
        }
    return found


def dense_model(client: EmbeddingClient) -> str:
    """Return the first model with dense vectors. Raises CommandFailed if there is none."""
    for model in client.models():
        if REPRESENTATION_DENSE in model.representations:
            return model.model.name
    raise CommandFailed("expected an embedding model with dense vectors, found none")


def document_vectors(client: EmbeddingClient, documents: Sequence[Document], most: int) -> F32:
    """Return vectors [N, D] of a fixed random sample of documents."""
    sample = random.Random(1).sample(list(documents), min(most, len(documents)))  # noqa: S311
    return _vectors(client, [passage(document) for document in sample], "document")


def query_vectors(client: EmbeddingClient, texts: Sequence[str]) -> F32:
    """Return vectors [Q, D] of queries."""
    return _vectors(client, texts, "query")


def _vectors(client: EmbeddingClient, texts: Sequence[str], role: str) -> F32:
    parts, model = [], dense_model(client)
    for start in track(range(0, len(texts), _BATCH), f"embedding {role} sample", console=err):
        batch = texts[start : start + _BATCH]
        side: Literal["query", "document"] = "query" if role == "query" else "document"
        dense = client.embed(batch, side, model=model, lane="bulk", timeout_s=_EMBED_S).dense
        assert dense is not None
        parts.append(np.asarray(dense))
    return np.concatenate(parts)
