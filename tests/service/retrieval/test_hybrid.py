"""Text, sparse and multi-vector fields through the API: valid calls and every rejection."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sluice.common.v1 import tensor_pb2 as tns
from sluice.common.v1.model_pb2 import Windows
from sluice.errors import InvalidRequest
from sluice.retrieval.v1 import retrieval_service_pb2 as pb

from services.rpc.tensor import to_tensor
from tests.support.retrieval import Stub, document, error_of, query, retrieval_stub

DIMENSIONS = 3


def new_collection() -> pb.CreateCollectionRequest:
    return pb.CreateCollectionRequest(
        name="books",
        schema=pb.Schema(
            dense_fields=[pb.DenseField(name="dense", dimensions=2)],
            text_fields=[pb.TextField(name="words")],
            sparse_fields=[pb.SparseField(name="terms", model_digest="s1")],
            multi_vector_fields=[pb.MultiVectorField(name="tokens", dimensions=DIMENSIONS)],
        ),
    )


def ints(*values: int) -> tns.Tensor:
    return to_tensor(np.array(values, dtype=np.int32))


def floats(*values: float) -> tns.Tensor:
    return to_tensor(np.array(values, dtype=np.float32))


def sparse(counts: list[int], indices: list[int], weights: list[float]) -> tns.SparseVectors:
    return tns.SparseVectors(indices=ints(*indices), weights=floats(*weights), term_counts=counts)


def multi(counts: list[int], rows: int | None = None, dtype: Any = np.float16) -> tns.MultiVectors:
    """Token i of all documents is the unit vector of axis i modulo 3."""
    vectors = np.eye(DIMENSIONS, dtype=dtype)[np.arange(sum(counts) if rows is None else rows) % DIMENSIONS]
    return tns.MultiVectors(tokens=to_tensor(vectors), token_counts=counts)


def upsert(**changes: Any) -> pb.UpsertRequest:
    """Two documents, `a` and `b`; `changes` replace the vectors of a column, or a whole field of the request."""
    terms = changes.pop("terms", sparse([2, 1], [3, 7, 3], [1.0, 2.0, 5.0]))
    tokens = changes.pop("tokens", multi([2, 1]))
    whole = {
        "collection": "books",
        "documents": [document("a", "cancelling tasks"), document("b", "locks")],
        "dense": [pb.DenseColumn(field="dense", vectors=to_tensor(np.eye(2, dtype=np.float32)))],
        "sparse": [pb.SparseColumn(field="terms", vectors=terms, model_digest="s1")],
        "multi_vectors": [pb.MultiVectorColumn(field="tokens", vectors=tokens)],
    }
    return pb.UpsertRequest(**(whole | changes))


def ask(**given: Any) -> pb.FieldQuery:
    return pb.FieldQuery(**({"depth": 10} | given))


TOKENS = to_tensor(np.array([[1, 0, 0], [0, 1, 0]], dtype=np.float32))


async def test_one_call_searches_every_kind_of_field(tmp_path: Path) -> None:
    async def check(stub: Stub) -> pb.RetrieveResponse:
        created = await stub.CreateCollection(new_collection())
        assert created.collection.schema.text_fields[0] == pb.TextField(
            name="words", language="english", k1=1.5, b=0.75
        )
        await stub.Upsert(upsert())
        return await look(stub)

    async def look(stub: Stub) -> pb.RetrieveResponse:
        queries = [
            query([1, 1]),
            ask(text="a cancelled task"),
            ask(sparse=sparse([2], [3, 9], [2.0, 1.0]), model_digest="s1"),
            ask(multi_vector=TOKENS),
            ask(field="tokens", multi_vector=to_tensor(np.array([[0, 1, 0]], dtype=np.float16)), depth=1),
            ask(text="nowhere"),
        ]
        return await stub.Retrieve(pb.RetrieveRequest(collection="books", queries=queries))

    async with retrieval_stub(tmp_path) as stub:
        found = await check(stub)
    assert [list(ranking.document_ids) for ranking in found.rankings] == [
        ["a", "b"],
        ["a"],
        ["b", "a"],
        ["a", "b"],
        ["a"],
        [],
    ]
    assert list(found.rankings[2].scores) == [10.0, 2.0]
    assert list(found.rankings[3].scores) == [2.0, 0.0]
    assert [one.document_id for one in found.documents] == ["a", "b"]
    async with retrieval_stub(tmp_path) as stub:
        assert await look(stub) == found


async def test_a_cascade_scores_only_candidates_of_its_earlier_queries(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path) as stub:
        await stub.CreateCollection(new_collection())
        await stub.Upsert(upsert())
        only_b = query([0, 1], depth=1)
        both = [only_b, ask(text="cancel")]
        for among, expected in (([only_b], ["b"]), (both, ["a", "b"]), ([ask(text="nowhere")], [])):
            staged = ask(multi_vector=TOKENS, among=among)
            found = await stub.Retrieve(pb.RetrieveRequest(collection="books", queries=[staged]))
            assert list(found.rankings[0].document_ids) == expected


def field(kind: str, message: Any) -> pb.CreateCollectionRequest:
    fields: dict[str, Any] = {kind: [message]}
    return pb.CreateCollectionRequest(name="x", schema=pb.Schema(**fields))


def windowed(overlap: int, aggregation: Any = 0) -> pb.CreateCollectionRequest:
    request = field("text_fields", pb.TextField(name="t"))
    request.schema.windows.CopyFrom(Windows(overlap_token_count=overlap, aggregation=aggregation))
    return request


BAD_CREATES = [
    (field("text_fields", pb.TextField(name="")), ["schema.text_fields[0].name"]),
    (field("text_fields", pb.TextField(name="t", language="klingon")), ["schema.text_fields[0].language"]),
    (
        field("text_fields", pb.TextField(name="t", k1=-1, b=1.5)),
        ["schema.text_fields[0].k1", "schema.text_fields[0].b"],
    ),
    (field("text_fields", pb.TextField(name="t", k1=math.nan)), ["schema.text_fields[0].k1"]),
    (
        field("sparse_fields", pb.SparseField(name="s", model_digest="x" * 129)),
        ["schema.sparse_fields[0].model_digest"],
    ),
    (field("multi_vector_fields", pb.MultiVectorField(name="m")), ["schema.multi_vector_fields[0].dimensions"]),
    (
        field("multi_vector_fields", pb.MultiVectorField(name="m", dimensions=1025)),
        ["schema.multi_vector_fields[0].dimensions"],
    ),
    (windowed(-1), ["schema.windows.overlap_token_count"]),
    (windowed(65_537, 7), ["schema.windows.overlap_token_count", "schema.windows.aggregation"]),
]

BAD_UPSERTS: list[tuple[dict[str, Any], list[str]]] = [
    ({"sparse": []}, ["sparse"]),
    ({"multi_vectors": []}, ["multi_vectors"]),
    ({"sparse": [pb.SparseColumn(field="words")]}, ["sparse[0].field", "sparse"]),
    ({"terms": sparse([1], [3], [1.0])}, ["sparse[0].vectors.term_counts"]),
    ({"terms": sparse([-1, 2], [3], [1.0])}, ["sparse[0].vectors.term_counts[0]"]),
    ({"terms": sparse([65_537, 0], [3], [1.0])}, ["sparse[0].vectors.term_counts[0]"]),
    ({"terms": sparse([1, 1], [3], [1.0, 2.0])}, ["sparse[0].vectors.indices"]),
    ({"terms": sparse([1, 1], [3, 4], [1.0])}, ["sparse[0].vectors.weights"]),
    ({"terms": sparse([2, 0], [4, 3], [1.0, 1.0])}, ["sparse[0].vectors.indices"]),
    ({"terms": sparse([2, 0], [3, 3], [1.0, 1.0])}, ["sparse[0].vectors.indices"]),
    ({"terms": sparse([1, 1], [-3, 3], [1.0, 1.0])}, ["sparse[0].vectors.indices"]),
    ({"terms": sparse([1, 1], [3, 3], [1.0, 0.0])}, ["sparse[0].vectors.weights"]),
    ({"terms": sparse([1, 1], [3, 3], [1.0, math.nan])}, ["sparse[0].vectors.weights"]),
    ({"terms": sparse([1, 1], [3, 3], [1.0, 1e20])}, ["sparse[0].vectors.weights"]),
    ({"tokens": multi([1])}, ["multi_vectors[0].vectors.token_counts"]),
    ({"tokens": multi([8193, 0], rows=1)}, ["multi_vectors[0].vectors.token_counts[0]"]),
    ({"tokens": multi([1, 1], rows=3)}, ["multi_vectors[0].vectors.tokens"]),
    ({"tokens": tns.MultiVectors(tokens=ints(1, 2, 3), token_counts=[1, 0])}, ["multi_vectors[0].vectors.tokens"]),
    (
        {"tokens": tns.MultiVectors(tokens=to_tensor(np.full((1, 3), 1e6, dtype=np.float32)), token_counts=[1, 0])},
        ["multi_vectors[0].vectors.tokens"],
    ),
    (
        {
            "tokens": tns.MultiVectors(
                tokens=to_tensor(np.full((1, 3), math.inf, dtype=np.float16)), token_counts=[1, 0]
            )
        },
        ["multi_vectors[0].vectors.tokens"],
    ),
]

BAD_QUERIES = [
    (ask(), "queries[0].field"),
    (ask(text=" "), "queries[0].text"),
    (ask(text="x" * 8193), "queries[0].text"),
    (ask(field="words"), "queries[0].text"),
    (ask(text="x", among=[ask(text="x")] * 9), "queries[0].among"),
    (ask(text="x", among=[ask(text="x", depth=0)]), "queries[0].among[0].depth"),
    (ask(text="x", among=[ask(text="x", among=[ask(text="x")])]), "queries[0].among[0].among"),
    (ask(field="words", text="x", dense=floats(1, 0)), "queries[0].dense"),
    (ask(text="x", depth=0), "queries[0].depth"),
    (ask(sparse=sparse([1, 1], [1, 2], [1, 1])), "queries[0].sparse.term_counts"),
    (ask(sparse=sparse([], [], [])), "queries[0].sparse.term_counts"),
    (ask(sparse=sparse([1], [-1], [1])), "queries[0].sparse.indices"),
    (ask(field="tokens"), "queries[0].multi_vector"),
    (ask(multi_vector=floats(1, 2)), "queries[0].multi_vector"),
    (ask(multi_vector=to_tensor(np.ones((1025, 3), dtype=np.float32))), "queries[0].multi_vector"),
    (ask(multi_vector=to_tensor(np.ones((1, 4), dtype=np.float32))), "queries[0].multi_vector"),
    (ask(multi_vector=tns.Tensor(data_type=tns.DATA_TYPE_FLOAT32, shape=[-5, 3])), "queries[0].multi_vector"),
]


async def fields_of(call: Any) -> list[str]:
    error = await error_of(call)
    assert isinstance(error, InvalidRequest), error
    assert all(" got " in violation.description for violation in error.violations)
    return [violation.field for violation in error.violations]


async def test_invalid_fields_columns_and_queries_are_rejected(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path) as stub:
        for create, fields in BAD_CREATES:
            assert await fields_of(stub.CreateCollection(create)) == fields
        await stub.CreateCollection(new_collection())
        for changes, fields in BAD_UPSERTS:
            assert await fields_of(stub.Upsert(upsert(**changes))) == fields, changes
        for bad, name in BAD_QUERIES:
            call = stub.Retrieve(pb.RetrieveRequest(collection="books", queries=[bad]))
            assert name in await fields_of(call), bad
        assert (await stub.CountDocuments(pb.CountDocumentsRequest(collection="books"))).document_count == 0


@pytest.mark.parametrize("digest", ["", "s2"])
async def test_terms_of_another_model_are_rejected(tmp_path: Path, digest: str) -> None:
    async with retrieval_stub(tmp_path) as stub:
        await stub.CreateCollection(new_collection())
        request = upsert()
        request.sparse[0].model_digest = digest
        assert (await error_of(stub.Upsert(request))).reason_name == "MODEL_MISMATCH"
        wrong = pb.RetrieveRequest(
            collection="books", queries=[ask(sparse=sparse([1], [1], [1]), model_digest=digest or "s3")]
        )
        assert (await error_of(stub.Retrieve(wrong))).reason_name == "MODEL_MISMATCH"
