"""Segments: recall with filters, loading at start, and detection and repair of damage."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import REGISTRY
from sluice.common.v1 import tensor_pb2 as tns
from sluice.retrieval.v1 import retrieval_service_pb2 as pb

from services.retrieval.cancellation import Stopped
from services.retrieval.domain.documents import Batch, Document, Value
from services.retrieval.domain.filters import Comparison, Operator
from services.retrieval.domain.queries import DenseQuery
from services.retrieval.domain.schema import DenseField, Kind, MetadataField, Metric, Schema
from services.retrieval.embedded.engine import EmbeddedEngine
from services.retrieval.embedded.recall_monitor import RecallMonitor
from tests.support.retrieval import document as wire_document
from tests.support.retrieval import retrieval_stub, upsert

F32 = NDArray[np.float32]
DOCUMENTS = 20_000
DIMENSIONS = 24


def schema(metric: Metric) -> Schema:
    dense = (DenseField(name="v", dimensions=DIMENSIONS, metric=metric),)
    metadata = (("share", Kind.NUMBER), ("word", Kind.STRING), ("tags", Kind.LIST), ("is_even", Kind.BOOL))
    return Schema(dense=dense, metadata=tuple(MetadataField(name=name, kind=kind) for name, kind in metadata))


def clustered(rng: np.random.Generator, count: int) -> F32:
    """Vectors around 200 centers, as embeddings of texts lie around topics."""
    centers = np.random.default_rng(99).standard_normal((200, DIMENSIONS))
    noise = rng.standard_normal((count, DIMENSIONS))
    return (centers[rng.integers(0, 200, count)] + 0.4 * noise).astype(np.float32)


def fill(engine: EmbeddedEngine, given: Schema, vectors: F32, first: int = 0) -> None:
    for start in range(0, len(vectors), 1000):
        chunk = vectors[start : start + 1000]
        documents = [document(first + start + i) for i in range(len(chunk))]
        engine.upsert(engine.catalog.find("c"), Batch(documents, [chunk]))


def document(number: int) -> Document:
    share = np.random.default_rng(number).random()
    metadata: dict[str, Value] = {"share": share, "word": f"w{number % 7}", "tags": (f"t{number % 3}",)}
    metadata["is_even"] = number % 2 == 0
    return Document(f"{number:06}", metadata=metadata)


def open_engine(folder: Path, segment_documents: int) -> EmbeddedEngine:
    return EmbeddedEngine(folder, now_us=lambda: 0, max_collections=9, segment_documents=segment_documents)


def ids(engine: EmbeddedEngine, given: Schema, vector: F32, share: float, *, is_exact: bool) -> list[str]:
    condition = Comparison("share", Operator.LESS, share) if share < 1 else None
    query = DenseQuery(given.dense[0], vector, 10, is_exact=is_exact)
    with engine.reader("c") as reader:
        found = reader.retrieve([query], condition, lambda: False, with_documents=False)
    return list(found.candidates[0].ids)


@pytest.mark.slow
@pytest.mark.parametrize("metric", Metric)
def test_recall_is_kept_from_all_documents_down_to_one_in_a_thousand(tmp_path: Path, metric: Metric) -> None:
    rng = np.random.default_rng(5)
    given = schema(metric)
    engine = open_engine(tmp_path, DOCUMENTS // 2)
    try:
        engine.create("c", given)
        fill(engine, given, clustered(rng, DOCUMENTS))
        engine.delete(engine.catalog.find("c"), [f"{number:06}" for number in range(1000)])
        engine.build_segments(lambda: False)
        assert engine.catalog.find("c").view.parts[0].block.is_segment
        queries = clustered(rng, 60)
        for share in (1.0, 0.9, 0.1, 0.01, 0.001):
            pairs = [
                (ids(engine, given, q, share, is_exact=False), ids(engine, given, q, share, is_exact=True))
                for q in queries
            ]
            wanted = sum(len(truth) for _, truth in pairs)
            assert sum(len(set(found) & set(truth)) for found, truth in pairs) >= 0.98 * wanted
    finally:
        engine.close()


def test_if_the_disk_rejects_a_segment_searches_stay_exact_and_writes_continue(tmp_path: Path) -> None:
    rng = np.random.default_rng(15)
    given = schema(Metric.COSINE)
    (tmp_path / "segments").write_text("a file where a folder belongs")
    engine = open_engine(tmp_path, 200)
    try:
        engine.create("c", given)
        fill(engine, given, clustered(rng, 300))
        with pytest.raises(OSError, match="segments"):
            engine.build_segments(lambda: False)
        fill(engine, given, clustered(rng, 10), first=300)
        vector = clustered(rng, 1)[0]
        assert ids(engine, given, vector, 1.0, is_exact=False) == ids(engine, given, vector, 1.0, is_exact=True)
        assert engine.catalog.find("c").view.document_count == 310
    finally:
        engine.close()


def counted(outcome: str) -> float:
    return REGISTRY.get_sample_value("sluice_live_candidates_total", {"outcome": outcome}) or 0.0


def test_a_sampled_search_is_repeated_exactly_and_its_misses_are_counted(tmp_path: Path) -> None:
    rng = np.random.default_rng(14)
    given = schema(Metric.COSINE)
    engine, recall, never = open_engine(tmp_path, 200), RecallMonitor(every=2), RecallMonitor(every=0)
    try:
        engine.create("c", given)
        fill(engine, given, clustered(rng, 300))
        query = DenseQuery(given.dense[0], clustered(rng, 1)[0], 10)
        with engine.reader("c") as reader:
            view = reader.collection.view
            (found,) = reader.retrieve([query], None, lambda: False, with_documents=False).candidates
        half = replace(found, ids=found.ids[:7])
        before = counted("found"), counted("missed")
        assert never.record(view, [query], None, [half]) is None
        assert recall.record(view, [query], None, [half]) is None
        repeated = recall.record(view, [query], None, [half])
        assert repeated is not None
        repeated.result()
        assert (counted("found") - before[0], counted("missed") - before[1]) == (7, 3)
    finally:
        engine.close()
        recall.close()
        never.close()


def test_a_start_loads_the_segment_and_newer_documents(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    given = schema(Metric.COSINE)
    vectors = clustered(rng, 700)
    engine = open_engine(tmp_path, 400)
    engine.create("c", given)
    fill(engine, given, vectors[:500])
    engine.build_segments(lambda: False)
    engine.close()
    (saved,) = tmp_path.glob("segments/*/*")
    made = saved.stat().st_mtime_ns

    engine = open_engine(tmp_path, 400)
    fill(engine, given, vectors[500:], first=450)  # replaces 50 documents of the segment
    engine.delete(engine.catalog.find("c"), ["000003"])
    answers = [ids(engine, given, q, 0.5, is_exact=True) for q in vectors[:20]]
    engine.close()

    engine = open_engine(tmp_path, 400)
    try:
        segment, *others = engine.catalog.find("c").view.parts
        assert segment.block.is_segment
        assert (segment.count, sum(part.count for part in others)) == (449, 200)
        assert saved.stat().st_mtime_ns == made
        assert [ids(engine, given, q, 0.5, is_exact=True) for q in vectors[:20]] == answers
    finally:
        engine.close()


def test_a_segment_grows_and_is_rebuilt_when_most_documents_are_dead(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    given = schema(Metric.L2)
    engine = open_engine(tmp_path, 200)
    try:
        engine.create("c", given)
        for first in (0, 200, 400):
            fill(engine, given, clustered(rng, 200), first=first)
            engine.build_segments(lambda: False)
            (part,) = engine.catalog.find("c").view.parts
            assert (part.block.is_segment, len(part.alive)) == (True, first + 200)
        engine.delete(engine.catalog.find("c"), Comparison("share", Operator.LESS, 0.6))
        engine.build_segments(lambda: False)
        (part,) = engine.catalog.find("c").view.parts
        assert part.alive.all()
        assert part.count == engine.catalog.find("c").view.document_count < 300
        assert len(list(tmp_path.glob("segments/*/*"))) == 1
        engine.drop("c")
        assert not list(tmp_path.glob("segments/*"))
    finally:
        engine.close()


def test_waiting_for_another_build_can_be_cancelled(tmp_path: Path) -> None:
    rng = np.random.default_rng(16)
    given = schema(Metric.COSINE)
    engine = open_engine(tmp_path, 100)
    asked = []

    def is_stopped() -> bool:
        """Check for cancellation while a segment is built."""
        with pytest.raises(Stopped):
            engine.optimize(engine.catalog.find("c"), lambda: True)
        asked.append(True)
        return False

    try:
        engine.create("c", given)
        fill(engine, given, clustered(rng, 150))
        engine.delete(engine.catalog.find("c"), ["000003"])
        engine.optimize(engine.catalog.find("c"), is_stopped)
        assert asked
        (part,) = engine.catalog.find("c").view.parts
        assert (part.block.is_segment, part.count, len(part.alive)) == (True, 149, 149)
    finally:
        engine.close()


@pytest.fixture(scope="module")
def folder_with_segment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    given = schema(Metric.COSINE)
    engine = open_engine(folder, 100)
    engine.create("c", given)
    fill(engine, given, clustered(np.random.default_rng(8), 150))
    engine.build_segments(lambda: False)
    engine.close()
    return folder


FILES = ["manifest.json", "ids.json", "arrays.npz", "vectors-v.npy", "coarse-v.faiss"]


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_segment_is_detected_and_rebuilt_from_the_store(
    folder_with_segment: Path, tmp_path: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(folder_with_segment, folder)
    given = schema(Metric.COSINE)
    vector = clustered(np.random.default_rng(9), 1)[0]
    engine = open_engine(folder, 10_000)
    whole = ids(engine, given, vector, 1.0, is_exact=False)
    engine.close()
    assert not caplog.messages

    (path,) = folder.glob(f"segments/*/*/{name}")
    content = path.read_bytes()
    middle = len(content) // 2
    match damage:
        case "flip":
            path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        case "truncate":
            path.write_bytes(content[:middle])
        case "remove":
            path.unlink()
    engine = open_engine(folder, 100)
    try:
        assert any("segment skipped" in message for message in caplog.messages)
        assert ids(engine, given, vector, 1.0, is_exact=False) == whole
        engine.build_segments(lambda: False)
        assert engine.catalog.find("c").view.parts[0].block.is_segment
    finally:
        engine.close()


@pytest.mark.parametrize("coarse", [tns.DATA_TYPE_FLOAT32, tns.DATA_TYPE_FLOAT16, tns.DATA_TYPE_INT8])
async def test_a_segment_of_vectors_of_different_lengths_is_loaded_by_a_start(
    tmp_path: Path, coarse: tns.DataType.ValueType
) -> None:
    """By inner product such vectors have an index without a graph."""
    field = pb.DenseField(name="dense", dimensions=4, metric=pb.METRIC_DOT, coarse=coarse)
    vectors = np.random.default_rng(5).standard_normal((30, 4)) * np.arange(1, 31)[:, None]

    async with retrieval_stub(tmp_path, segment_documents=20) as stub:
        await stub.CreateCollection(pb.CreateCollectionRequest(name="books", schema=pb.Schema(dense_fields=[field])))
        await stub.Upsert(upsert([wire_document(f"{number}") for number in range(30)], vectors))
        await stub.OptimizeCollection(pb.OptimizeCollectionRequest(name="books"))
    async with retrieval_stub(tmp_path) as stub:
        described = (await stub.GetCollection(pb.GetCollectionRequest(name="books"))).collection
        assert described.statistics.segment_count == 1
