"""Each vector format of an approximate index, with embeddings of real text: recall, restart, damage and rejections."""

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sluice.common.v1 import tensor_pb2 as tns
from sluice.errors import InvalidRequest
from sluice.retrieval.v1 import retrieval_service_pb2 as pb

from loadtest.bench.in_process import InProcess
from loadtest.bench.retrieval.vectors import encode
from services.local.pydocs import corpus
from services.retrieval.domain.documents import Batch, Document
from services.retrieval.domain.filters import Comparison, Operator
from services.retrieval.domain.queries import DenseQuery, MultiVectorQuery, Query
from services.retrieval.domain.schema import (
    CoarseType,
    DenseField,
    FdeParameters,
    Kind,
    MetadataField,
    Metric,
    MultiVectorField,
    Schema,
    TokenType,
)
from services.retrieval.domain.vectors import TokenVectors
from services.retrieval.embedded.engine import EmbeddedEngine
from services.retrieval.embedded.storage.segment_files import MANIFEST, DamagedSegment, load
from services.retrieval.files import DATABASE, crc32
from services.retrieval.milvus.fields import unsupported
from services.retrieval.milvus.version import parse_version
from services.rpc.tensor import to_tensor
from tests.support.retrieval import error_of, query, retrieval_stub

F32 = NDArray[np.float32]
DIMENSIONS = 384
DOCUMENTS = 4000
QUERIES = 40
TEXTS = 800
TOKEN_TEXTS = 300
SHARES = (1.0, 0.1, 0.01, 0.001)
FORMS = [*((coarse, 0) for coarse in CoarseType), *((coarse, 256) for coarse in CoarseType)]
ENCODING = FdeParameters(repetitions=16, partition_bits=4, projected_dimensions=24, final_dimensions=0, seed=3)


@pytest.fixture(scope="module")
def encoders(minilm_bundle: Path) -> Callable[[str], InProcess]:
    return lambda output: InProcess(minilm_bundle, "int8", 1, [output])


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Return distinct passages of the standard library's documentation, shortened."""
    return [" ".join(document.text.split()[:14]) for document in islice(corpus(), TEXTS + QUERIES)]


