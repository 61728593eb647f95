"""What is written into the files of a release: documents, schemas, pipelines, tokens and settings."""

import random
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sluice.client import Document, float32_tensor
from sluice.client.documents import document_proto
from sluice.common.v1 import tensor_pb2 as tns
from sluice.retrieval.v1 import retrieval_service_pb2 as pb

WORDS: Final = (
    "river", "mountain", "engine", "harbor", "violin", "copper", "garden", "winter", "library", "signal",
    "bridge", "orange", "lantern", "market", "glacier", "thread", "compass", "meadow", "printer", "saddle",
)  # fmt: skip
DIMENSIONS: Final = 8
FIELDS: Final = {"author": "string", "year": "number", "printed": "bool", "added": "timestamp", "tags": "list"}
SECRETS: Final = {"reader": "sluice_reader", "writer": "sluice_writer", "slow": "sluice_slow", "admin": "sluice_admin"}
_VOCABULARY: Final = 50

PIPELINES: Final = """\
# Every key that a file of pipelines can have.
default: &whole
  description: Four retrievers, late interaction, two rerankers, feedback and a cut-off.
  retrieve:
    - {name: dense, kind: dense, field: dense, model: tiny, depth: 20, on_error: skip, on_timeout: skip, share: 0.9}
    - {name: words, kind: text, depth: 20, on_error: skip, share: 0.9, optional: true}
    - {name: terms, kind: sparse, depth: 20, on_error: skip, share: 0.9, optional: true}
    - {name: tokens, kind: multi_vector, field: multi_vector, depth: 20, on_error: skip, share: 0.9}
  fuse:
    method: weighted_sum
    normalisation: z_score
    weights: {dense: 1, words: 0.5, terms: 0.25, tokens: 1}
    depth: 20
  refine:
    name: maxsim
    field: multi_vector
    model: tiny
    depth: 20
    on_error: skip
    on_timeout: skip
    share: 0.9
    optional: true
    interpolate: {weight: 0.5, normalisation: min_max}
  rerank:
    - {name: late, model: tiny, depth: 12, slice: 5, share: 0.9, interpolate: {weight: 0.7, normalisation: z_score}}
    - {name: pairs, model: tiny-pairs, depth: 10, on_error: fail}
  feedback: {name: again, retriever: dense, documents: 3, weight: 0.4, depth: 10, share: 0.9, on_error: skip}
  cut_off: {max_drop: 1000, min_score: -1000}

whole: *whole

ranks:
  description: Fused by rank.
  retrieve:
    - {name: dense, kind: dense, depth: 20}
    - {name: words, kind: text, depth: 20}
  fuse: {method: rrf, constant: 10, depth: 10}

vectors:
  description: One retriever.
  retrieve:
    - {name: dense, kind: dense, depth: 20}

cut:
  description: Ends where scores drop.
  retrieve:
    - {name: words, kind: text, depth: 20}
  cut_off: {max_drop: 0.05}

unserved:
  description: Names a model that no service has.
  retrieve:
    - {name: dense, kind: dense, model: another, depth: 20}
"""


def _entry(name: str, *lines: str) -> str:
    digest = sha256(SECRETS[name].encode()).hexdigest()
    return "".join(f"{line}\n" for line in (f"- name: {name}", f"  sha256: {digest}", *lines))


TOKENS: Final = "".join(
    (
        "# Every key that a file of tokens can have.\n",
        _entry("reader", "  collections: ['guide', 'chu*']"),
        _entry("writer", "  may: [read, write]", "  calls_per_s: 1000", "  texts_per_s: 1000", "  texts_burst: 5"),
        _entry("slow", "  calls_per_s: 0.0001", "  calls_burst: 1"),
        _entry("admin", "  may: [read, write, admin]"),
    )
)

