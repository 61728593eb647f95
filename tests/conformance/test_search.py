"""Searches: dense, sparse and text fields compared with numpy, pages, and several queries in one call."""

from typing import Any

import numpy as np
import pytest
from sluice.common.v1 import filter_pb2 as pb_filter
from sluice.common.v1 import tensor_pb2 as tns
from sluice.errors import InvalidRequest
from sluice.retrieval.v1 import retrieval_service_pb2 as pb

from services.core.bm25 import idf, saturation
from services.core.similarity import cosine, dot, l2
from services.retrieval.domain.analysis import analyzer
from services.rpc.tensor import to_tensor
from tests.conformance.engines import SHARED, Place, empty, new_name
from tests.support.retrieval import Stub, document, error_of, new_collection, query, upsert, value

SIMILARITIES = {pb.METRIC_COSINE: cosine, pb.METRIC_DOT: dot, pb.METRIC_L2: l2}
DIMENSIONS = 16
COUNT = 300
EVEN = pb_filter.Filter(
    comparison=pb_filter.Comparison(field="printed", operator=pb_filter.Comparison.OPERATOR_EQUAL, value=value(True))
)


@pytest.mark.parametrize("metric", SIMILARITIES)
async def test_dense_rankings_are_those_of_numpy(place: Place, metric: pb.Metric.ValueType) -> None:
    rng = np.random.default_rng(5)
    vectors = rng.standard_normal((COUNT, DIMENSIONS)).astype(np.float32)
    create = new_collection(new_name(), metric)
    create.schema.dense_fields[0].dimensions = DIMENSIONS
    ids = [f"{number:03}" for number in range(COUNT)]

    async def ask(stub: Stub, vector: Any, depth: int, condition: pb_filter.Filter | None) -> pb.Ranking:
        request = pb.RetrieveRequest(collection=create.name, queries=[query(vector, depth=depth)], filter=condition)
        request.view = pb.DOCUMENT_VIEW_ID
        return (await stub.Retrieve(request)).rankings[0]

    async with place.stub() as stub:
        await stub.CreateCollection(create)
        for start in range(0, COUNT, 100):
            given = [document(ids[i], printed=i % 2 == 0) for i in range(start, start + 100)]
            await stub.Upsert(upsert(given, vectors[start : start + 100], collection=create.name))
        for vector in rng.standard_normal((5, DIMENSIONS)).astype(np.float32):
            for depth, condition in ((10, None), (1000, None), (7, EVEN)):
                ranking = await ask(stub, vector, depth, condition)
                kept = [i for i in range(COUNT) if condition is None or i % 2 == 0]
                scores = SIMILARITIES[metric](vector, vectors[kept])
                order = np.argsort(-scores, kind="stable")[:depth]
                assert list(ranking.document_ids) == [ids[kept[place]] for place in order]
                np.testing.assert_allclose(ranking.scores, scores[order], rtol=1e-5, atol=1e-5)
                assert ranking.coverage == 1


async def test_an_exact_search_is_exact_or_rejected(place: Place) -> None:
    name = SHARED

    async with place.stub() as stub:
        await empty(stub)
        await stub.Upsert(upsert([document("a"), document("b")], np.eye(4)[:2], collection=name))
        request = pb.RetrieveRequest(collection=name, queries=[query([0.5, 1, 0, 0])], exact=True)
        if place.can.exact_by_default:
            assert list((await stub.Retrieve(request)).rankings[0].document_ids) == ["b", "a"]
            return
        refused = await error_of(stub.Retrieve(request))
        assert isinstance(refused, InvalidRequest)
        assert [violation.field for violation in refused.violations] == ["exact"]


async def test_exact_in_a_flat_collection_of_milvus(milvus_place: Place) -> None:
    name = new_name()

    async with milvus_place.stub(milvus_index="FLAT") as stub:
        await stub.CreateCollection(new_collection(name))
        await stub.Upsert(upsert([document("a"), document("b")], np.eye(4)[:2], collection=name))
    # The collection keeps its index; the setting is for new ones.
    async with milvus_place.stub() as stub:
        request = pb.RetrieveRequest(collection=name, queries=[query([0.5, 1, 0, 0])], exact=True)
        assert list((await stub.Retrieve(request)).rankings[0].document_ids) == ["b", "a"]


