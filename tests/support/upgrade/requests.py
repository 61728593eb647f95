"""Requests whose answers are recorded: valid ones of every method that reads, and invalid ones for its errors."""

from collections.abc import Iterator
from typing import Any, Final

from google.protobuf.message import Message
from sluice.client import float32_tensor
from sluice.client.filters import filter_proto
from sluice.common.v1 import filter_pb2, model_pb2, tensor_pb2
from sluice.embedding.v1 import embedding_service_pb2 as embedding
from sluice.reranking.v1 import reranking_service_pb2 as reranking
from sluice.retrieval.v1 import retrieval_service_pb2 as retrieval
from sluice.search.v1 import search_service_pb2 as search

from tests.support.upgrade import contents
from tests.support.upgrade.recorded import GATEWAY, Call, rpc

FILTERS: Final = (
    "author == 'Ada'",
    "author != 'Ada'",
    "author > 'B'",
    "author in ('Bo', 'Çelik')",
    "year >= 1995 and year < 2000",
    "year == 1991.25 or printed == true",
    "not (printed == true)",
    "added < timestamp('2020-01-05T00:00:00Z')",
    "'river' in tags",
    "exists(year)",
    "undeclared == 'x'",
    "year == 'x'",
)
TEXTS: Final = ("copper violin", "the garden in winter", "signal")
NAMES: Final = ("live", "books", "notes", "missing")


def retrieval_calls() -> Iterator[Call]:
    """Yield requests to retrieval: descriptions, documents, counts by each filter, and queries of each field."""
    for request in _reads():
        yield rpc("retrieval", type(request).__name__.removesuffix("Request"), request)
    for query in _queries():
        for exact in (False, True):
            request = retrieval.RetrieveRequest(
                collection="live", queries=[query], exact=exact, view=retrieval.DOCUMENT_VIEW_ID
            )
            yield rpc("retrieval", "Retrieve", request)
    for request in _combined():
        yield rpc("retrieval", "Retrieve", request)


def _reads() -> Iterator[Message]:
    yield retrieval.ListCollectionsRequest()
    yield retrieval.ListAliasesRequest()
    for name in NAMES:
        yield retrieval.GetCollectionRequest(name=name)
        yield retrieval.CountDocumentsRequest(collection=name)
        yield retrieval.ListDocumentsRequest(collection=name, page_size=3, view=retrieval.DOCUMENT_VIEW_ID)
    yield retrieval.GetDocumentsRequest(collection="live", document_ids=["d001", "d005", "d000", "nothing", "d064"])
    yield retrieval.GetDocumentsRequest(collection="live")
    yield retrieval.ListDocumentsRequest(collection="live", page_size=-1)
    for text in FILTERS:
        yield retrieval.CountDocumentsRequest(collection="live", filter=filter_proto(text))
        yield retrieval.ListDocumentsRequest(
            collection="notes", filter=filter_proto(text), page_size=100, view=retrieval.DOCUMENT_VIEW_ID
        )
    yield retrieval.CountDocumentsRequest(collection="live", filter=filter_pb2.Filter())


def _queries() -> Iterator[retrieval.FieldQuery]:
    """Yield queries of each field of the first collection, and some that are rejected."""
    for field in ("int8", "fp32", "fp16", "bits"):
        yield _dense(field)
        yield _dense(field, oversampling=1)
    yield _dense("int8", feedback=[retrieval.Feedback(document_id="d010", weight=0.5)])
    yield _dense("bits", model_digest="another")
    yield _dense("missing")
    yield retrieval.FieldQuery(field="int8", depth=5, dense=_tensor(contents.vector("q")[:4]))
    yield retrieval.FieldQuery(depth=0)
    for text in TEXTS:
        yield retrieval.FieldQuery(field="text", text=text, depth=10)
        yield retrieval.FieldQuery(field="plain", text=text, depth=10)
    yield retrieval.FieldQuery(field="sparse", sparse=contents.sparse(["query"]), depth=10)
    yield _tokens(depth=10)
    yield _tokens(depth=10, oversampling=2)
    yield _tokens(depth=5, among=[_dense("int8", depth=15), retrieval.FieldQuery(field="text", text="river", depth=15)])


