"""Requests that small real servers answer, to be mutated by tests, and requests that create the data for them."""

from collections.abc import Mapping, Sequence

import numpy as np
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from sluice.common.v1 import document_pb2 as doc
from sluice.common.v1 import filter_pb2 as flt
from sluice.common.v1 import model_pb2, tensor_pb2
from sluice.embedding.v1 import embedding_service_pb2 as embedding
from sluice.kserve.v2 import inference_service_pb2 as kserve
from sluice.reranking.v1 import reranking_service_pb2 as reranking
from sluice.retrieval.v1 import retrieval_service_pb2 as retrieval
from sluice.search.v1 import search_service_pb2 as search
from sluice.tei.v1 import tei_service_pb2 as tei

from services.rpc.tensor import to_tensor

ENCODER, PAIRS = "tiny", "tiny-pairs"
COLLECTION, ALIAS, SEARCHED = "books", "shelf", "docs"
WORDS = (
    ENCODER, PAIRS, "1", COLLECTION, ALIAS, SEARCHED, "other", "dense", "words", "terms", "tokens", "year", "added",
    "tags", "author", "one", "two", "default", "fast", "hybrid", "text", "input_ids", "attention_mask", "query",
    "passage", "score", "BYTES", "INT64", "FP32", "dimensions", "embedding_type", "raw_scores", "english", "none",
    "string", "number", "list", "sequence_id", "truncate", "priority", "how to open a file",
)  # fmt: skip


def _value(number: float) -> doc.MetadataValue:
    return doc.MetadataValue(number_value=number)


_METADATA = {
    "year": _value(1984),
    "author": doc.MetadataValue(string_value="one"),
    "added": doc.MetadataValue(timestamp_value=Timestamp(seconds=1_700_000_000)),
    "tags": doc.MetadataValue(list_value=doc.MetadataList(values=[doc.MetadataValue(string_value="a")])),
}
_DOCUMENTS = [
    doc.Document(document_id=name, title="a title", text="how to open a file", metadata=_METADATA)
    for name in ("one", "two")
]
_YEAR = flt.Filter(comparison=flt.Comparison(field="year", operator=flt.Comparison.OPERATOR_EQUAL, value=_value(1984)))
_FILTER = flt.Filter(
    all_of=flt.FilterList(
        filters=[
            _YEAR,
            flt.Filter(none_of=flt.FilterList(filters=[flt.Filter(exists="author")])),
            flt.Filter(membership=flt.Membership(field="year", values=[_value(1), _value(1984)])),
            flt.Filter(contains=flt.Contains(field="tags", value=doc.MetadataValue(string_value="a"))),
        ]
    )
)
_SCHEMA = retrieval.Schema(
    dense_fields=[retrieval.DenseField(name="dense", dimensions=4, metric=retrieval.METRIC_COSINE)],
    text_fields=[retrieval.TextField(name="words", language="english", k1=1.2, b=0.75)],
    sparse_fields=[retrieval.SparseField(name="terms")],
    multi_vector_fields=[retrieval.MultiVectorField(name="tokens", dimensions=4)],
    metadata_fields=[
        retrieval.MetadataField(name="year", type=retrieval.METADATA_TYPE_NUMBER),
        retrieval.MetadataField(name="author", type=retrieval.METADATA_TYPE_STRING),
        retrieval.MetadataField(name="added", type=retrieval.METADATA_TYPE_TIMESTAMP),
        retrieval.MetadataField(name="tags", type=retrieval.METADATA_TYPE_LIST),
    ],
)
_ROWS = to_tensor(np.eye(2, 4, dtype=np.float32))
_TERMS = tensor_pb2.SparseVectors(
    indices=to_tensor(np.array([1, 2], np.int32)), weights=to_tensor(np.ones(2, np.float32)), term_counts=[1, 1]
)
_UPSERT = retrieval.UpsertRequest(
    collection=COLLECTION,
    documents=_DOCUMENTS,
    dense=[retrieval.DenseColumn(field="dense", vectors=_ROWS)],
    sparse=[retrieval.SparseColumn(field="terms", vectors=_TERMS)],
    multi_vectors=[
        retrieval.MultiVectorColumn(field="tokens", vectors=tensor_pb2.MultiVectors(tokens=_ROWS, token_counts=[1, 1]))
    ],
)
_DENSE_QUERY = retrieval.FieldQuery(field="dense", dense=to_tensor(np.ones(4, np.float32)), depth=2)
_QUERIES = [
    retrieval.FieldQuery(
        field="dense",
        dense=to_tensor(np.ones(4, np.float32)),
        depth=2,
        oversampling=2,
        feedback=[retrieval.Feedback(document_id="one", weight=0.5)],
    ),
    retrieval.FieldQuery(field="words", text="open file", depth=2),
    retrieval.FieldQuery(
        field="terms",
        depth=2,
        sparse=tensor_pb2.SparseVectors(
            indices=to_tensor(np.array([1], np.int32)), weights=to_tensor(np.ones(1, np.float32)), term_counts=[1]
        ),
    ),
    retrieval.FieldQuery(field="tokens", multi_vector=_ROWS, depth=2, among=[_DENSE_QUERY]),
]
_CREATE = retrieval.CreateCollectionRequest(name=COLLECTION, schema=_SCHEMA)
_SET_ALIAS = retrieval.SetAliasRequest(alias=retrieval.Alias(alias=ALIAS, collection=COLLECTION))