async def test_equal_scores_are_ordered_by_id(place: Place) -> None:
    name = SHARED

    async with place.stub() as stub:
        await empty(stub)
        ids = ["m", "z", "c", "b", "y", "a", "x"]
        await stub.Upsert(upsert([document(id_) for id_ in ids], np.ones((7, 4)), collection=name))
        for depth in (10, 4):
            asked = pb.RetrieveRequest(collection=name, queries=[query([1, 2, 3, 4], depth=depth)])
            found = list((await stub.Retrieve(asked)).rankings[0].document_ids)
            assert found == sorted(found)
            assert len(found) == min(7, depth)
            if depth == 10 or place.can.ties_by_id:
                assert found == sorted(ids)[:depth]


async def test_pages_list_each_document_once_by_id_while_others_write(place: Place) -> None:
    name = SHARED

    async with place.stub() as stub:
        await empty(stub)
        ids = [f"{prefix}{number}" for prefix in ("b", "é", "Z", "😀", "a") for number in range(9)]
        for start in range(0, len(ids), 9):
            given = [document(id_, printed=id_[-1] in "02468") for id_ in ids[start : start + 9]]
            await stub.Upsert(upsert(given, np.ones((9, 4)), collection=name))
        for condition in (None, EVEN):
            wanted = [id_ for id_ in ids if condition is None or id_[-1] in "02468"]
            listed: list[str] = []
            request = pb.ListDocumentsRequest(collection=name, filter=condition, page_size=7)
            while True:
                page = await stub.ListDocuments(request)
                listed.extend(one.document_id for one in page.documents)
                if not page.next_page_token:
                    break
                request.page_token = page.next_page_token
                # Behind the cursor, and again in front of it.
                await stub.Upsert(upsert([document("Z0", printed=True)], np.ones((1, 4)), collection=name))
                last = document(listed[-1], printed=listed[-1][-1] in "02468")
                await stub.Upsert(upsert([last], np.ones((1, 4)), collection=name))
            assert listed == sorted(wanted, key=str.encode)


async def test_no_documents_are_found_in_an_empty_collection(place: Place) -> None:
    name = SHARED

    async with place.stub() as stub:
        await empty(stub)
        found = await stub.Retrieve(pb.RetrieveRequest(collection=name, queries=[query([1, 0, 0, 0])]))
        assert (list(found.rankings), list(found.documents)) == ([pb.Ranking(coverage=1)], [])
        assert await stub.ListDocuments(pb.ListDocumentsRequest(collection=name)) == pb.ListDocumentsResponse()
        assert (await stub.CountDocuments(pb.CountDocumentsRequest(collection=name))).document_count == 0


def terms(*documents: dict[int, float]) -> tns.SparseVectors:
    return tns.SparseVectors(
        indices=to_tensor(np.array([key for one in documents for key in sorted(one)], dtype=np.int32)),
        weights=to_tensor(np.array([one[key] for one in documents for key in sorted(one)], dtype=np.float32)),
        term_counts=[len(one) for one in documents],
    )


async def test_sparse_scores_are_inner_products(place: Place) -> None:
    rng = np.random.default_rng(9)
    name = new_name()
    given = [
        {int(key): float(rng.random()) + 0.01 for key in rng.choice(50, size=int(rng.integers(1, 12)), replace=False)}
        for _ in range(60)
    ]
    asked = {int(key): float(rng.random()) for key in rng.choice(50, size=6, replace=False)}
    truth = {f"{i:02}": sum(asked[key] * one[key] for key in asked if key in one) for i, one in enumerate(given)}
    expected = sorted(((-score, id_) for id_, score in truth.items() if score), key=lambda item: item)[:20]

    async def check(stub: Stub) -> None:
        schema = pb.Schema(sparse_fields=[pb.SparseField(name="terms")])
        await stub.CreateCollection(pb.CreateCollectionRequest(name=name, schema=schema))
        column = pb.SparseColumn(field="terms", vectors=terms(*given))
        documents = [document(f"{i:02}") for i in range(60)]
        await stub.Upsert(pb.UpsertRequest(collection=name, documents=documents, sparse=[column]))
        ranking = await _asked(stub, name, pb.FieldQuery(sparse=terms(asked), depth=20))
        assert list(ranking.document_ids) == [id_ for _, id_ in expected]
        np.testing.assert_allclose(ranking.scores, [-score for score, _ in expected], rtol=1e-5)
        assert not (await _asked(stub, name, pb.FieldQuery(sparse=terms({99: 1.0}), depth=20))).document_ids
        assert not (await _asked(stub, name, pb.FieldQuery(sparse=terms({}), depth=20))).document_ids
        await _check_limits(place, stub, name)

    async with place.stub() as stub:
        if place.can.sparse:
            await check(stub)
        else:
            await _is_refused(pb.Schema(sparse_fields=[pb.SparseField(name="s")]), stub)


