"""The fields and indexes of a collection in Milvus, and the schemas that Milvus does not support.

Rule: fields of this engine start with an uppercase letter, which fields of schemas never do, so names cannot collide.

    Id                 VARCHAR, primary key
    Title, Text        VARCHAR
    Metadata           JSON: all metadata of the document, a timestamp as {"us": microseconds}
    Hash               VARCHAR: the caller's content hash
    <dense field>      FLOAT_VECTOR with an HNSW or FLAT index
    <sparse field>     SPARSE_FLOAT_VECTOR with an inverted index
    <text field>       SPARSE_FLOAT_VECTOR that the BM25 function of Milvus computes from Words_<text field>
    Words_<text field> VARCHAR: the document's terms by Sluice's text analysis, as in the embedded engine
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sluice.errors import Violation

from services.retrieval.domain.schema import CoarseType, DenseField, Metric, Schema, TextField
from services.retrieval.milvus.version import MilvusVersion

ID: Final = "Id"
TITLE: Final = "Title"
TEXT: Final = "Text"
METADATA: Final = "Metadata"
HASH: Final = "Hash"
DOCUMENT: Final = (ID, TITLE, TEXT, METADATA, HASH)

ID_BYTES: Final = 512
# Maximum limit of a search in Milvus.
LIMIT_MAX: Final = 16_384
# Maximum length of a VARCHAR in Milvus.
STRING_BYTES: Final = 65_535
K1_MAX: Final = 3.0
METRICS: Final = {Metric.COSINE: "COSINE", Metric.DOT: "IP", Metric.L2: "L2"}
_INVERTED: Final = "SPARSE_INVERTED_INDEX"
# As in the embedded engine: see services/retrieval/embedded/index/planner.py.
_GRAPH: Final = {"M": 16, "efConstruction": 128}


def words_of(field: TextField) -> str:
    """Return the name of the field with the terms of a text field."""
    return f"Words_{field.name}"


def unsupported(schema: Schema, version: MilvusVersion) -> list[Violation]:
    """Return a violation for each part of a schema that this version of Milvus does not support."""
    found = [*_unsupported_fields(schema, version), *_unsupported_formats(schema)]
    return [Violation(path, description) for path, description in found]


def _unsupported_fields(schema: Schema, version: MilvusVersion) -> Iterable[tuple[str, str]]:
    for i, _ in enumerate(schema.multi_vector):
        yield f"schema.multi_vector_fields[{i}]", "expected none: Milvus has no MaxSim; use the embedded engine"
    for i, text in enumerate(schema.text):
        if text.k1 > K1_MAX:
            yield f"schema.text_fields[{i}].k1", f"expected 0 to {K1_MAX:g} with Milvus, got {text.k1:g}"
    if not version.has_sparse:
        older = f"expected none: Milvus {version} has no sparse vectors and no BM25; Milvus 2.5 has both"
        yield from ((f"schema.text_fields[{i}]", older) for i, _ in enumerate(schema.text))
        yield from ((f"schema.sparse_fields[{i}]", older) for i, _ in enumerate(schema.sparse))
    if not version.has_several_vectors:
        for i, _ in enumerate(schema.dense[1:], start=1):
            yield (
                f"schema.dense_fields[{i}]",
                f"expected one: Milvus {version} supports a single vector field; Milvus 2.4 supports several",
            )


def _unsupported_formats(schema: Schema) -> Iterable[tuple[str, str]]:
    """Yield the coarse formats of dense fields that Milvus does not support.

    Milvus stores float32. The default, int8, applies to the embedded engine only and is accepted.
    """
    for i, field in enumerate(schema.dense):
        if field.coarse in {CoarseType.F16, CoarseType.B1}:
            yield f"schema.dense_fields[{i}].coarse", f"expected FLOAT32 or unset with Milvus, got {field.coarse}"
        if field.has_prefix:
            yield f"schema.dense_fields[{i}].coarse_dimensions", "expected 0: Milvus has no index of leading dimensions"


def add_fields(target: Any, schema: Schema, kinds: Any, function: Any) -> None:
    """Add the fields of a schema to a schema of Milvus, with its `DataType` and a factory of BM25 functions."""
    target.add_field(ID, kinds.VARCHAR, is_primary=True, max_length=ID_BYTES)
    for name in (TITLE, TEXT, HASH):
        target.add_field(name, kinds.VARCHAR, max_length=STRING_BYTES)
    target.add_field(METADATA, kinds.JSON)
    for dense in schema.dense:
        target.add_field(dense.name, kinds.FLOAT_VECTOR, dim=dense.dimensions)
    for sparse in schema.sparse:
        target.add_field(sparse.name, kinds.SPARSE_FLOAT_VECTOR)
    for text in schema.text:
        analyzer = {"tokenizer": "standard"}
        target.add_field(
            words_of(text), kinds.VARCHAR, max_length=STRING_BYTES, enable_analyzer=True, analyzer_params=analyzer
        )
        target.add_field(text.name, kinds.SPARSE_FLOAT_VECTOR)
        target.add_function(function(text.name, words_of(text)))


@dataclass(frozen=True)
class Index:
    """An index with the name of its field."""

    field: str
    kind: str
    metric: str
    params: Mapping[str, float]


def indexes(schema: Schema, dense_index: str) -> list[Index]:
    """Return the index of each search field."""
    graph = _GRAPH if dense_index == "HNSW" else {}
    return [
        *(Index(field.name, dense_index, METRICS[field.metric], graph) for field in schema.dense),
        *(Index(field.name, _INVERTED, "IP", {}) for field in schema.sparse),
        *(Index(field.name, _INVERTED, "BM25", {"bm25_k1": field.k1, "bm25_b": field.b}) for field in schema.text),
    ]


def search_parameters(field: DenseField, dense_index: str, depth: int) -> dict[str, Any]:
    """Return the parameters for searching a dense field. The beam of the graph gives a recall of about 0.99."""
    params = {"ef": max(2 * depth, 144)} if dense_index == "HNSW" else {}
    return {"metric_type": METRICS[field.metric], "params": params}
