"""Relevance feedback: queries whose vector is moved by stored documents."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sluice.errors import InvalidRequest
from sluice.retrieval.v1 import retrieval_service_pb2 as pb

from tests.support.retrieval import document, error_of, new_collection, query, retrieval_stub, upsert

VECTORS = np.array([[2, 0, 0, 0], [0, 3, 0, 0], [0, 0.6, 0.8, 0]], dtype=np.float32)


async def scores(
    folder: Path, wanted: pb.FieldQuery, metric: pb.Metric.ValueType = pb.METRIC_COSINE
) -> dict[str, float]:
    async with retrieval_stub(folder) as stub:
        await stub.CreateCollection(new_collection(metric=metric))
        await stub.Upsert(upsert([document(id_) for id_ in "abc"], VECTORS))
        [ranking] = (await stub.Retrieve(pb.RetrieveRequest(collection="books", queries=[wanted]))).rankings
        return dict(zip(ranking.document_ids, ranking.scores, strict=True))


def moving(**weights: float) -> dict[str, Any]:
    return {"feedback": [pb.Feedback(document_id=id_, weight=weight) for id_, weight in weights.items()]}


async def test_a_vector_is_moved_by_unit_vectors_of_a_cosine_field(tmp_path: Path) -> None:
    found = await scores(tmp_path, query([5, 0, 0, 0], **moving(b=0.5, nowhere=3)))
    moved = np.array([1, 0.5, 0, 0]) / np.linalg.norm([1, 0.5])
    assert found == pytest.approx({"a": moved[0], "b": moved[1], "c": 0.6 * moved[1]}, abs=1e-6)


async def test_a_vector_is_moved_by_unscaled_vectors_of_other_fields(tmp_path: Path) -> None:
    found = await scores(tmp_path, query([5, 0, 0, 0], **moving(b=0.5, a=-1)), pb.METRIC_DOT)
    assert found == pytest.approx({"a": 6.0, "b": 4.5, "c": 0.9}, abs=1e-5)


async def test_a_vector_that_feedback_cancels_is_unchanged(tmp_path: Path) -> None:
    found = await scores(tmp_path, query([1, 0, 0, 0], **moving(a=-1)))
    assert found["a"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("feedback", "field"),
    [
        ([pb.Feedback(document_id="a", weight=101)], "queries[0].feedback[0].weight"),
        ([pb.Feedback(document_id="a", weight=float("nan"))], "queries[0].feedback[0].weight"),
        ([pb.Feedback(document_id="a", weight=1)] * 65, "queries[0].feedback"),
    ],
)
async def test_feedback_has_limits(tmp_path: Path, feedback: list[pb.Feedback], field: str) -> None:
    async with retrieval_stub(tmp_path) as stub:
        await stub.CreateCollection(new_collection())
        wanted = query([1, 0, 0, 0], feedback=feedback)
        error = await error_of(stub.Retrieve(pb.RetrieveRequest(collection="books", queries=[wanted])))
        assert isinstance(error, InvalidRequest)
        assert error.violations[0].field == field


async def test_text_fields_have_no_feedback(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path) as stub:
        schema = pb.Schema(text_fields=[pb.TextField(name="words")])
        await stub.CreateCollection(pb.CreateCollectionRequest(name="books", schema=schema))
        wanted = pb.FieldQuery(text="x", depth=1, feedback=[pb.Feedback(document_id="a", weight=1)])
        error = await error_of(stub.Retrieve(pb.RetrieveRequest(collection="books", queries=[wanted])))
        assert "documents for field 'words', which is not dense" in error.message
