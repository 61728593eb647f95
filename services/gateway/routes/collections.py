"""What is stored: collections, and single documents."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from sluice.client.documents import document_of
from sluice.errors import NotFound
from sluice.retrieval.v1 import retrieval_service_pb2 as pb
from sluice.search.v1 import search_service_pb2
from starlette.responses import Response

from services.gateway.http.responses import json_response
from services.gateway.upstream.caller import Called
from services.gateway.upstream.filters import parse_filter

router = APIRouter(tags=["Sluice"])

Collection = Annotated[str, Query(description="Where.")]


@router.get("/collections")
async def collections(caller: Called) -> Response:
    """The collections that the caller may use, by name: size, fields, how they are held."""
    response = await caller.call(caller.upstream.retrieval.ListCollections, pb.ListCollectionsRequest())
    visible = [one for one in response.collections if caller.rights.may_see(one.name)]
    return json_response({"collections": [_collection(one) for one in visible]})


@router.get("/collections/{name}")
async def collection(name: str, caller: Called) -> Response:
    """One collection."""
    response = await caller.call(caller.upstream.retrieval.GetCollection, pb.GetCollectionRequest(name=name))
    return json_response(_collection(response.collection))


@router.get("/documents/{document_id:path}")
async def document(document_id: str, caller: Called, collection: Collection = "docs") -> Response:
    """One document."""
    request = pb.GetDocumentsRequest(collection=collection, document_ids=[document_id])
    response = await caller.call(caller.upstream.retrieval.GetDocuments, request)
    if not response.documents:
        raise NotFound(f"no document {document_id!r:.200} in {collection}")
    return json_response(document_of(response.documents[0]))


@router.delete("/documents")
async def delete(
    caller: Called,
    collection: Collection = "docs",
    id: Annotated[list[str] | None, Query(description="Ids; repeatable.")] = None,
    filter: Annotated[str, Query(description="Delete what matches, instead of ids.")] = "",
) -> Response:
    """Delete documents by id or by filter. Ids that are not there are ignored."""
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
        "indexed_document_count": statistics.indexed_document_count,
        "dead_document_count": statistics.dead_document_count,
        "part_count": statistics.part_count,
        "memory_bytes": statistics.memory_bytes,
        "disk_bytes": statistics.store_bytes + statistics.segment_bytes,
    }


def metadata_type(number: pb.MetadataType.ValueType) -> str:
    """`timestamp` for METADATA_TYPE_TIMESTAMP."""
    return pb.MetadataType.Name(number).removeprefix("METADATA_TYPE_").lower()


def _field(proto: Any, kind: str, **more: object) -> dict[str, object]:
    digest = getattr(proto, "model_digest", "")
    return {"name": proto.name, "kind": kind, **more, **({"model_digest": digest} if digest else {})}


def _metric(number: pb.Metric.ValueType) -> str:
    return pb.Metric.Name(number or pb.METRIC_COSINE).removeprefix("METRIC_").lower()