@pytest.fixture(scope="module")
def embeddings(encoders: Callable[[str], InProcess], texts: list[str]) -> tuple[F32, F32]:
    """Documents and queries: of real texts, and documents near to them, so that there are thousands."""
    real = np.array(encode(encoders("dense"), texts))
    rng = np.random.default_rng(4)
    near = np.repeat(real[QUERIES:], DOCUMENTS // TEXTS, axis=0)
    noise = rng.standard_normal(near.shape).astype(np.float32) * np.float32(0.5 / np.sqrt(DIMENSIONS))
    noise[:: DOCUMENTS // TEXTS] = 0
    return near + noise, real[:QUERIES]


@pytest.fixture(scope="module")
def tokens(encoders: Callable[[str], InProcess], texts: list[str]) -> tuple[list[F32], list[F32]]:
    """Token vectors of documents and of queries."""
    found = encode(encoders("multi_vector"), texts[: TOKEN_TEXTS + QUERIES])
    return found[QUERIES:], found[:QUERIES]


@contextmanager
def engine_on(folder: Path, segment_documents: int = 10**6) -> Iterator[EmbeddedEngine]:
    engine = EmbeddedEngine(folder, now_us=lambda: 0, max_collections=9, segment_documents=segment_documents)
    try:
        yield engine
    finally:
        engine.close()


def found(engine: EmbeddedEngine, asked: Query, share: float = 1.0) -> list[str]:
    condition = Comparison("share", Operator.LESS, share) if share < 1 else None
    with engine.reader("c") as reader:
        (candidates,) = reader.retrieve([asked], condition, lambda: False, with_documents=False).candidates
    return list(candidates.ids)


def documents_of(count: int) -> list[Document]:
    """Documents with a number `share`, so that of any share as many match as it says."""
    shares = np.random.default_rng(6).permutation(count) / count
    return [Document(f"{i:05}", metadata={"share": float(share)}) for i, share in enumerate(shares)]


@pytest.fixture(scope="module")
def folder_of_forms(tmp_path_factory: pytest.TempPathFactory, embeddings: tuple[F32, F32]) -> Path:
    """Create a data folder with a dense field of each format and a segment that was extended once."""
    folder = tmp_path_factory.mktemp("forms")
    fields = tuple(field_of(coarse, dimensions) for coarse, dimensions in FORMS)
    schema = Schema(dense=fields, metadata=(MetadataField(name="share", kind=Kind.NUMBER),))
    documents, vectors = documents_of(DOCUMENTS), embeddings[0]
    with engine_on(folder) as engine:
        engine.create("c", schema)
    for start, end in ((0, 2400), (2400, DOCUMENTS)):
        with engine_on(folder) as engine:
            for first in range(start, end, 800):
                chunk = slice(first, first + 800)
                batch = Batch(documents[chunk], [vectors[chunk]] * len(fields))
                engine.upsert(engine.catalog.find("c"), batch)
        with engine_on(folder, 1200) as engine:
            engine.build_segments(lambda: False)
            engine.delete(engine.catalog.find("c"), [document.document_id for document in documents[:100]])
    return folder


def field_of(coarse: CoarseType, dimensions: int = 0) -> DenseField:
    name = f"{coarse}_{dimensions}"
    return DenseField(
        name=name, dimensions=DIMENSIONS, metric=Metric.COSINE, coarse=coarse, coarse_dimensions=dimensions
    )


@pytest.fixture(scope="module")
def engine(folder_of_forms: Path) -> Iterator[EmbeddedEngine]:
    """After a restart: nothing is built, all is loaded."""
    with engine_on(folder_of_forms) as engine:
        (part,) = engine.catalog.find("c").view.parts
        assert part.block.is_segment
        assert part.count == DOCUMENTS - 100
        yield engine


@pytest.mark.parametrize(("coarse", "dimensions"), FORMS)
@pytest.mark.parametrize("share", SHARES)
def test_recall_of_every_format_with_every_filter(
    engine: EmbeddedEngine, embeddings: tuple[F32, F32], coarse: CoarseType, dimensions: int, share: float
) -> None:
    field, hits, wanted = field_of(coarse, dimensions), 0, 0
    for vector in embeddings[1]:
        truth = found(engine, DenseQuery(field, vector, 10, is_exact=True), share)
        hits += len(set(truth) & set(found(engine, DenseQuery(field, vector, 10), share)))
        wanted += len(truth)
    assert wanted >= QUERIES * min(10, int(share * (DOCUMENTS - 200)))
    assert hits >= 0.98 * wanted


def test_more_oversampling_finds_more_and_none_finds_less(engine: EmbeddedEngine, embeddings: tuple[F32, F32]) -> None:
    field = field_of(CoarseType.B1)
    truths = [set(found(engine, DenseQuery(field, vector, 10, is_exact=True))) for vector in embeddings[1]]
    hits = [
        sum(
            len(truth & set(found(engine, DenseQuery(field, vector, 10, oversampling=oversampling))))
            for truth, vector in zip(truths, embeddings[1], strict=True)
        )
        for oversampling in (1.0, 4.0, 100.0)
    ]
    assert hits[0] < hits[1] < hits[2]
    assert hits[2] >= 0.99 * 10 * QUERIES


def test_joint_queries_find_the_same_as_single_ones(engine: EmbeddedEngine, embeddings: tuple[F32, F32]) -> None:
    asked = [DenseQuery(field_of(*form), vector, 10) for vector in embeddings[1][:6] for form in FORMS]
    with engine.reader("c") as reader:
        together = reader.retrieve(asked, None, lambda: False, with_documents=False).candidates
    assert [list(one.ids) for one in together] == [found(engine, one) for one in asked]


def test_full_vectors_of_a_segment_are_mapped_and_not_in_memory(engine: EmbeddedEngine) -> None:
    for vectors in engine.catalog.find("c").view.parts[0].block.vectors.values():
        base = vectors.matrix.base
        assert isinstance(base, np.memmap)
        assert not vectors.matrix.flags.writeable


def multi_vector_schema() -> Schema:
    plain = MultiVectorField(name="plain", dimensions=DIMENSIONS)
    small = MultiVectorField(name="small", dimensions=DIMENSIONS, stored=TokenType.I8)
    both = MultiVectorField(name="both", dimensions=DIMENSIONS, stored=TokenType.I8, encoding=ENCODING)
    share = MetadataField(name="share", kind=Kind.NUMBER)
    return Schema(multi_vector=(plain, small, both), metadata=(share,))


@pytest.fixture(scope="module")
def folder_of_tokens(tmp_path_factory: pytest.TempPathFactory, tokens: tuple[list[F32], list[F32]]) -> Path:
    """Create a data folder with token vectors in three formats, in an extended segment and after it."""
    folder = tmp_path_factory.mktemp("tokens")
    schema, given = multi_vector_schema(), tokens[0]
    documents = documents_of(len(given) + 1)
    with engine_on(folder) as engine:
        engine.create("c", schema)
    for start, end, segment_documents in ((0, 150, 100), (150, 280, 100), (280, 300, 10**6)):
        # The last has no tokens.
        chosen = [*given[start:end], *([np.empty((0, DIMENSIONS), dtype=np.float32)] if end == 300 else [])]
        counts = np.array([len(one) for one in chosen], dtype=np.int64)
        columns = [TokenVectors.quantize(np.concatenate(chosen), counts, field.stored) for field in schema.multi_vector]
        with engine_on(folder, segment_documents) as engine:
            engine.upsert(engine.catalog.find("c"), Batch(documents[start:][: len(chosen)], multi_vector=columns))
            engine.build_segments(lambda: False)
    return folder


def test_token_vectors_in_8_bits_and_encodings_find_what_all_tokens_find(
    folder_of_tokens: Path, tokens: tuple[list[F32], list[F32]]
) -> None:
    plain, small, both = multi_vector_schema().multi_vector
    with engine_on(folder_of_tokens) as engine:
        segment, *others = engine.catalog.find("c").view.parts
        assert (segment.count, sum(part.count for part in others)) == (280, 21)
        assert segment.block.multi_vectors["both"].ann is not None
        hits = {"small": 0, "both": 0, "exact": 0}
        for asked in tokens[1]:
            truth = set(found(engine, MultiVectorQuery(plain, asked, 10)))
            hits["small"] += len(truth & set(found(engine, MultiVectorQuery(small, asked, 10))))
            by_encoding = MultiVectorQuery(both, asked, 10, oversampling=10.0)
            hits["both"] += len(truth & set(found(engine, by_encoding)))
            exact = MultiVectorQuery(both, asked, 10, is_exact=True)
            hits["exact"] += len(truth & set(found(engine, exact)))
            assert found(engine, exact, 0.1) == found(engine, by_encoding, 0.1)
    assert hits["small"] == hits["exact"] >= 0.97 * 10 * QUERIES
    assert hits["both"] >= 0.9 * 10 * QUERIES


def test_int8_tokens_are_read_from_the_store_unchanged(
    folder_of_tokens: Path, tmp_path: Path, tokens: tuple[list[F32], list[F32]]
) -> None:
    shutil.copytree(folder_of_tokens, tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "segments")
    given = np.concatenate(tokens[0])
    expected = TokenVectors.quantize(given, np.array([len(one) for one in tokens[0]], dtype=np.int64), TokenType.I8)
    with engine_on(tmp_path / "data") as engine:
        (part,) = engine.catalog.find("c").view.parts
        stored = part.block.multi_vectors["small"].tokens
        np.testing.assert_array_equal(stored.vectors, expected.vectors)
        np.testing.assert_array_equal(stored.scales, expected.scales)


def harm(folder: Path, name: str, damage: str) -> None:
    """Damage a file of a segment, or replace it by a file of another format with a matching manifest."""
    path = folder / name
    content = path.read_bytes()
    match damage:
        case "flip":
            middle = len(content) // 2
            path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        case "remove":
            path.unlink()
        case other:
            shutil.copy(folder / other, path)
            manifest = json.loads((folder / MANIFEST).read_text())
            manifest["files"][name] = {"bytes": path.stat().st_size, "crc32": crc32(path)}
            (folder / MANIFEST).write_text(json.dumps(manifest))


FORM_DAMAGE = [
    *((f"coarse-{coarse}_0.faiss", damage) for coarse in CoarseType for damage in ("flip", "remove")),
    ("coarse-b1_0.faiss", "coarse-i8_0.faiss"),
    ("coarse-i8_0.faiss", "coarse-b1_0.faiss"),
    ("coarse-i8_0.faiss", "coarse-i8_256.faiss"),
    ("coarse-f16_0.faiss", "coarse-f32_0.faiss"),
]


@pytest.mark.parametrize(("name", "damage"), FORM_DAMAGE)
def test_an_approximate_index_that_is_damaged_or_of_another_format_is_not_used(
    folder_of_forms: Path, tmp_path: Path, name: str, damage: str
) -> None:
    (saved,) = folder_of_forms.glob("segments/*/*")
    folder = Path(shutil.copytree(saved, tmp_path / saved.name))
    schema = Schema(
        dense=tuple(field_of(*form) for form in FORMS), metadata=(MetadataField(name="share", kind=Kind.NUMBER),)
    )
    assert len(load(folder, schema).block.rows) == DOCUMENTS
    harm(folder, name, damage)
    with pytest.raises(DamagedSegment, match=name):
        load(folder, schema)


@pytest.mark.parametrize("damage", ["flip", "remove"])
@pytest.mark.parametrize("name", ["coarse-both.faiss", "scales-both.npy", "tokens-both.npy"])
def test_a_damaged_segment_of_tokens_is_detected_and_rebuilt(
    folder_of_tokens: Path, tmp_path: Path, tokens: tuple[list[F32], list[F32]], name: str, damage: str
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(folder_of_tokens, folder)
    (saved,) = folder.glob("segments/*/*")
    harm(saved, name, damage)
    both = multi_vector_schema().multi_vector[2]
    with engine_on(folder) as engine:
        assert not any(part.block.is_segment for part in engine.catalog.find("c").view.parts)
    with engine_on(folder, 100) as engine:
        engine.build_segments(lambda: False)
        (part,) = engine.catalog.find("c").view.parts
        assert part.block.multi_vectors["both"].ann is not None
        assert len(found(engine, MultiVectorQuery(both, tokens[1][0], 10))) == 10


def test_a_folder_of_a_release_without_formats_is_loaded_with_its_segment(
    tmp_path: Path, embeddings: tuple[F32, F32]
) -> None:
    field = DenseField(name="v", dimensions=DIMENSIONS, metric=Metric.COSINE)
    schema = Schema(dense=(field,), multi_vector=(MultiVectorField(name="t", dimensions=2),))
    none = TokenVectors.quantize(np.empty((0, 2), dtype=np.float32), np.zeros(300, dtype=np.int64), TokenType.F16)
    with engine_on(tmp_path, 200) as engine:
        engine.create("c", schema)
        batch = Batch(documents_of(300), [embeddings[0][:300]], multi_vector=[none])
        engine.upsert(engine.catalog.find("c"), batch)
        engine.build_segments(lambda: False)
    older = {
        "dense": [{"name": "v", "dimensions": DIMENSIONS, "metric": "cosine", "model_digest": ""}],
        "multi_vector": [{"name": "t", "dimensions": 2, "model_digest": ""}],
    }
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        connection.execute("UPDATE collections SET schema = ?", (json.dumps(older),))
    connection.close()
    with engine_on(tmp_path) as engine:
        (part,) = engine.catalog.find("c").view.parts
        assert part.block.is_segment
        assert engine.create("c", schema).schema == schema


def dense(**form: Any) -> pb.Schema:
    return pb.Schema(dense_fields=[pb.DenseField(name="v", dimensions=8, **form)])


def multi_vector(
    dimensions: int = 8, stored: tns.DataType.ValueType = tns.DATA_TYPE_FLOAT16, **encoding: Any
) -> pb.Schema:
    encoded = pb.FixedDimensionalEncoding(**encoding)
    field = pb.MultiVectorField(name="t", dimensions=dimensions, stored=stored, encoding=encoded)
    return pb.Schema(multi_vector_fields=[field])


REFUSED = [
    (dense(coarse=tns.DATA_TYPE_INT32), "schema.dense_fields[0].coarse"),
    (dense(coarse=77), "schema.dense_fields[0].coarse"),
    (dense(coarse=tns.DATA_TYPE_BITS, metric=pb.METRIC_L2), "schema.dense_fields[0].coarse"),
    (dense(coarse=tns.DATA_TYPE_BITS, metric=pb.METRIC_DOT), "schema.dense_fields[0].coarse"),
    (dense(coarse_dimensions=9), "schema.dense_fields[0].coarse_dimensions"),
    (dense(coarse_dimensions=-1), "schema.dense_fields[0].coarse_dimensions"),
    (multi_vector(stored=tns.DATA_TYPE_FLOAT32), "schema.multi_vector_fields[0].stored"),
    (multi_vector(repetitions=65), "schema.multi_vector_fields[0].encoding.repetitions"),
    (multi_vector(repetitions=-1), "schema.multi_vector_fields[0].encoding.repetitions"),
    (multi_vector(partition_bits=9), "schema.multi_vector_fields[0].encoding.partition_bits"),
    (multi_vector(projected_dimensions=9), "schema.multi_vector_fields[0].encoding.projected_dimensions"),
    (multi_vector(final_dimensions=16_385), "schema.multi_vector_fields[0].encoding.final_dimensions"),
    (multi_vector(repetitions=1, final_dimensions=257), "schema.multi_vector_fields[0].encoding.final_dimensions"),
    (multi_vector(repetitions=64, partition_bits=8), "schema.multi_vector_fields[0].encoding.final_dimensions"),
    (multi_vector(32, repetitions=64, partition_bits=8, final_dimensions=9), "schema.multi_vector_fields[0].encoding"),
]


async def test_invalid_combinations_are_rejected_with_their_path(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path) as stub:
        for schema, path in REFUSED:
            error = await error_of(stub.CreateCollection(pb.CreateCollectionRequest(name="bad", schema=schema)))
            assert isinstance(error, InvalidRequest)
            assert path in [violation.field for violation in error.violations], schema


def test_milvus_rejects_unsupported_formats() -> None:
    fields = (field_of(CoarseType.I8), field_of(CoarseType.F32), field_of(CoarseType.B1), field_of(CoarseType.I8, 256))
    refused = [one.field for one in unsupported(Schema(dense=fields), parse_version("v2.6.0"))]
    assert refused == ["schema.dense_fields[2].coarse", "schema.dense_fields[3].coarse_dimensions"]


async def test_formats_are_described_and_oversampling_is_limited(tmp_path: Path) -> None:
    schema = dense(coarse=tns.DATA_TYPE_BITS, coarse_dimensions=5, metric=pb.METRIC_COSINE)
    schema.MergeFrom(multi_vector(4, stored=tns.DATA_TYPE_INT8, repetitions=3, seed=2**64 - 1))
    tokens = to_tensor(np.eye(2, 4, dtype=np.float32))
    late = pb.FieldQuery(field="t", multi_vector=tokens, depth=1, oversampling=2)

    async with retrieval_stub(tmp_path) as stub:
        created = await stub.CreateCollection(pb.CreateCollectionRequest(name="c", schema=schema))
        described = created.collection.schema
        assert described.dense_fields == schema.dense_fields
        expected = schema.multi_vector_fields[0]
        expected.encoding.MergeFrom(pb.FixedDimensionalEncoding(partition_bits=5, projected_dimensions=4))
        assert described.multi_vector_fields == [expected]
        again = await stub.CreateCollection(pb.CreateCollectionRequest(name="c", schema=described))
        assert again == created
        for oversampling in (0.5, 101.0, float("nan"), -1.0):
            asked = query(np.ones(8), oversampling=oversampling)
            error = await error_of(stub.Retrieve(pb.RetrieveRequest(collection="c", queries=[asked])))
            assert isinstance(error, InvalidRequest)
            assert [violation.field for violation in error.violations] == ["queries[0].oversampling"]
        fine = [query(np.ones(8), oversampling=1), query(np.ones(8), oversampling=100), late]
        await stub.Retrieve(pb.RetrieveRequest(collection="c", queries=fine))