RETRIEVAL: Sequence[Message] = (
    _CREATE,
    retrieval.GetCollectionRequest(name=COLLECTION),
    retrieval.DropCollectionRequest(name="other"),
    _UPSERT,
    retrieval.DeleteDocumentsRequest(collection=COLLECTION, document_ids=["two"]),
    retrieval.DeleteDocumentsRequest(collection=COLLECTION, filter=_FILTER),
    retrieval.GetDocumentsRequest(collection=COLLECTION, document_ids=["one", "two", "none"]),
    retrieval.CountDocumentsRequest(collection=ALIAS, filter=_FILTER),
    retrieval.ListDocumentsRequest(collection=COLLECTION, filter=_FILTER, page_size=1),
    _SET_ALIAS,
    retrieval.DeleteAliasRequest(alias="other"),
    *(retrieval.RetrieveRequest(collection=COLLECTION, queries=[query], filter=_YEAR) for query in _QUERIES),
    retrieval.RetrieveRequest(
        collection=COLLECTION,
        queries=_QUERIES[:2],
        filter=_FILTER,
        fusion=retrieval.Fusion(rrf=retrieval.ReciprocalRankFusion(constant=60), depth=2),
        grouping=retrieval.Grouping(field="year", group_count=1, group_size=2),
    ),
    retrieval.RetrieveRequest(
        collection=COLLECTION,
        queries=_QUERIES[:2],
        exact=True,
        fusion=retrieval.Fusion(
            weighted_sum=retrieval.WeightedSum(weights=[1, 2], normalisation=retrieval.SCORE_NORMALISATION_MIN_MAX)
        ),
    ),
    retrieval.OptimizeCollectionRequest(name=COLLECTION),
    retrieval.CreateSnapshotRequest(name="first", keep=2),
    retrieval.DeleteSnapshotRequest(name="first"),
)


def _kserve(model: str, outputs: Sequence[str], **texts: Sequence[bytes]) -> kserve.ModelInferRequest:
    request = kserve.ModelInferRequest(model_name=model, id="7")
    for name, values in texts.items():
        contents = kserve.InferTensorContents(bytes_contents=values)
        request.inputs.add(name=name, datatype="BYTES", shape=[len(values), 1], contents=contents)
    for name in outputs:
        request.outputs.add(name=name)
    return request


def _ids(model: str) -> kserve.ModelInferRequest:
    request = kserve.ModelInferRequest(model_name=model)
    request.parameters["dimensions"].int64_param = 32
    for name, row in (("input_ids", [2, 5, 3]), ("attention_mask", [1, 1, 1])):
        request.inputs.add(name=name, datatype="INT64", shape=[1, 3])
        request.raw_input_contents.append(np.array(row, "<i8").tobytes())
    return request


def _named(model: str) -> list[Message]:
    """Return the KServe requests that name a model."""
    return [
        kserve.ModelReadyRequest(name=model),
        kserve.ModelMetadataRequest(name=model, version="1"),
        kserve.ModelConfigRequest(name=model),
        kserve.ModelStatisticsRequest(name=model),
        kserve.RepositoryIndexRequest(ready=True),
        kserve.RepositoryModelLoadRequest(model_name=model),
        kserve.RepositoryModelUnloadRequest(model_name="other"),
    ]