# Environment of each process. FOLDER is where the files are unpacked.
SETTINGS: Final[Mapping[str, dict[str, str]]] = {
    "embedding": {
        "SLUICE_EMBEDDING_BUNDLES": '["FOLDER/bundles/tiny/1", "FOLDER/bundles/tiny-sparse/1"]',
        "SLUICE_EMBEDDING_VARIANT": "fp32",
        "SLUICE_EMBEDDING_THREADS": "1",
        "SLUICE_EMBEDDING_MAX_TEXTS": "64",
        "SLUICE_EMBEDDING_CACHE_ENTRIES": "0",
        "SLUICE_EMBEDDING_GOLDEN_CHECK_S": "0",
    },
    "reranking": {
        "SLUICE_RERANKING_BUNDLES": '["FOLDER/bundles/tiny/1", "FOLDER/bundles/tiny-pairs/1"]',
        "SLUICE_RERANKING_REPOSITORY": "FOLDER/bundles",
        "SLUICE_RERANKING_MAX_DOCUMENTS": "32",
        "SLUICE_RERANKING_REFLECTION": "off",
    },
    "retrieval": {
        "SLUICE_RETRIEVAL_DATA": "FOLDER/data",
        "SLUICE_RETRIEVAL_SNAPSHOTS": "FOLDER/snapshots",
        "SLUICE_RETRIEVAL_MAX_DEPTH": "500",
        "SLUICE_RETRIEVAL_RECALL_SAMPLE_EVERY": "0",
        "SLUICE_RETRIEVAL_READY_UNWRITABLE": "true",
        "SLUICE_RETRIEVAL_MAX_MESSAGE_BYTES": "8388608",
    },
    "orchestrator": {
        "SLUICE_ORCHESTRATOR_PIPELINES": "FOLDER/pipelines.yaml",
        "SLUICE_ORCHESTRATOR_TOKENS": "FOLDER/tokens.yaml",
        "SLUICE_ORCHESTRATOR_INDEX_MODEL": "tiny",
        "SLUICE_ORCHESTRATOR_INDEX_FIELDS": '["dense", "text", "sparse", "multi_vector"]',
        "SLUICE_ORCHESTRATOR_MAX_QUERY_BYTES": "4096",
        "SLUICE_ORCHESTRATOR_BATCH_DOCUMENTS": "8",
        "SLUICE_ORCHESTRATOR_COMPRESSION": "false",
    },
    "gateway": {
        "SLUICE_GATEWAY_TOKENS": "FOLDER/tokens.yaml",
        "SLUICE_GATEWAY_HOSTS": '["127.0.0.1"]',
        "SLUICE_GATEWAY_INNER_ROUTES": "follow",
        "SLUICE_GATEWAY_MAX_INPUTS": "16",
        "SLUICE_GATEWAY_MAX_TEXT_BYTES": "4096",
    },
}

# The same with one model in each service, because the routes of TEI do not name any.
ONE_MODEL_SETTINGS: Final = {
    **SETTINGS,
    "embedding": SETTINGS["embedding"] | {"SLUICE_EMBEDDING_BUNDLES": '["FOLDER/bundles/tiny/1"]'},
    "reranking": SETTINGS["reranking"] | {"SLUICE_RERANKING_BUNDLES": '["FOLDER/bundles/tiny-pairs/1"]'},
}


def documents(first: int, count: int, *, revision: int = 0) -> list[Document]:
    """Return documents with words, and with metadata of each type in most of them."""
    return [
        _document(number, random.Random(number * 31 + revision), revision) for number in range(first, first + count)
    ]


def _document(number: int, draw: random.Random, revision: int) -> Document:
    text = " ".join(draw.choices(WORDS, k=draw.randint(4, 12)))
    metadata: dict[str, Any] = {
        "author": draw.choice(("Ada", "Bo", "Çelik", "")),
        "year": 1990 + number / 4,
        "printed": number % 3 == 0,
        "added": datetime(2020, 1, 1 + number % 28, 12, 30, tzinfo=UTC),
        "tags": draw.sample(WORDS, 2),
        "undeclared": f"revision {revision}",
    }
    if number % 7 == 0:
        del metadata["year"]
    return Document(f"d{number:03}", text, title=f"About {draw.choice(WORDS)}", metadata=metadata)