def _combined() -> Iterator[retrieval.RetrieveRequest]:
    """Yield requests with fusion, grouping and filters."""
    queries = [_dense("int8"), retrieval.FieldQuery(field="text", text="river bridge", depth=20), _tokens(depth=20)]
    fusions = (
        retrieval.Fusion(rrf=retrieval.ReciprocalRankFusion(), depth=10),
        retrieval.Fusion(
            weighted_sum=retrieval.WeightedSum(
                weights=[1, 0.5, 2], normalisation=retrieval.SCORE_NORMALISATION_Z_SCORE
            ),
            depth=10,
        ),
        retrieval.Fusion(weighted_sum=retrieval.WeightedSum(weights=[1, 0.5, 2])),
        retrieval.Fusion(weighted_sum=retrieval.WeightedSum(weights=[1])),
    )
    for fusion in fusions:
        yield retrieval.RetrieveRequest(collection="books", queries=queries, fusion=fusion)
    for field in ("author", "year", "tags"):
        grouping = retrieval.Grouping(field=field, group_count=3, group_size=2)
        yield retrieval.RetrieveRequest(collection="books", queries=queries[:1], grouping=grouping)
        yield retrieval.RetrieveRequest(collection="books", queries=queries, fusion=fusions[0], grouping=grouping)
    for text in FILTERS[:10]:
        yield retrieval.RetrieveRequest(collection="live", queries=queries, filter=filter_proto(text))
    notes = [
        retrieval.FieldQuery(text="der Garten river", depth=9),
        retrieval.FieldQuery(multi_vector=_tensor(contents.tokens("q", 3)), depth=9, model_digest="m3"),
    ]
    yield retrieval.RetrieveRequest(collection="notes", queries=notes)


def _dense(field: str, depth: int = 10, **others: Any) -> retrieval.FieldQuery:
    return retrieval.FieldQuery(field=field, dense=_tensor(contents.vector("query")), depth=depth, **others)


def _tokens(depth: int, **others: Any) -> retrieval.FieldQuery:
    return retrieval.FieldQuery(
        field="tokens", multi_vector=_tensor(contents.tokens("query", 3)), depth=depth, **others
    )


def _tensor(array: Any) -> tensor_pb2.Tensor:
    return float32_tensor(array, axes=array.ndim, field="query")


def system_calls() -> Iterator[Call]:
    """Yield requests to all services and to the gateway."""
    yield from _model_calls()
    yield from _search_calls()
    yield from gateway_calls()


def _model_calls() -> Iterator[Call]:
    yield rpc("embedding", "ListModels", embedding.ListModelsRequest())
    kinds = (embedding.REPRESENTATION_DENSE, embedding.REPRESENTATION_MULTI_VECTOR)
    for model, representations in (("tiny", kinds), ("tiny-sparse", (embedding.REPRESENTATION_SPARSE,)), ("no", kinds)):
        request = embedding.EmbedRequest(
            model=model, texts=TEXTS, representations=representations, role=model_pb2.TEXT_ROLE_QUERY
        )
        yield rpc("embedding", "Embed", request)
    yield rpc("embedding", "Embed", embedding.EmbedRequest(model="tiny", texts=["", "a"] * 40))
    yield rpc("embedding", "Tokenize", embedding.TokenizeRequest(model="tiny", texts=TEXTS, add_special_tokens=True))
    sequences = [embedding.TokenIds(ids=[5, 6, 7])]
    yield rpc("embedding", "Decode", embedding.DecodeRequest(model="tiny", sequences=sequences))
    yield rpc("embedding", "LoadModel", embedding.LoadModelRequest(name="tiny", version="1"))
    yield rpc("reranking", "ListModels", reranking.ListModelsRequest())
    for model in ("tiny", "tiny-pairs", "", "no"):
        reranked = reranking.RerankRequest(model=model, query="copper violin", documents=TEXTS, top_k=2)
        yield rpc("reranking", "Rerank", reranked)
    yield rpc("reranking", "Rerank", reranking.RerankRequest(model="tiny", query="", documents=[]))


