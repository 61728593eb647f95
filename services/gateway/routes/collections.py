"""Collections, and reading and deleting documents."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from sluice.client.documents import Document, document_of
from sluice.common.v1 import model_pb2
from sluice.errors import NotFound
from sluice.retrieval.v1 import retrieval_service_pb2 as pb
from sluice.search.v1 import search_service_pb2
from starlette.responses import Response

from services.gateway.http.models import ERRORS, ResponseBody, described
from services.gateway.http.responses import json_response
from services.gateway.upstream.caller import Called
from services.gateway.upstream.filters import parse_filter

router = APIRouter(tags=["Sluice"], responses=ERRORS)

Collection = Annotated[str, Query(description="Name of the collection.")]


class CollectionField(ResponseBody):
    """A field of documents that is searched."""

    name: str
    """Name of the field."""
    kind: str
    """`dense`, `text`, `sparse` or `multi_vector`."""
    dimensions: int | None = None
    """Length of the vectors. Only for `dense` and `multi_vector`."""
    metric: str | None = None
    """Similarity of vectors: `cosine`, `dot` or `l2`. Only for `dense`."""
    language: str | None = None
    """Language whose rules split texts into words. Only for `text`."""
    model_digest: str | None = None
    """Digest of the model that made the vectors, if known."""


class CollectionWindows(ResponseBody):
    """The windows in which documents over the model's limit are embedded."""

    overlap: int
    """Tokens that a window shares with the previous one."""
    aggregation: str
    """How the dense vectors of the windows are combined: `mean` or `max`."""


class CollectionDescription(ResponseBody):
    """A collection."""

    name: str
    """Name of the collection."""
    document_count: int
    """Number of documents."""
    version: int
    """Number that increases with every change of the collection."""
    create_time: str
    """When it was created, in RFC 3339."""
    fields: list[CollectionField]
    """Fields that are searched."""
    filterable_fields: dict[str, str]
    """Type of each metadata field that filters can use."""
    windows: CollectionWindows | None
    """The windows in which documents over the model's limit are embedded; null if they are truncated."""
    indexed_document_count: int
    """Number of documents in approximate indexes."""
    dead_document_count: int
    """Number of deleted or replaced documents whose space is not reclaimed yet."""
    part_count: int
    """Number of parts that a search visits."""
    memory_bytes: int
    """Memory that the collection takes, in bytes."""
    disk_bytes: int
    """Disk space that the collection takes, in bytes."""


class CollectionsResponse(ResponseBody):
    """Collections."""

    collections: list[CollectionDescription]
    """The collections, by name."""


class DeleteResponse(ResponseBody):
    """The result of a deletion."""

    deleted_count: int
    """Number of deleted documents."""


@router.get("/collections", responses=described(CollectionsResponse))
async def collections(caller: Called) -> Response:
    """List the collections that the caller may use, by name."""
    response = await caller.call(caller.upstream.retrieval.ListCollections, pb.ListCollectionsRequest())
    visible = [one for one in response.collections if caller.rights.may_see(one.name)]
    return json_response({"collections": [_collection(one) for one in visible]})


@router.get("/collections/{name}", responses=described(CollectionDescription))
async def collection(name: Annotated[str, Path(description="Name of the collection.")], caller: Called) -> Response:
    """Describe a collection."""
    response = await caller.call(caller.upstream.retrieval.GetCollection, pb.GetCollectionRequest(name=name))
    return json_response(_collection(response.collection))


@router.get("/documents/{document_id:path}", responses=described(Document))
async def document(
    document_id: Annotated[str, Path(description="Id of the document.")],
    caller: Called,
    collection: Collection = "docs",
) -> Response:
    """Return a document."""
    request = pb.GetDocumentsRequest(collection=collection, document_ids=[document_id])
    response = await caller.call(caller.upstream.retrieval.GetDocuments, request)
    if not response.documents:
        raise NotFound(f"no document {document_id!r:.200} in {collection}")
    return json_response(document_of(response.documents[0]))


@router.delete("/documents", responses=described(DeleteResponse))
async def delete(
    caller: Called,
    collection: Collection = "docs",
    id: Annotated[
        list[str] | None, Query(description="Id of a document to delete. Repeat it for several documents.")
    ] = None,
    filter: Annotated[str, Query(description="Filter that documents to delete must match, in place of ids.")] = "",
) -> Response:
    """Delete documents by id or by filter. Unknown ids are ignored."""
    request = search_service_pb2.DeleteRequest(
        collection=collection, document_ids=id or (), filter=await parse_filter(filter)
    )
    response = await caller.call(caller.upstream.search.Delete, request)
    return json_response({"deleted_count": response.deleted_count})


def _collection(proto: pb.Collection) -> dict[str, Any]:
    schema, statistics = proto.schema, proto.statistics
    return {
        "name": proto.name,
        "document_count": proto.document_count,
        "version": proto.version,
        "create_time": proto.create_time.ToJsonString(),
        "fields": [
            *(
                _field(one, "dense", dimensions=one.dimensions, metric=_metric(one.metric))
                for one in schema.dense_fields
            ),
            *(_field(one, "text", language=one.language or "english") for one in schema.text_fields),
            *(_field(one, "sparse") for one in schema.sparse_fields),
            *(_field(one, "multi_vector", dimensions=one.dimensions) for one in schema.multi_vector_fields),
        ],
        "filterable_fields": {one.name: metadata_type(one.type) for one in schema.metadata_fields},
        "windows": _windows(schema.windows) if schema.HasField("windows") else None,
        "indexed_document_count": statistics.indexed_document_count,
        "dead_document_count": statistics.dead_document_count,
        "part_count": statistics.part_count,
        "memory_bytes": statistics.memory_bytes,
        "disk_bytes": statistics.store_bytes + statistics.segment_bytes,
    }


def _windows(proto: model_pb2.Windows) -> dict[str, object]:
    name = model_pb2.WindowAggregation.Name(proto.aggregation)
    return {"overlap": proto.overlap_token_count, "aggregation": name.removeprefix("WINDOW_AGGREGATION_").lower()}


def metadata_type(number: pb.MetadataType.ValueType) -> str:
    """Return `timestamp` for METADATA_TYPE_TIMESTAMP."""
    return pb.MetadataType.Name(number).removeprefix("METADATA_TYPE_").lower()


def _field(proto: Any, kind: str, **more: object) -> dict[str, object]:
    digest = getattr(proto, "model_digest", "")
    return {"name": proto.name, "kind": kind, **more, **({"model_digest": digest} if digest else {})}


def _metric(number: pb.Metric.ValueType) -> str:
    return pb.Metric.Name(number or pb.METRIC_COSINE).removeprefix("METRIC_").lower()