def schema() -> pb.Schema:
    """Return a schema with a field of each kind and of each form of its index."""
    return pb.Schema(
        dense_fields=[
            pb.DenseField(name="int8", dimensions=DIMENSIONS, metric=pb.METRIC_COSINE, coarse=tns.DATA_TYPE_INT8),
            pb.DenseField(name="fp32", dimensions=DIMENSIONS, metric=pb.METRIC_L2, coarse=tns.DATA_TYPE_FLOAT32),
            pb.DenseField(name="fp16", dimensions=DIMENSIONS, metric=pb.METRIC_DOT, coarse=tns.DATA_TYPE_FLOAT16),
            pb.DenseField(
                name="bits", dimensions=DIMENSIONS, metric=pb.METRIC_COSINE, coarse=tns.DATA_TYPE_BITS,
                coarse_dimensions=4, model_digest="m1",
            ),
        ],
        text_fields=[pb.TextField(name="text"), pb.TextField(name="plain", language="none", k1=1.2, b=0.3)],
        sparse_fields=[pb.SparseField(name="sparse", model_digest="m2")],
        multi_vector_fields=[
            pb.MultiVectorField(
                name="tokens", dimensions=DIMENSIONS,
                encoding=pb.FixedDimensionalEncoding(repetitions=4, partition_bits=2, final_dimensions=64, seed=5),
            )
        ],
        metadata_fields=metadata_fields(),
    )  # fmt: skip


def other_schema() -> pb.Schema:
    """Return a schema with the forms that `schema` does not have."""
    return pb.Schema(
        text_fields=[pb.TextField(name="text", language="german", keep_stop_words=True)],
        multi_vector_fields=[
            pb.MultiVectorField(name="tokens", dimensions=DIMENSIONS, stored=tns.DATA_TYPE_INT8, model_digest="m3")
        ],
        metadata_fields=metadata_fields(),
    )


def metadata_fields() -> list[pb.MetadataField]:
    """Return a field of each type of metadata."""
    return [
        pb.MetadataField(name=name, type=pb.MetadataType.Value(f"METADATA_TYPE_{kind.upper()}"))
        for name, kind in FIELDS.items()
    ]


def vector(name: str) -> NDArray[np.float32]:
    """Return a vector, float32 [8], that follows from the name."""
    seed = int.from_bytes(sha256(name.encode()).digest()[:4], "big")
    return np.random.default_rng(seed).standard_normal(DIMENSIONS).astype(np.float32)


def tokens(name: str, count: int) -> NDArray[np.float32]:
    """Return token vectors, float32 [count, 8], that follow from the name."""
    return np.stack([vector(f"{name} {number}") for number in range(count)])


def sparse(names: list[str]) -> tns.SparseVectors:
    """Return some weighted terms for each name, which they follow from."""
    indices, weights, counts = [], [], []
    for name in names:
        draw = random.Random(name)
        terms = sorted(draw.sample(range(_VOCABULARY), 6))
        indices += terms
        weights += [draw.uniform(0.1, 2) for _ in terms]
        counts.append(len(terms))
    return tns.SparseVectors(
        indices=tns.Tensor(
            data_type=tns.DATA_TYPE_INT32, shape=[len(indices)], data=np.array(indices, dtype="<i4").tobytes()
        ),
        weights=tns.Tensor(
            data_type=tns.DATA_TYPE_FLOAT32, shape=[len(weights)], data=np.array(weights, dtype="<f4").tobytes()
        ),
        term_counts=counts,
    )


def upsert(collection: str, given: pb.Schema, first: int, count: int, *, revision: int = 0) -> pb.UpsertRequest:
    """Return a write of documents with vectors for each field of the schema."""
    written = documents(first, count, revision=revision)
    names = [f"{one.document_id} {revision}" for one in written]
    return pb.UpsertRequest(
        collection=collection,
        documents=[document_proto(one) for one in written],
        content_hashes=[sha256(one.text.encode()).hexdigest() for one in written],
        dense=[
            pb.DenseColumn(
                field=field.name, model_digest=field.model_digest,
                vectors=float32_tensor(np.stack([vector(f"{field.name} {name}") for name in names]), axes=2, field="v"),
            )
            for field in given.dense_fields
        ],
        sparse=[
            pb.SparseColumn(field=field.name, model_digest=field.model_digest, vectors=sparse(names))
            for field in given.sparse_fields
        ],
        multi_vectors=[_multi_vectors(field, names) for field in given.multi_vector_fields],
    )  # fmt: skip


def _multi_vectors(field: pb.MultiVectorField, names: list[str]) -> pb.MultiVectorColumn:
    counts = [2 + number % 3 for number in range(len(names))]
    rows = np.concatenate([tokens(name, count) for name, count in zip(names, counts, strict=True)])
    vectors = tns.MultiVectors(tokens=float32_tensor(rows, axes=2, field="v"), token_counts=counts)
    return pb.MultiVectorColumn(field=field.name, model_digest=field.model_digest, vectors=vectors)