def _search_calls() -> Iterator[Call]:
    """Yield searches by each pipeline and each token, and requests that are rejected."""
    admin = contents.SECRETS["admin"]
    yield rpc("orchestrator", "ListPipelines", search.ListPipelinesRequest(), admin)
    for pipeline in ("", "whole", "ranks", "vectors", "cut", "unserved", "missing"):
        for query in TEXTS:
            request = search.SearchRequest(collection="guide", query=query, pipeline=pipeline, top_k=5)
            yield rpc("orchestrator", "Search", request, admin)
    others = (
        search.SearchRequest(collection="guide", query="river", more_queries=["bridge", "harbor"]),
        search.SearchRequest(collection="guide", query="river", filter=filter_proto("year > 1992")),
        search.SearchRequest(collection="chunks", query="river", pipeline="ranks", group_by_parent=True),
        search.SearchRequest(collection="chunks", query="river", pipeline="vectors"),
        search.SearchRequest(collection="books", query="river", pipeline="cut"),
        search.SearchRequest(collection="missing", query="river"),
        search.SearchRequest(collection="guide", query=" ", top_k=1001),
        search.SearchRequest(collection="guide", query="x" * 5000),
        search.SearchRequest(),
    )
    for request in others:
        yield rpc("orchestrator", "Search", request, admin)
    allowed = search.SearchRequest(collection="guide", query="river", pipeline="vectors")
    for token in ("", "unknown", *contents.SECRETS.values(), contents.SECRETS["slow"]):
        yield rpc("orchestrator", "Search", allowed, token)
    forbidden = search.SearchRequest(collection="books", query="river", pipeline="cut")
    yield rpc("orchestrator", "Search", forbidden, contents.SECRETS["reader"])
    delete = search.DeleteRequest(collection="guide", document_ids=["nothing"])
    for name in ("reader", "writer"):
        yield rpc("orchestrator", "Delete", delete, contents.SECRETS[name])
    too_many = search.SearchRequest(collection="guide", query="river", more_queries=["a", "b", "c", "d", "e", "f"])
    yield rpc("orchestrator", "Search", too_many, contents.SECRETS["writer"])


def gateway_calls() -> Iterator[Call]:
    """Yield a request to each route that reads, and some that are rejected."""
    gets = (
        "/health", "/health/live", "/pipelines", "/collections", "/collections/guide", "/collections/missing",
        "/documents/d001?collection=guide", "/documents/nothing?collection=guide", "/v1/models", "/nothing",
    )  # fmt: skip
    posts: dict[str, list[dict[str, Any]]] = {
        "/search": [
            {"query": "river", "collection": "guide", "pipeline": "ranks", "top_k": 3, "filter": "year > 1992"},
            {"query": "river", "collection": "guide", "more_queries": ["bridge"]},
            {"query": "river", "collection": "missing"},
            {"query": "river", "colection": "guide"},
            {"query": "river", "collection": "guide", "filter": "year >"},
        ],
        "/v1/embeddings": [
            {"model": "tiny", "input": list(TEXTS)},
            {"model": "no", "input": "river"},
            {"input": []},
        ],
        "/v2/embed": [
            {"model": "tiny", "texts": list(TEXTS), "input_type": "search_query", "embedding_types": ["float"]},
            {"model": "tiny", "texts": ["river"]},
        ],
        "/v2/rerank": [
            {"model": "tiny-pairs", "query": "river", "documents": list(TEXTS), "top_n": 2},
            {"model": "no", "query": "river", "documents": []},
        ],
        "/v1/rerank": [
            {"model": "tiny", "query": "river", "documents": list(TEXTS), "return_documents": True},
            {"query": "river"},
        ],
        "/embed": [{"inputs": list(TEXTS)}, {"inputs": []}],
        "/embed_sparse": [{"inputs": "river"}],
        "/embed_all": [{"inputs": "river"}],
        "/rerank": [{"query": "river", "texts": list(TEXTS), "raw_scores": True}, {"query": "river", "texts": []}],
        "/tokenize": [{"inputs": "copper river"}],
        "/decode": [{"ids": [5, 6, 7]}],
    }
    admin = contents.SECRETS["admin"]
    yield from (Call(GATEWAY, f"GET {path}", token=admin) for path in gets)
    yield from (Call(GATEWAY, f"POST {path}", body, admin) for path, bodies in posts.items() for body in bodies)
    yield Call(GATEWAY, "GET /pipelines")
    yield Call(GATEWAY, "GET /collections", token=contents.SECRETS["reader"])
    yield Call(GATEWAY, "DELETE /documents?collection=guide&id=d001", token=contents.SECRETS["reader"])