async def _check_limits(place: Place, stub: Stub, name: str) -> None:
    column = pb.SparseColumn(field="terms", vectors=terms({}))
    without = pb.UpsertRequest(collection=name, documents=[document("none")], sparse=[column])
    if place.can.documents_without_terms:
        await stub.Upsert(without)
    else:
        refused = await error_of(stub.Upsert(without))
        assert isinstance(refused, InvalidRequest)
        assert refused.violations[0].field == "sparse"
    negative = _retrieve(name, pb.FieldQuery(sparse=terms({1: -1.0}), depth=1))
    if place.can.negative_weights:
        await stub.Retrieve(negative)
    else:
        assert isinstance(await error_of(stub.Retrieve(negative)), InvalidRequest)


TEXTS = [
    "The cat sat on the mat",
    "Cats and dogs, dogs and cats",
    "A dog barks at night",
    "Nothing of the kind",
    "cat cat cat cat",
    "snake_case and camelCase, don't they?",
    "Ünïcode wörter, naïve",
    "The nights are long, the cat is out at night, and long is the tale that the cat tells",
]


@pytest.mark.parametrize("parameters", [(1.5, 0.75), (1.2, 0.6)])
async def test_text_scores_are_those_of_bm25_in_lucene(place: Place, parameters: tuple[float, float]) -> None:
    """The same terms, ranking and scores with Milvus, whose own BM25 has one more factor."""
    k1, b = parameters
    name = new_name()
    words = analyzer("english", keeps_stop_words=False)

    def truth(text: str) -> list[tuple[float, str]]:
        keys = [words.keys(f"title of {i}\n{one}").tolist() for i, one in enumerate(TEXTS)]
        lengths = np.array([len(one) for one in keys], dtype=np.float32)
        scores = np.zeros(len(TEXTS))
        for key in words.keys(text).tolist():
            counts = np.array([one.count(key) for one in keys], dtype=np.float32)
            weight = idf(len(TEXTS), int(np.count_nonzero(counts)))
            scores += weight * saturation(counts, lengths, float(lengths.mean()), k1=k1, b=b)
        return sorted((-float(score), str(i)) for i, score in enumerate(scores) if score)

    async def check(stub: Stub) -> None:
        schema = pb.Schema(text_fields=[pb.TextField(name="words", k1=k1, b=b)])
        await stub.CreateCollection(pb.CreateCollectionRequest(name=name, schema=schema))
        documents = [document(str(i), text) for i, text in enumerate(TEXTS)]
        await stub.Upsert(pb.UpsertRequest(collection=name, documents=documents))
        are_equal = []
        for asked in ("cats", "dog at night", "long long tales", "snake_case", "naïve wörter", "don't"):
            ranking = await _asked(stub, name, pb.FieldQuery(text=asked, depth=10))
            expected = truth(asked)
            assert list(ranking.document_ids) == [id_ for _, id_ in expected], asked
            are_equal.append(np.allclose(ranking.scores, [-score for score, _ in expected], rtol=1e-4))
        assert all(are_equal) == (k1 == 1.5 or place.can.bm25_parameters)
        for asked in ("the", "elsewhere"):
            assert not (await _asked(stub, name, pb.FieldQuery(text=asked, depth=10))).document_ids

    async with place.stub() as stub:
        if place.can.text:
            await check(stub)
        else:
            await _is_refused(pb.Schema(text_fields=[pb.TextField(name="t")]), stub)


async def _is_refused(schema: pb.Schema, stub: Stub) -> None:
    created = stub.CreateCollection(pb.CreateCollectionRequest(name=new_name(), schema=schema))
    assert isinstance(await error_of(created), InvalidRequest)


def _retrieve(name: str, asked: pb.FieldQuery) -> pb.RetrieveRequest:
    return pb.RetrieveRequest(collection=name, queries=[asked])


