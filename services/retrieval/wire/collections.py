"""Collections, their statistics and aliases, from and to protos."""

from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp
from sluice.retrieval.v1 import retrieval_service_pb2 as pb

from services.retrieval.domain.collections import NAME, CollectionStatistics
from services.retrieval.domain.engine_protocol import Collection
from services.retrieval.domain.schema import Schema
from services.retrieval.wire.schema import check_name, read_schema, schema_message
from services.rpc.validation import validating

_NAME_RULE: Final = "a letter and up to 127 of [a-z0-9_-]"


def new_collection(request: pb.CreateCollectionRequest) -> tuple[str, Schema]:
    """Return the name and the schema of the collection to create. Raises InvalidRequest."""
    with validating() as violations:
        check_name("name", request.name, NAME, _NAME_RULE, violations)
        schema = read_schema(request.schema, violations)
    return request.name, schema


def collection_message(collection: Collection, statistics: CollectionStatistics) -> pb.Collection:
    """Return the message of a collection."""
    created = Timestamp()
    created.FromMicroseconds(collection.record.created_us)
    view = collection.view
    return pb.Collection(
        name=collection.record.name,
        schema=schema_message(collection.schema),
        document_count=view.document_count,
        version=view.version,
        create_time=created,
        statistics=statistics_message(statistics),
        text_analysis=min((field.analysis for field in collection.schema.text), default=0),
    )


def statistics_message(statistics: CollectionStatistics) -> pb.CollectionStatistics:
    """Return the message of a collection's statistics."""
    return pb.CollectionStatistics(
        indexed_document_count=statistics.indexed_count,
        dead_document_count=statistics.dead_count,
        part_count=statistics.part_count,
        segment_count=statistics.segment_count,
        memory_bytes=statistics.memory_bytes,
        segment_bytes=statistics.segment_bytes,
        store_bytes=statistics.store_bytes,
    )


def alias(request: pb.SetAliasRequest) -> tuple[str, str]:
    """Return the alias and the name of its collection. Raises InvalidRequest."""
    with validating() as violations:
        check_name("alias.alias", request.alias.alias, NAME, _NAME_RULE, violations)
        check_name("alias.collection", request.alias.collection, NAME, _NAME_RULE, violations)
    return request.alias.alias, request.alias.collection
