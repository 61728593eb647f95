"""Stubs of the three services behind an orchestrator: prepared answers of the usual size, without models or indexes.

Run: `python -m loadtest.bench.stub_services --listen 127.0.0.1:0`. What remains is the time of the orchestrator.
"""

import argparse
import asyncio
import json
import struct
import sys
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any, Final

import grpc
from sluice.common.v1.document_pb2 import Document
from sluice.common.v1.model_pb2 import ModelRef
from sluice.common.v1.tensor_pb2 import DATA_TYPE_FLOAT32, DATA_TYPE_INT32, MultiVectors, SparseVectors, Tensor
from sluice.embedding.v1 import embedding_service_pb2 as embedding_pb
from sluice.reranking.v1 import reranking_service_pb2 as reranking_pb
from sluice.retrieval.v1 import retrieval_service_pb2 as retrieval_pb

DIMENSIONS: Final = 384
_TOKENS: Final = 12
_TERMS: Final = 40
_DOCUMENTS: Final = 100
_TEXT: Final = "A passage of about the length that passages have. " * 10
_MODEL: Final = ModelRef(name="instant", version="1", digest="0" * 64)
_KINDS: Final = (
    embedding_pb.REPRESENTATION_DENSE,
    embedding_pb.REPRESENTATION_SPARSE,
    embedding_pb.REPRESENTATION_MULTI_VECTOR,
)

Answer = Callable[[bytes], bytes]


def _floats(*shape: int) -> Tensor:
    count = 1
    for length in shape:
        count *= length
    return Tensor(data_type=DATA_TYPE_FLOAT32, shape=shape, data=struct.pack(f"<{count}f", *([0.05] * count)))


def _embed(request: bytes) -> bytes:
    """Return vectors of the requested kinds, one for each text."""
    given = embedding_pb.EmbedRequest.FromString(request)
    return _vectors(len(given.texts), list(given.representations) == [embedding_pb.REPRESENTATION_DENSE])


@cache
def _vectors(count: int, is_dense: bool) -> bytes:
    dense = _floats(count, DIMENSIONS)
    if is_dense:
        return embedding_pb.EmbedResponse(model=_MODEL, dense=dense).SerializeToString()
    terms = count * _TERMS
    indices = struct.pack(f"<{terms}i", *(list(range(_TERMS)) * count))
    return embedding_pb.EmbedResponse(
        model=_MODEL,
        dense=dense,
        sparse=SparseVectors(
            indices=Tensor(data_type=DATA_TYPE_INT32, shape=[terms], data=indices),
            weights=_floats(terms),
            term_counts=[_TERMS] * count,
        ),
        multi_vector=MultiVectors(tokens=_floats(count * _TOKENS, DIMENSIONS), token_counts=[_TOKENS] * count),
    ).SerializeToString()


def _retrieve() -> Answer:
    """Return a handler that answers every query with the same hundred documents, with texts or ids alone."""
    ids = [f"document-{number:03}" for number in range(_DOCUMENTS)]
    ranking = retrieval_pb.Ranking(document_ids=ids, scores=[1 - n / 1000 for n in range(_DOCUMENTS)], coverage=1)
    full = [Document(document_id=id_, title=f"Title of {id_}", text=_TEXT) for id_ in ids]
    bare = [Document(document_id=id_) for id_ in ids]

    def answer(request: bytes) -> bytes:
        asked = retrieval_pb.RetrieveRequest.FromString(request)
        documents = bare if asked.view == retrieval_pb.DOCUMENT_VIEW_ID else full
        depth = asked.queries[0].depth
        cut = (
            ranking
            if depth >= _DOCUMENTS
            else retrieval_pb.Ranking(document_ids=ids[:depth], scores=ranking.scores[:depth], coverage=1)
        )
        return retrieval_pb.RetrieveResponse(
            rankings=[cut], documents=documents[:depth], collection_version=1
        ).SerializeToString()

    prepared: dict[bytes, bytes] = {}

    def remembered(request: bytes) -> bytes:
        # Requests come from the prepared vectors above, so there are few distinct ones.
        if request not in prepared:
            prepared[request] = answer(request)
        return prepared[request]

    return remembered


def _rerank(request: bytes) -> bytes:
    count = len(reranking_pb.RerankRequest.FromString(request).documents)
    results = [reranking_pb.ScoredDocument(index=index, score=1 / (1 + index)) for index in range(count)]
    return reranking_pb.RerankResponse(model=_MODEL, results=results).SerializeToString()


def _collection() -> bytes:
    schema = retrieval_pb.Schema(
        dense_fields=[retrieval_pb.DenseField(name="dense", dimensions=DIMENSIONS, model_digest=_MODEL.digest)],
        text_fields=[retrieval_pb.TextField(name="text")],
        sparse_fields=[retrieval_pb.SparseField(name="sparse", model_digest=_MODEL.digest)],
        multi_vector_fields=[
            retrieval_pb.MultiVectorField(name="multi_vector", dimensions=DIMENSIONS, model_digest=_MODEL.digest)
        ],
    )
    collection = retrieval_pb.Collection(name="instant", schema=schema, document_count=_DOCUMENTS, version=1)
    return retrieval_pb.GetCollectionResponse(collection=collection).SerializeToString()


def _answers() -> dict[str, Answer]:
    """Return the handler of each method, by its full name."""
    embedders = embedding_pb.ListModelsResponse(
        models=[
            embedding_pb.EmbeddingModel(
                model=_MODEL, representations=_KINDS, dimensions=DIMENSIONS, similarity="cosine"
            )
        ]
    ).SerializeToString()
    rerankers = reranking_pb.ListModelsResponse(models=[reranking_pb.RerankingModel(model=_MODEL)]).SerializeToString()
    collection = _collection()
    return {
        "/sluice.embedding.v1.EmbeddingService/Embed": _embed,
        "/sluice.embedding.v1.EmbeddingService/ListModels": lambda _: embedders,
        "/sluice.retrieval.v1.RetrievalService/Retrieve": _retrieve(),
        "/sluice.retrieval.v1.RetrievalService/GetCollection": lambda _: collection,
        "/sluice.reranking.v1.RerankingService/Rerank": _rerank,
        "/sluice.reranking.v1.RerankingService/ListModels": lambda _: rerankers,
    }


class _Handlers(grpc.GenericRpcHandler):
    """Generic handlers: bytes in, bytes out."""

    def __init__(self) -> None:
        self._handlers: dict[str, Any] = {
            path: grpc.unary_unary_rpc_method_handler(_async(do)) for path, do in _answers().items()
        }

    def service(self, handler_call_details: Any) -> Any:
        """Return the handler of a method; None for others."""
        return self._handlers.get(handler_call_details.method)


def _async(answer: Answer) -> Callable[[bytes, Any], Awaitable[bytes]]:
    async def handle(request: bytes, context: Any) -> bytes:
        return answer(request)

    return handle


async def _serve(listen: str) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Handlers(),))
    port = server.add_insecure_port(listen)
    await server.start()
    address = f"{listen.rpartition(':')[0]}:{port}"
    sys.stderr.write(json.dumps({"event": "ready", "address": address}) + "\n")
    sys.stderr.flush()
    await server.wait_for_termination()


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", default="127.0.0.1:0")
    parser.add_argument("--metrics-listen", help="accepted like by other servers; there are no metrics")
    asyncio.run(_serve(parser.parse_args().listen))


if __name__ == "__main__":
    main()
