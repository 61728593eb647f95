"""A real retrieval server for tests, and short forms of its requests."""

from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import numpy as np
from numpy.typing import NDArray
from sluice.common.v1 import document_pb2 as doc
from sluice.common.v1 import tensor_pb2 as tns
from sluice.errors import SluiceError, from_rpc_error
from sluice.retrieval.v1 import retrieval_service_pb2 as pb
from sluice.retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceStub

from services.rpc.tensor import to_tensor
from tests.support.servers import retrieval_address

if TYPE_CHECKING:
    from sluice.retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceAsyncStub

Stub: TypeAlias = "RetrievalServiceAsyncStub"
DIMENSIONS = 4


@asynccontextmanager
async def channel_to_retrieval(folder: Path, **settings: Any) -> AsyncIterator[grpc.aio.Channel]:
    """Yield a channel to a server on a free port, with its data in `folder`."""
    async with retrieval_address(folder, **settings) as address, grpc.aio.insecure_channel(address) as channel:
        yield channel


@asynccontextmanager
async def retrieval_stub(folder: Path, **settings: Any) -> AsyncIterator[Stub]:
    """Run a server on a free port, with its data in `folder`, and yield a stub of it."""
    async with channel_to_retrieval(folder, **settings) as channel:
        yield RetrievalServiceStub(channel)


async def error_of(call: Awaitable[Any]) -> SluiceError:
    """Return the error that the call ends with."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    raise AssertionError("the call did not fail")


def value(given: Any) -> doc.MetadataValue:
    """Return the metadata value of a str, bool, number or list; return a MetadataValue as it is."""
    match given:
        case doc.MetadataValue():
            return given
        case str():
            return doc.MetadataValue(string_value=given)
        case bool():
            return doc.MetadataValue(bool_value=given)
        case list():
            return doc.MetadataValue(list_value=doc.MetadataList(values=map(value, given)))
    return doc.MetadataValue(number_value=given)


def document(document_id: str, text: str = "", **metadata: Any) -> doc.Document:
    """Return a document."""
    return doc.Document(
        document_id=document_id,
        title=f"title of {document_id}",
        text=text or f"text of {document_id}",
        metadata={name: value(given) for name, given in metadata.items()},
    )


def new_collection(name: str = "books", metric: pb.Metric.ValueType = pb.METRIC_COSINE) -> pb.CreateCollectionRequest:
    """Return a request for a collection with a dense field and a metadata field of each type."""
    types = {
        "author": pb.METADATA_TYPE_STRING,
        "year": pb.METADATA_TYPE_NUMBER,
        "printed": pb.METADATA_TYPE_BOOL,
        "added": pb.METADATA_TYPE_TIMESTAMP,
        "tags": pb.METADATA_TYPE_LIST,
    }
    return pb.CreateCollectionRequest(
        name=name,
        schema=pb.Schema(
            dense_fields=[pb.DenseField(name="dense", dimensions=DIMENSIONS, metric=metric, coarse=tns.DATA_TYPE_INT8)],
            metadata_fields=[pb.MetadataField(name=field, type=type_) for field, type_ in types.items()],
        ),
    )


def upsert(
    documents: Sequence[doc.Document], vectors: NDArray[Any] | Sequence[Sequence[float]], **others: Any
) -> pb.UpsertRequest:
    """Return an upsert of documents into `books`."""
    column = pb.DenseColumn(field="dense", vectors=to_tensor(np.asarray(vectors, dtype=np.float32)))
    return pb.UpsertRequest(**{"collection": "books", "documents": documents, "dense": [column], **others})


def query(vector: Sequence[float] | NDArray[Any], depth: int = 10, **others: Any) -> pb.FieldQuery:
    """Return a query of the only dense field."""
    return pb.FieldQuery(dense=to_tensor(np.asarray(vector, dtype=np.float32)), depth=depth, **others)
