"""Fusion of several queries and grouping of documents, against fusion and grouping outside of the service."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sluice.common.v1 import document_pb2 as doc
from sluice.common.v1 import filter_pb2 as flt
from sluice.errors import InvalidRequest
from sluice.retrieval.v1 import retrieval_service_pb2 as pb

from services.core.fusion import rrf, weighted_sum
from services.core.grouping import group_by_value
from services.core.ranking import Ranking
from tests.support.retrieval import Stub, document, error_of, query, retrieval_stub, upsert, value

DOCUMENTS = 400
WORDS = ("lock", "queue", "thread", "task", "event", "wait")
RRF = pb.Fusion(rrf=pb.ReciprocalRankFusion())
VECTOR = (0.3, -0.2, 0.9, 0.1)


def documents() -> list[doc.Document]:
    """Half of them are of one author, the others of 40, but for every seventh, which has none."""
    rng = np.random.default_rng(21)
    made = []
    for number in range(DOCUMENTS):
        author = "prolific" if number % 2 else f"a{rng.integers(40):02}"
        metadata = {} if number % 7 == 0 else {"author": author}
        text = " ".join(rng.choice(WORDS, size=3))
        made.append(document(f"{number:03}", text, year=float(number % 5), **metadata))
    return made


def vectors() -> np.ndarray[Any, Any]:
    """Those of the prolific author lie nearest to VECTOR."""
    found = np.random.default_rng(22).standard_normal((DOCUMENTS, 4)).astype(np.float32)
    found[1::2] += 2 * np.array(VECTOR, dtype=np.float32)
    return found


async def filled(stub: Stub) -> None:
    metadata = [
        pb.MetadataField(name="author", type=pb.METADATA_TYPE_STRING),
        pb.MetadataField(name="year", type=pb.METADATA_TYPE_NUMBER),
        pb.MetadataField(name="printed", type=pb.METADATA_TYPE_BOOL),
    ]
    schema = pb.Schema(
        dense_fields=[pb.DenseField(name="dense", dimensions=4, metric=pb.METRIC_DOT)],
        text_fields=[pb.TextField(name="words")],
        metadata_fields=metadata,
    )
    await stub.CreateCollection(pb.CreateCollectionRequest(name="books", schema=schema))
    await stub.Upsert(upsert(documents(), vectors()))


def ask(*queries: pb.FieldQuery, **others: Any) -> pb.RetrieveRequest:
    return pb.RetrieveRequest(**{"collection": "books", "queries": queries, **others})


def words(text: str, depth: int) -> pb.FieldQuery:
    return pb.FieldQuery(text=text, depth=depth)


def ranking(sent: pb.Ranking) -> Ranking:
    return Ranking.of(zip(sent.document_ids, sent.scores, strict=True))


def expect(sent: pb.Ranking, expected: Ranking) -> None:
    assert list(sent.scores) == sorted(sent.scores, reverse=True)
    np.testing.assert_allclose(sent.scores, expected.scores, rtol=1e-6)
    assert set(sent.document_ids) == set(expected.ids)
    assert sent.coverage == 1


@pytest.mark.parametrize("exact", [False, True])
async def test_a_fused_ranking_equals_the_fusion_of_single_rankings(tmp_path: Path, exact: bool) -> None:
    queries = [query(VECTOR, depth=60), words("queue lock", 40), query([-1, 0, 0, 1], depth=30)]

    async with retrieval_stub(tmp_path, segment_documents=100) as stub:
        await filled(stub)
        apart = await stub.Retrieve(ask(*queries, exact=exact))
        assert not apart.HasField("fused")
        assert not apart.HasField("grouped")
        rankings = [ranking(one) for one in apart.rankings]
        by_score = pb.WeightedSum(weights=[1, 0.5, 0], normalisation=pb.SCORE_NORMALISATION_Z_SCORE)
        for fusion, expected in (
            (RRF, rrf(rankings).top(60)),
            (pb.Fusion(rrf=pb.ReciprocalRankFusion(constant=1), depth=7), rrf(rankings, constant=1).top(7)),
            (pb.Fusion(weighted_sum=by_score), weighted_sum(rankings, [1, 0.5, 0], "z_score").top(60)),
            (
                pb.Fusion(weighted_sum=pb.WeightedSum(weights=[1, 2, 3]), depth=1000),
                weighted_sum(rankings, [1, 2, 3], "min_max"),
            ),
        ):
            found = await stub.Retrieve(ask(*queries, exact=exact, fusion=fusion))
            assert not found.rankings
            expect(found.fused, expected)
            assert [one.document_id for one in found.documents] == sorted(found.fused.document_ids)
            assert all(one.text for one in found.documents)
            bare = await stub.Retrieve(ask(*queries, exact=exact, fusion=fusion, view=pb.DOCUMENT_VIEW_ID))
            assert bare.fused == found.fused
            assert [one.document_id for one in bare.documents] == [one.document_id for one in found.documents]
            assert not any(one.text for one in bare.documents)


def truth(scored: Ranking, count: int, size: int, *, field: str = "author") -> list[tuple[Any, list[str]]]:
    """Return the groups of an exhaustive ranking."""
    values: dict[str, Any] = {}
    for one in documents():
        if field in one.metadata:
            given = one.metadata[field]
            values[one.document_id] = given.string_value or given.number_value
    return [(group.value, list(group.ranking.ids)) for group in group_by_value(scored, values, count=count, size=size)]


def told(found: pb.RetrieveResponse) -> list[tuple[Any, list[str]]]:
    """Return the groups of a response."""
    groups = []
    for group in found.grouped.groups:
        assert list(group.scores) == sorted(group.scores, reverse=True)
        which = group.value.WhichOneof("value")
        groups.append((which and getattr(group.value, which), list(group.document_ids)))
    return groups


@pytest.mark.parametrize("segment_documents", [100, 20_000])
async def test_groups_are_those_of_an_exhaustive_ranking(tmp_path: Path, segment_documents: int) -> None:
    """The prolific author's documents come first, so that few groups are among the first candidates."""
    scores = vectors().astype(np.float64) @ np.array(VECTOR)
    everything = Ranking.of((f"{i:03}", float(np.float32(score))) for i, score in enumerate(scores))
    of_year_3 = everything.only(f"{i:03}" for i in range(3, DOCUMENTS, 5))
    year_3 = flt.Filter(
        comparison=flt.Comparison(field="year", operator=flt.Comparison.OPERATOR_EQUAL, value=value(3.0))
    )

    async with retrieval_stub(tmp_path, segment_documents=segment_documents) as stub:
        await filled(stub)
        for count, size, depth in ((1, 1, 1), (5, 3, 1), (10, 10, 10), (40, 4, 2), (256, 3, 10), (3, 256, 100)):
            grouping = pb.Grouping(field="author", group_count=count, group_size=size)
            found = await stub.Retrieve(ask(query(VECTOR, depth=depth), grouping=grouping, exact=True))
            assert told(found) == truth(everything, count, size)
            assert (found.grouped.incomplete, found.grouped.coverage) == (False, 1)
            sent = sorted(id_ for group in found.grouped.groups for id_ in group.document_ids)
            assert [one.document_id for one in found.documents] == sent
            filtered = await stub.Retrieve(
                ask(query(VECTOR, depth=depth), grouping=grouping, exact=True, filter=year_3, view=pb.DOCUMENT_VIEW_ID)
            )
            assert told(filtered) == truth(of_year_3, count, size)
        by_year = pb.Grouping(field="year", group_count=9, group_size=2)
        found = await stub.Retrieve(ask(query(VECTOR), grouping=by_year))
        assert told(found) == truth(everything, 9, 2, field="year")