async def _asked(stub: Stub, name: str, asked: pb.FieldQuery) -> pb.Ranking:
    return (await stub.Retrieve(_retrieve(name, asked))).rankings[0]


async def test_several_queries_and_a_cascade_are_answered_in_one_call(place: Place) -> None:
    name = SHARED

    async with place.stub() as stub:
        await empty(stub)
        given = [document(id_, printed=id_ != "c") for id_ in "abcd"]
        await stub.Upsert(upsert(given, np.eye(4) + 0.1, collection=name))
        first = query([1, 0.5, 0, 0], depth=2)
        among = query([0, 1, 0, 0], depth=3, among=[query([1, 0, 0, 0.5], depth=2), query([0, 0, 1, 0], depth=1)])
        request = pb.RetrieveRequest(collection=name, queries=[first, among, query([0, 0, 1, 0], depth=1)])
        found = await stub.Retrieve(request)
        rankings = [list(ranking.document_ids) for ranking in found.rankings]
        assert (rankings[0], sorted(rankings[1]), rankings[2]) == (["a", "b"], ["a", "c", "d"], ["c"])
        assert [one.document_id for one in found.documents] == ["a", "b", "c", "d"]
        assert found.documents[0] == given[0]
        request.filter.CopyFrom(EVEN)
        request.view = pb.DOCUMENT_VIEW_ID
        filtered = await stub.Retrieve(request)
        assert all("c" not in ranking.document_ids for ranking in filtered.rankings)
        assert not filtered.documents[0].text


async def test_rankings_are_fused_and_documents_grouped(place: Place) -> None:
    """Fusion and grouping work with every engine."""
    name = SHARED
    authors = ["a", "a", "a", "b", "b", "c", None, "b"]

    async with place.stub() as stub:
        await empty(stub)
        vectors = np.stack([[1, 0.1 * number, 0, 0] for number in range(len(authors))])
        given = [document(f"{i}", **({"author": one} if one else {})) for i, one in enumerate(authors)]
        await stub.Upsert(upsert(given, vectors, collection=name))
        request = pb.RetrieveRequest(collection=name, queries=[query([1, 0, 0, 0], depth=2)])
        request.grouping.CopyFrom(pb.Grouping(field="author", group_count=4, group_size=2))
        groups = (await stub.Retrieve(request)).grouped
        found = [(one.value.string_value, list(one.document_ids)) for one in groups.groups]
        assert found == [("a", ["0", "1"]), ("b", ["3", "4"]), ("c", ["5"]), ("", ["6"])]
        both = [query([1, 0, 0, 0], depth=3), query([0, 1, 0, 0], depth=3)]
        fusion = pb.Fusion(rrf=pb.ReciprocalRankFusion(constant=1), depth=4)
        fused = await stub.Retrieve(pb.RetrieveRequest(collection=name, queries=both, fusion=fusion))
        assert list(fused.fused.document_ids) == ["0", "7", "1", "6"]
        assert [one.document_id for one in fused.documents] == ["0", "1", "6", "7"]


@pytest.mark.parametrize("metric", SIMILARITIES)
async def test_equal_vectors_have_equal_scores_in_every_position(place: Place, metric: pb.Metric.ValueType) -> None:
    """In large collections, in several dimensions, and at the end of a ranking."""
    rng = np.random.default_rng(11)
    name, width = new_name(), 100
    create = new_collection(name, metric)
    create.schema.dense_fields[0].dimensions = width
    equal = rng.standard_normal(width).astype(np.float32)
    vectors = np.stack([equal if i % 4 else rng.standard_normal(width).astype(np.float32) for i in range(64)])
    wanted = [f"{i:02}" for i in range(64) if i % 4]

    async with place.stub() as stub:
        await stub.CreateCollection(create)
        for start in range(0, 64, 16):
            documents = [document(f"{i:02}") for i in range(start, start + 16)]
            await stub.Upsert(upsert(documents, vectors[start : start + 16], collection=name))
        for depth in (40, 48):
            asked = pb.RetrieveRequest(collection=name, queries=[query(equal + 0.1, depth=depth)])
            ranking = (await stub.Retrieve(asked)).rankings[0]
            assert list(ranking.document_ids) == wanted[:depth]
            assert len(set(ranking.scores)) == 1
            truth = SIMILARITIES[metric](equal + np.float32(0.1), equal[None])
            assert ranking.scores[0] == pytest.approx(float(truth[0]), rel=1e-6)
