"""The engine against a dictionary: both give the same results after any writes and after a restart."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from services.core.similarity import cosine, dot, l2
from services.retrieval.domain.documents import Batch, Document
from services.retrieval.domain.filters import Comparison, Operator
from services.retrieval.domain.queries import DenseQuery
from services.retrieval.domain.schema import DenseField, Kind, MetadataField, Metric, Schema
from services.retrieval.embedded.engine import EmbeddedEngine

SIMILARITIES = {Metric.DOT: dot, Metric.COSINE: cosine, Metric.L2: l2}
F32 = NDArray[np.float32]
Model = dict[str, tuple[F32, float]]
SMALL = Comparison("size", Operator.LESS, 0.3)


def schema(metric: Metric) -> Schema:
    dense = (
        DenseField(name="other", dimensions=3, metric=Metric.DOT),
        DenseField(name="v", dimensions=8, metric=metric),
    )
    return Schema(dense=dense, metadata=(MetadataField(name="size", kind=Kind.NUMBER),))


@contextmanager
def engine_on(folder: Path, segment_documents: int = 20_000) -> Iterator[EmbeddedEngine]:
    engine = EmbeddedEngine(folder, now_us=lambda: 0, max_collections=10, segment_documents=segment_documents)
    try:
        yield engine
    finally:
        engine.close()


def ranked(model: Model, metric: Metric, vector: F32, depth: int, *, only_small: bool) -> list[tuple[str, float]]:
    """Return the result by the rules of the API."""
    kept = {id_: given for id_, (given, size) in model.items() if not only_small or size < 0.3}
    if not kept:
        return []
    scores = SIMILARITIES[metric](vector, np.stack(list(kept.values()))).tolist()
    return sorted(zip(kept, scores, strict=True), key=lambda item: (-item[1], item[0]))[:depth]


def agree(engine: EmbeddedEngine, model: Model, metric: Metric, vector: F32) -> None:
    """Check all results of one query."""
    given = schema(metric)
    for only_small in (False, True):
        for depth in (1, 7, 1000):
            query = DenseQuery(given.dense[1], vector, depth, is_exact=True)
            with engine.reader("c") as reader:
                found = reader.retrieve([query], SMALL if only_small else None, lambda: False, with_documents=True)
            expected = ranked(model, metric, vector, depth, only_small=only_small)
            assert list(found.candidates[0].ids) == [id_ for id_, _ in expected]
            np.testing.assert_allclose(
                found.candidates[0].scores, [score for _, score in expected], rtol=1e-5, atol=1e-6
            )
            assert [document.document_id for document in found.documents] == sorted(id_ for id_, _ in expected)
    assert engine.catalog.find("c").view.document_count == len(model)


@pytest.mark.parametrize("segment_documents", [20, 20_000])
@pytest.mark.parametrize("metric", Metric)
def test_writes_in_any_order_then_a_restart(tmp_path: Path, metric: Metric, segment_documents: int) -> None:
    """With 20, segments are built, extended and rebuilt in the background all the time."""
    rng = np.random.default_rng(3)
    model: Model = {}
    given = schema(metric)
    with engine_on(tmp_path, segment_documents) as engine:
        engine.create("c", given)
        engine.create("beside", given)
        for _ in range(60):
            ids = [f"{number:03}" for number in rng.choice(150, size=int(rng.integers(1, 30)), replace=False)]
            if rng.random() < 0.3:
                assert engine.delete(engine.catalog.find("c"), ids).deleted_count == len(model.keys() & set(ids))
                model = {id_: value for id_, value in model.items() if id_ not in ids}
                continue
            # Few distinct values, so that scores tie often.
            vectors = rng.integers(1, 3, size=(len(ids), 8)).astype(np.float32)
            sizes = rng.random(len(ids)).round(1).tolist()
            documents = [Document(id_, metadata={"size": size}) for id_, size in zip(ids, sizes, strict=True)]
            done = engine.upsert(engine.catalog.find("c"), Batch(documents, [vectors[:, :3], vectors]))
            assert done.replaced_count == len(model.keys() & set(ids))
            model |= dict(zip(ids, zip(vectors, sizes, strict=True), strict=True))
            agree(engine, model, metric, rng.standard_normal(8).astype(np.float32))
        deleted = engine.delete(engine.catalog.find("c"), SMALL).deleted_count
        assert deleted == sum(size < 0.3 for _, size in model.values())
        model = {id_: value for id_, value in model.items() if value[1] >= 0.3}
        version = engine.catalog.find("c").view.version
        assert engine.catalog.find("beside").view.document_count == 0
        engine.build_segments(lambda: False)
    with engine_on(tmp_path, segment_documents) as engine:
        assert engine.catalog.find("c").view.parts[0].block.is_segment == (segment_documents == 20)
        assert engine.catalog.find("c").view.version == version
        agree(engine, model, metric, rng.standard_normal(8).astype(np.float32))


def test_blocks_stay_few_while_documents_come_one_by_one(tmp_path: Path) -> None:
    given = schema(Metric.DOT)
    vectors = np.ones((1, 8), dtype=np.float32)
    with engine_on(tmp_path) as engine:
        engine.create("c", given)
        for number in range(300):
            engine.upsert(engine.catalog.find("c"), Batch([Document(f"{number % 100}")], [vectors[:, :3], vectors]))
        view = engine.catalog.find("c").view
        assert view.document_count == 100
        assert len(view.parts) <= 8