async def test_groups_of_fused_rankings_are_those_of_a_deeper_fusion(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path) as stub:
        await filled(stub)
        whole = await stub.Retrieve(ask(query(VECTOR, depth=400), words("lock", 400)))
        expected = truth(rrf([ranking(one) for one in whole.rankings]), 50, 20)
        grouping = pb.Grouping(field="author", group_count=50, group_size=20)
        found = await stub.Retrieve(ask(query(VECTOR, depth=3), words("lock", 2), grouping=grouping, fusion=RRF))
        assert [(author, sorted(ids)) for author, ids in told(found)] == [(a, sorted(ids)) for a, ids in expected]
        assert not found.grouped.incomplete
        assert not found.rankings
        assert not found.HasField("fused")


async def test_groups_that_the_depth_limit_leaves_unfilled_are_marked_incomplete(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path, max_depth=10) as stub:
        await filled(stub)
        grouping = pb.Grouping(field="author", group_count=5, group_size=2)
        found = await stub.Retrieve(ask(query(VECTOR, depth=5), words("lock", 5), grouping=grouping, fusion=RRF))
        assert found.grouped.incomplete
        # Of one query, documents of full groups are left out instead, and it goes on.
        alone = await stub.Retrieve(ask(query(VECTOR, depth=5), grouping=grouping))
        assert not alone.grouped.incomplete
        assert len(alone.grouped.groups) == 5


