"""How an index stream stores long documents, and the first message of a stream."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from sluice.client.documents import unfit
from sluice.common.v1 import model_pb2
from sluice.search.v1 import search_service_pb2 as pb

_AGGREGATIONS: Final = {
    "mean": model_pb2.WINDOW_AGGREGATION_MEAN,
    "max": model_pb2.WINDOW_AGGREGATION_MAX,
}


@dataclass(frozen=True)
class Chunking:
    """How documents are cut into chunks. Chunks are cut between words."""

    tokens: int
    """Most tokens of a chunk, including the title: at least 16, and at most the limit of the model."""
    overlap: int = 0
    """Tokens that a chunk shares with the previous one, up to half of `tokens`."""


@dataclass(frozen=True)
class Windows:
    """How documents over the model's limit are embedded: in windows, so that the model reads all of them."""

    overlap: int = 0
    """Tokens that a window shares with the previous one, up to half of those that a window holds."""
    aggregation: Literal["mean", "max"] = "mean"
    """How the dense vectors of the windows are combined: their `mean`, weighted by tokens, or the `max` of each
    dimension. A sparse term has its largest weight of all windows, and token vectors of all windows are kept."""


def opening(
    collection: str,
    create: bool,
    filterable_fields: Mapping[str, str],
    chunking: Chunking | None = None,
    windows: Windows | None = None,
) -> pb.IndexRequest:
    """Return the first message of a stream. Raises InvalidRequest for an unknown aggregation."""
    fields = [pb.FilterableField(name=name, type=kind) for name, kind in filterable_fields.items()]
    first = pb.IndexRequest(collection=collection, create_collection=create, filterable_fields=fields)
    if chunking is not None:
        first.chunking.token_count = chunking.tokens
        first.chunking.overlap_token_count = chunking.overlap
    if windows is not None:
        if windows.aggregation not in _AGGREGATIONS:
            raise unfit("windows.aggregation", f"expected mean or max, got {windows.aggregation!r}")
        first.windows.overlap_token_count = windows.overlap
        first.windows.aggregation = _AGGREGATIONS[windows.aggregation]
    return first
