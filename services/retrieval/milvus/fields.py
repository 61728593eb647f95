"""The fields of a collection in Milvus, and what cannot be one.

Rule: our own fields begin with a capital; those of schemas never do, so names cannot collide.

    Id                 VARCHAR, primary key
    Title, Text        VARCHAR
    Metadata           JSON: all metadata of the document, a timestamp as {"us": microseconds}
    Hash               VARCHAR: the caller's content hash
    <dense field>      FLOAT_VECTOR with an HNSW or FLAT index
    <sparse field>     SPARSE_FLOAT_VECTOR with an inverted index
    <text field>       SPARSE_FLOAT_VECTOR that Milvus's BM25 function makes of Words_<text field>
    Words_<text field> VARCHAR: the document's terms by our analysis, so that both engines find the same
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sluice.errors import Violation

from services.retrieval.domain.schema import Coarse, DenseField, Metric, Schema, TextField
from services.retrieval.milvus.version import Version

ID: Final = "Id"
TITLE: Final = "Title"
TEXT: Final = "Text"
METADATA: Final = "Metadata"
HASH: Final = "Hash"
DOCUMENT: Final = (ID, TITLE, TEXT, METADATA, HASH)

ID_BYTES: Final = 512
# Most that a search of Milvus finds.
LIMIT_MAX: Final = 16_384
# What a VARCHAR of Milvus holds.
STRING_BYTES: Final = 65_535
K1_MAX: Final = 3.0
METRICS: Final = {Metric.COSINE: "COSINE", Metric.DOT: "IP", Metric.L2: "L2"}
_INVERTED: Final = "SPARSE_INVERTED_INDEX"
# The graph that the embedded engine has: see services/retrieval/embedded/index/planner.py.
_GRAPH: Final = {"M": 16, "efConstruction": 128}


def words_of(field: TextField) -> str:
    """Name of the field with the terms of a text field."""
    return f"Words_{field.name}"


def refusals(schema: Schema, version: Version) -> list[Violation]:
    """What Milvus, or this version of it, cannot hold of a schema."""
    found = [*_refusals(schema, version), *_form_refusals(schema)]
    return [Violation(path, description) for path, description in found]


def _refusals(schema: Schema, version: Version) -> Iterable[tuple[str, str]]:
    for i, _ in enumerate(schema.multi_vector):
        yield f"schema.multi_vector_fields[{i}]", "expected none: Milvus has no MaxSim; use the embedded engine"
    for i, text in enumerate(schema.text):
        if text.k1 > K1_MAX:
            yield f"schema.text_fields[{i}].k1", f"expected 0 to {K1_MAX:g}, as Milvus takes it, got {text.k1:g}"
    if not version.has_sparse:
        older = f"expected none: Milvus {version} has no sparse vectors and no BM25; 2.5 has them"
        yield from ((f"schema.text_fields[{i}]", older) for i, _ in enumerate(schema.text))
        yield from ((f"schema.sparse_fields[{i}]", older) for i, _ in enumerate(schema.sparse))
    if not version.has_several_vectors:
        for i, _ in enumerate(schema.dense[1:], start=1):
            yield (
                f"schema.dense_fields[{i}]",
                f"expected one: Milvus {version} has no second vector; 2.4 has",
            )


def _form_refusals(schema: Schema) -> Iterable[tuple[str, str]]:
    """Milvus holds all of float32. The default, int8, says how the embedded engine holds it, and asks for nothing."""
    for i, field in enumerate(schema.dense):
        if field.coarse in {Coarse.F16, Coarse.B1}:
            yield f"schema.dense_fields[{i}].coarse", f"expected FLOAT32 or unset with Milvus, got {field.coarse}"
        if field.has_prefix:
            yield f"schema.dense_fields[{i}].coarse_dimensions", "expected 0: Milvus has no index of a prefix"


def add_fields(made: Any, schema: Schema, kinds: Any, function: Any) -> None:
    """Add the fields of the schema to Milvus's; `kinds` is its DataType, `function` makes a BM25 function."""
    made.add_field(ID, kinds.VARCHAR, is_primary=True, max_length=ID_BYTES)
    for name in (TITLE, TEXT, HASH):
        made.add_field(name, kinds.VARCHAR, max_length=STRING_BYTES)
    made.add_field(METADATA, kinds.JSON)
    for dense in schema.dense:
        made.add_field(dense.name, kinds.FLOAT_VECTOR, dim=dense.dimensions)
    for sparse in schema.sparse:
        made.add_field(sparse.name, kinds.SPARSE_FLOAT_VECTOR)
    for text in schema.text:
        analyzer = {"tokenizer": "standard"}
        made.add_field(
            words_of(text), kinds.VARCHAR, max_length=STRING_BYTES, enable_analyzer=True, analyzer_params=analyzer
        )
        made.add_field(text.name, kinds.SPARSE_FLOAT_VECTOR)
        made.add_function(function(text.name, words_of(text)))


@dataclass(frozen=True)
class Index:
    """An index to make, which has the name of its field."""

    field: str
    kind: str
    metric: str
    params: Mapping[str, float]


def indexes(schema: Schema, dense_index: str) -> list[Index]:
    """An index for each field by which documents are found."""
    graph = _GRAPH if dense_index == "HNSW" else {}
    return [
        *(Index(field.name, dense_index, METRICS[field.metric], graph) for field in schema.dense),
        *(Index(field.name, _INVERTED, "IP", {}) for field in schema.sparse),
        *(Index(field.name, _INVERTED, "BM25", {"bm25_k1": field.k1, "bm25_b": field.b}) for field in schema.text),
    ]


def search_parameters(field: DenseField, dense_index: str, depth: int) -> dict[str, Any]:
    """How to search a dense field: the graph is followed as far as recall of about 0.99 needs."""
    params = {"ef": max(2 * depth, 144)} if dense_index == "HNSW" else {}
    return {"metric_type": METRICS[field.metric], "params": params}