EMBEDDING: Sequence[Message] = (
    embedding.EmbedRequest(
        model=ENCODER,
        texts=["how to open a file", "words"],
        role=model_pb2.TEXT_ROLE_QUERY,
        representations=[embedding.REPRESENTATION_DENSE, embedding.REPRESENTATION_MULTI_VECTOR],
        truncation=model_pb2.TRUNCATION_END,
        lane=model_pb2.LANE_BULK,
        data_type=tensor_pb2.DATA_TYPE_FLOAT16,
    ),
    embedding.EmbedRequest(
        texts=["word " * 100],
        windows=model_pb2.Windows(overlap_token_count=2, aggregation=model_pb2.WINDOW_AGGREGATION_MEAN),
        dimensions=8,
    ),
    embedding.LoadModelRequest(name=ENCODER, version="1"),
    embedding.UnloadModelRequest(name="other"),
    embedding.TokenizeRequest(texts=["how to open"], add_special_tokens=True),
    embedding.DecodeRequest(sequences=[embedding.TokenIds(ids=[5, 6]), embedding.TokenIds(ids=[7])]),
    tei.EmbedRequest(inputs="how to open", truncate=True, normalize=True, dimensions=8),
    tei.EmbedSparseRequest(inputs="how to open"),
    tei.EmbedAllRequest(inputs="how to open", truncate=True),
    tei.EncodeRequest(inputs="how to open", add_special_tokens=True),
    tei.DecodeRequest(ids=[5, 6], skip_special_tokens=True),
    _kserve(ENCODER, ["dense", "multi_vector"], text=[b"how to open", b"words"]),
    _ids(ENCODER),
    *_named(ENCODER),
)

RERANKING: Sequence[Message] = (
    reranking.RerankRequest(
        model=PAIRS,
        query="how to open",
        documents=["a file", "words " * 200],
        top_k=1,
        order=reranking.ORDER_SCORE,
        truncation=model_pb2.TRUNCATION_END,
    ),
    reranking.RerankRequest(
        model=ENCODER,
        query="how to open",
        documents=["words " * 100],
        windows=model_pb2.Windows(overlap_token_count=2, aggregation=model_pb2.WINDOW_AGGREGATION_MAX),
    ),
    reranking.LoadModelRequest(name=PAIRS, version="1"),
    reranking.UnloadModelRequest(name="other"),
    tei.PredictRequest(inputs="how to open", truncate=True),
    tei.PredictPairRequest(inputs=["how to open", "a file"], raw_scores=True),
    tei.RerankRequest(query="how to open", texts=["a file", "words"], truncate=True, return_text=True),
    tei.RerankStreamRequest(query="how to open", text="a file", truncate=True),
    tei.EncodeRequest(inputs="how to open"),
    tei.DecodeRequest(ids=[5, 6]),
    _kserve(PAIRS, ["score"], query=[b"how to open"], passage=[b"a file", b"words"]),
    *_named(PAIRS),
)

_INDEX = search.IndexRequest(collection=SEARCHED, create_collection=True, documents=_DOCUMENTS)

SEARCH: Sequence[Message] = (
    search.SearchRequest(collection=SEARCHED, query="open file", pipeline="fast", top_k=2, more_queries=["close"]),
    search.SearchRequest(collection=SEARCHED, query="open file", top_k=2, filter=_FILTER),
    search.SearchRequest(collection=SEARCHED, query="open file", pipeline="hybrid", group_by_parent=True),
    _INDEX,
    search.IndexRequest(
        collection="other",
        create_collection=True,
        documents=_DOCUMENTS,
        filterable_fields=[search.FilterableField(name="year", type="number")],
        chunking=search.Chunking(token_count=16, overlap_token_count=2),
    ),
    search.DeleteRequest(collection=SEARCHED, document_ids=["two"]),
    search.DeleteRequest(collection=SEARCHED, filter=_FILTER),
)

# What is sent from time to time, since some of the requests take away what the others need.
RESTORING: Mapping[str, Sequence[tuple[str, Message]]] = {
    "embedding": [("/sluice.embedding.v1.EmbeddingService/LoadModel", EMBEDDING[2])],
    "reranking": [
        ("/sluice.reranking.v1.RerankingService/LoadModel", reranking.LoadModelRequest(name=name, version="1"))
        for name in (PAIRS, ENCODER)
    ],
    "retrieval": [
        ("/sluice.retrieval.v1.RetrievalService/DropCollection", retrieval.DropCollectionRequest(name=COLLECTION)),
        ("/sluice.retrieval.v1.RetrievalService/CreateCollection", _CREATE),
        ("/sluice.retrieval.v1.RetrievalService/Upsert", _UPSERT),
        ("/sluice.retrieval.v1.RetrievalService/SetAlias", _SET_ALIAS),
    ],
    "orchestrator": [("/sluice.search.v1.SearchService/Index", _INDEX)],
}
EXAMPLES: Mapping[str, Sequence[Message]] = {
    "embedding": EMBEDDING,
    "reranking": RERANKING,
    "retrieval": RETRIEVAL,
    "orchestrator": SEARCH,
}


def examples_of(server: str) -> dict[str, list[bytes]]:
    """Return the requests of a server, serialized, by the full name of their message."""
    found: dict[str, list[bytes]] = {}
    for message in EXAMPLES[server]:
        found.setdefault(message.DESCRIPTOR.full_name, []).append(message.SerializeToString())
    return found