async def test_a_cascade_is_grouped(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path) as stub:
        await filled(stub)
        staged = query(VECTOR, depth=400, among=[words("lock", 400)])
        apart = await stub.Retrieve(ask(staged))
        grouping = pb.Grouping(field="author", group_count=20, group_size=3)
        shallow = query(VECTOR, depth=4, among=[words("lock", 9)])
        found = await stub.Retrieve(ask(shallow, grouping=grouping))
        assert told(found) == truth(ranking(apart.rankings[0]), 20, 3)
        assert not found.grouped.incomplete


BAD: Sequence[tuple[dict[str, Any], list[str]]] = [
    ({"fusion": pb.Fusion()}, ["fusion"]),
    ({"fusion": pb.Fusion(rrf=pb.ReciprocalRankFusion(), depth=1001)}, ["fusion.depth"]),
    ({"fusion": pb.Fusion(rrf=pb.ReciprocalRankFusion(), depth=-1)}, ["fusion.depth"]),
    ({"fusion": pb.Fusion(rrf=pb.ReciprocalRankFusion(constant=0))}, ["fusion.rrf.constant"]),
    ({"fusion": pb.Fusion(rrf=pb.ReciprocalRankFusion(constant=math.nan))}, ["fusion.rrf.constant"]),
    ({"fusion": pb.Fusion(rrf=pb.ReciprocalRankFusion(constant=math.inf))}, ["fusion.rrf.constant"]),
    ({"fusion": pb.Fusion(weighted_sum=pb.WeightedSum(weights=[1]))}, ["fusion.weighted_sum.weights"]),
    ({"fusion": pb.Fusion(weighted_sum=pb.WeightedSum(weights=[0, 0]))}, ["fusion.weighted_sum.weights"]),
    (
        {"fusion": pb.Fusion(weighted_sum=pb.WeightedSum(weights=[-1, math.nan]))},
        ["fusion.weighted_sum.weights[0]", "fusion.weighted_sum.weights[1]"],
    ),
    (
        {"fusion": pb.Fusion(weighted_sum=pb.WeightedSum(weights=[1, 1], normalisation=7))},  # type: ignore[arg-type]
        ["fusion.weighted_sum.normalisation"],
    ),
    ({"grouping": pb.Grouping(field="author", group_count=1, group_size=1)}, ["fusion"]),
    (
        {"fusion": RRF, "grouping": pb.Grouping()},
        ["grouping.field", "grouping.group_count", "grouping.group_size"],
    ),
    ({"fusion": RRF, "grouping": pb.Grouping(field="printed", group_count=1, group_size=1)}, ["grouping.field"]),
    ({"fusion": RRF, "grouping": pb.Grouping(field="author", group_count=257, group_size=1)}, ["grouping.group_count"]),
    ({"fusion": RRF, "grouping": pb.Grouping(field="author", group_count=100, group_size=11)}, ["grouping"]),
]


async def test_invalid_fusions_and_groupings_are_rejected(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path) as stub:
        await filled(stub)
        for others, fields in BAD:
            error = await error_of(stub.Retrieve(ask(query(VECTOR), words("lock", 5), **others)))
            assert isinstance(error, InvalidRequest)
            assert [violation.field for violation in error.violations] == fields
            assert all(" got " in violation.description for violation in error.violations)


async def test_a_small_collection_returns_all_documents(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path, segment_documents=100) as stub:
        await filled(stub)
        found = await stub.Retrieve(ask(query(VECTOR, depth=1000)))
        assert len(found.rankings[0].document_ids) == DOCUMENTS
        exact = await stub.Retrieve(ask(query(VECTOR, depth=1000), exact=True))
        assert exact.rankings == found.rankings


async def test_no_candidates_give_no_groups_and_an_empty_ranking(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path) as stub:
        await filled(stub)
        fused = await stub.Retrieve(ask(words("nowhere", 5), words("neither", 5), fusion=RRF))
        assert fused == pb.RetrieveResponse(fused=pb.Ranking(coverage=1), collection_version=1)
        grouping = pb.Grouping(field="author", group_count=5, group_size=2)
        nothing = await stub.Retrieve(ask(words("nowhere", 5), grouping=grouping))
        assert nothing == pb.RetrieveResponse(grouped=pb.Groups(coverage=1), collection_version=1)
