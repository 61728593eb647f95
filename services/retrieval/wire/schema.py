"""Schemas, from and to protos."""

import re
from collections.abc import Callable, Iterable, Sequence, Sized
from typing import Final, TypeVar

from sluice.common.v1 import model_pb2
from sluice.common.v1 import tensor_pb2 as tns
from sluice.retrieval.v1 import retrieval_service_pb2 as pb

from services.retrieval.domain.analysis import LANGUAGES
from services.retrieval.domain.schema import (
    Aggregation,
    CoarseType,
    DenseField,
    FdeParameters,
    Kind,
    MetadataField,
    Metric,
    MultiVectorField,
    Schema,
    SparseField,
    TextField,
    TokenType,
    Windows,
)
from services.rpc.validation import Violations

F = TypeVar("F")
V = TypeVar("V")

_SEARCH_FIELDS_MAX: Final = 8
_METADATA_FIELDS_MAX: Final = 64
_DIMENSIONS_MAX: Final = 8192
_TOKEN_DIMENSIONS_MAX: Final = 1024
_DIGEST_BYTES_MAX: Final = 128
_REPETITIONS_MAX: Final = 64
_PARTITION_BITS_MAX: Final = 8
# Dimensions of an encoding in the approximate index, and before the final projection.
_ENCODED_MAX: Final = 16_384
_ENCODED_WHOLE_MAX: Final = 65_536
_OVERLAP_MAX: Final = 65_536

_FIELD_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,63}")
_FIELD_NAME_RULE: Final = "1 to 64 of [a-z0-9_], not starting with a digit"

_METRICS: Final = {
    pb.METRIC_UNSPECIFIED: Metric.COSINE,
    pb.METRIC_COSINE: Metric.COSINE,
    pb.METRIC_DOT: Metric.DOT,
    pb.METRIC_L2: Metric.L2,
}
_METRIC_NUMBERS: Final = {metric: number for number, metric in _METRICS.items()}
_COARSE: Final = {
    tns.DATA_TYPE_UNSPECIFIED: CoarseType.I8,
    tns.DATA_TYPE_FLOAT32: CoarseType.F32,
    tns.DATA_TYPE_FLOAT16: CoarseType.F16,
    tns.DATA_TYPE_INT8: CoarseType.I8,
    tns.DATA_TYPE_BITS: CoarseType.B1,
}
_COARSE_NUMBERS: Final = {coarse: number for number, coarse in _COARSE.items()}
_TOKEN_TYPES: Final = {
    tns.DATA_TYPE_UNSPECIFIED: TokenType.F16,
    tns.DATA_TYPE_FLOAT16: TokenType.F16,
    tns.DATA_TYPE_INT8: TokenType.I8,
}
_TOKEN_TYPE_NUMBERS: Final = {type_: number for number, type_ in _TOKEN_TYPES.items()}
_KINDS: Final = {
    pb.METADATA_TYPE_STRING: Kind.STRING,
    pb.METADATA_TYPE_NUMBER: Kind.NUMBER,
    pb.METADATA_TYPE_BOOL: Kind.BOOL,
    pb.METADATA_TYPE_TIMESTAMP: Kind.TIMESTAMP,
    pb.METADATA_TYPE_LIST: Kind.LIST,
}
_KIND_NUMBERS: Final = {kind: number for number, kind in _KINDS.items()}
_AGGREGATIONS: Final = {
    model_pb2.WINDOW_AGGREGATION_UNSPECIFIED: Aggregation.MEAN,
    model_pb2.WINDOW_AGGREGATION_MEAN: Aggregation.MEAN,
    model_pb2.WINDOW_AGGREGATION_MAX: Aggregation.MAX,
}
_AGGREGATION_NUMBERS: Final = {aggregation: number for number, aggregation in _AGGREGATIONS.items()}


def read_schema(given: pb.Schema, violations: Violations) -> Schema:
    """Return the schema, and note what is wrong with it. Raises InvalidRequest at once for too many fields."""
    kinds: tuple[Sized, ...] = (
        given.dense_fields,
        given.text_fields,
        given.sparse_fields,
        given.multi_vector_fields,
    )
    count, metadata_count = sum(len(fields) for fields in kinds), len(given.metadata_fields)
    violations.limit("schema", count, low=1, high=_SEARCH_FIELDS_MAX, what="fields to search by")
    violations.limit("schema.metadata_fields", metadata_count, low=0, high=_METADATA_FIELDS_MAX, what="fields")
    if count > _SEARCH_FIELDS_MAX or metadata_count > _METADATA_FIELDS_MAX:
        violations.raise_if_any()
    schema = Schema(
        dense=_read_fields("dense", given.dense_fields, _dense, violations),
        metadata=_read_fields("metadata", given.metadata_fields, _metadata, violations),
        text=_read_fields("text", given.text_fields, _text, violations),
        sparse=_read_fields("sparse", given.sparse_fields, _sparse, violations),
        multi_vector=_read_fields("multi_vector", given.multi_vector_fields, _multi_vector, violations),
        windows=_windows(given.windows, violations) if given.HasField("windows") else None,
    )
    unique(_names(given), violations)
    return schema


def _read_fields(
    kind: str, given: Sequence[F], read: Callable[[str, F, Violations], V], violations: Violations
) -> tuple[V, ...]:
    return tuple(read(f"schema.{kind}_fields[{i}]", field, violations) for i, field in enumerate(given))


def unique(named: Iterable[tuple[str, str]], violations: Violations) -> None:
    """Note every (path, value) pair whose value occurs at an earlier path."""
    first: dict[str, str] = {}
    for path, value in named:
        if first.setdefault(value, path) != path:
            violations.add(path, f"expected a unique value, got {value[:64]!r} as in {first[value]}")


def _names(given: pb.Schema) -> Iterable[tuple[str, str]]:
    """Yield the path and the name of every field."""
    kinds = ("dense_fields", "metadata_fields", "text_fields", "sparse_fields", "multi_vector_fields")
    for kind in kinds:
        for i, field in enumerate(getattr(given, kind)):
            yield f"schema.{kind}[{i}].name", field.name


def _text(path: str, given: pb.TextField, violations: Violations) -> TextField:
    check_name(f"{path}.name", given.name, _FIELD_NAME, _FIELD_NAME_RULE, violations)
    language = given.language or "english"
    if language not in LANGUAGES:
        violations.add(f"{path}.language", f"expected one of {', '.join(sorted(LANGUAGES))}, got {language[:64]!r}")
    k1, b = given.k1 if given.HasField("k1") else 1.5, given.b if given.HasField("b") else 0.75
    for name, value, high in (("k1", k1, 10.0), ("b", b, 1.0)):
        if not 0 <= value <= high:
            violations.add(f"{path}.{name}", f"expected 0 to {high:g}, got {value:g}", expected_max=high, given=value)
    return TextField(name=given.name, language=language, keeps_stop_words=given.keep_stop_words, k1=k1, b=b)


def _sparse(path: str, given: pb.SparseField, violations: Violations) -> SparseField:
    check_name(f"{path}.name", given.name, _FIELD_NAME, _FIELD_NAME_RULE, violations)
    _digest(path, given.model_digest, violations)
    return SparseField(name=given.name, model_digest=given.model_digest)


def _multi_vector(path: str, given: pb.MultiVectorField, violations: Violations) -> MultiVectorField:
    check_name(f"{path}.name", given.name, _FIELD_NAME, _FIELD_NAME_RULE, violations)
    _digest(path, given.model_digest, violations)
    violations.count(f"{path}.dimensions", given.dimensions, low=1, high=_TOKEN_DIMENSIONS_MAX, what="dimensions")
    if given.stored not in _TOKEN_TYPES:
        violations.add(f"{path}.stored", f"expected FLOAT16 or INT8, got number {given.stored}")
    encoding = None
    if given.HasField("encoding"):
        encoding = _encoding(f"{path}.encoding", given.encoding, given.dimensions, violations)
    return MultiVectorField(
        name=given.name,
        dimensions=given.dimensions,
        model_digest=given.model_digest,
        stored=_TOKEN_TYPES.get(given.stored, TokenType.F16),
        encoding=encoding,
    )


def _encoding(path: str, given: pb.FixedDimensionalEncoding, dimensions: int, violations: Violations) -> FdeParameters:
    """Return the parameters of an encoding, with defaults for those that are not set."""
    encoding = FdeParameters(
        repetitions=given.repetitions or 20,
        partition_bits=given.partition_bits if given.HasField("partition_bits") else 5,
        projected_dimensions=given.projected_dimensions or min(16, dimensions),
        final_dimensions=given.final_dimensions,
        seed=given.seed,
    )
    limits = {"repetitions": _REPETITIONS_MAX, "partition_bits": _PARTITION_BITS_MAX}
    limits |= {"projected_dimensions": dimensions, "final_dimensions": _ENCODED_MAX}
    outside = False
    for name, high in limits.items():
        value, low = getattr(encoding, name), 0 if name in {"final_dimensions", "partition_bits"} else 1
        violations.count(f"{path}.{name}", value, low=low, high=high, what=name.replace("_", " "))
        outside |= not low <= value <= high
    if not outside:
        whole = (encoding.repetitions << encoding.partition_bits) * encoding.projected_dimensions
        violations.count(path, whole, low=1, high=_ENCODED_WHOLE_MAX, what="dimensions before the final projection")
        final = encoding.final_dimensions or whole
        violations.count(f"{path}.final_dimensions", final, low=1, high=min(whole, _ENCODED_MAX), what="dimensions")
    return encoding


def _digest(path: str, given: str, violations: Violations) -> None:
    violations.count(f"{path}.model_digest", len(given.encode()), low=0, high=_DIGEST_BYTES_MAX, what="bytes")


def _dense(path: str, given: pb.DenseField, violations: Violations) -> DenseField:
    check_name(f"{path}.name", given.name, _FIELD_NAME, _FIELD_NAME_RULE, violations)
    dimensions = given.dimensions
    violations.count(f"{path}.dimensions", dimensions, low=1, high=_DIMENSIONS_MAX, what="dimensions")
    _digest(path, given.model_digest, violations)
    if given.metric not in _METRICS:
        violations.add(f"{path}.metric", f"expected COSINE, DOT or L2, got number {given.metric}")
    metric = _METRICS.get(given.metric, Metric.COSINE)
    prefix, most = given.coarse_dimensions, max(0, dimensions)
    violations.count(f"{path}.coarse_dimensions", prefix, low=0, high=most, what="dimensions")
    if given.coarse not in _COARSE:
        violations.add(f"{path}.coarse", f"expected FLOAT32, FLOAT16, INT8 or BITS, got number {given.coarse}")
    coarse = _COARSE.get(given.coarse, CoarseType.I8)
    if coarse is CoarseType.B1 and metric is not Metric.COSINE:
        expected = "expected FLOAT32, FLOAT16 or INT8, because bits keep directions but not lengths"
        violations.add(f"{path}.coarse", f"{expected}, got BITS with {metric.upper()}")
    return DenseField(
        name=given.name,
        dimensions=dimensions,
        metric=metric,
        model_digest=given.model_digest,
        coarse=coarse,
        coarse_dimensions=prefix,
    )


def _metadata(path: str, given: pb.MetadataField, violations: Violations) -> MetadataField:
    check_name(f"{path}.name", given.name, _FIELD_NAME, _FIELD_NAME_RULE, violations)
    if given.type not in _KINDS:
        violations.add(f"{path}.type", f"expected STRING, NUMBER, BOOL, TIMESTAMP or LIST, got number {given.type}")
    return MetadataField(name=given.name, kind=_KINDS.get(given.type, Kind.STRING))


def _windows(given: model_pb2.Windows, violations: Violations) -> Windows:
    path, overlap = "schema.windows", given.overlap_token_count
    violations.count(f"{path}.overlap_token_count", overlap, low=0, high=_OVERLAP_MAX, what="tokens")
    if given.aggregation not in _AGGREGATIONS:
        violations.add(f"{path}.aggregation", f"expected MEAN or MAX, got number {given.aggregation}")
    return Windows(overlap=overlap, aggregation=_AGGREGATIONS.get(given.aggregation, Aggregation.MEAN))


def check_name(path: str, given: str, allowed: re.Pattern[str], expected: str, violations: Violations) -> None:
    """Note a name that does not match the allowed pattern."""
    if not allowed.fullmatch(given):
        violations.add(path, f"expected {expected}, got {given[:64]!r}")


def schema_message(schema: Schema) -> pb.Schema:
    """Return the message of a schema."""
    return pb.Schema(
        dense_fields=[
            pb.DenseField(
                name=field.name,
                dimensions=field.dimensions,
                metric=_METRIC_NUMBERS[field.metric],
                model_digest=field.model_digest,
                coarse=_COARSE_NUMBERS[field.coarse],
                coarse_dimensions=field.coarse_dimensions,
            )
            for field in schema.dense
        ],
        text_fields=[
            pb.TextField(
                name=field.name,
                language=field.language,
                keep_stop_words=field.keeps_stop_words,
                k1=field.k1,
                b=field.b,
            )
            for field in schema.text
        ],
        sparse_fields=[pb.SparseField(name=field.name, model_digest=field.model_digest) for field in schema.sparse],
        multi_vector_fields=[
            pb.MultiVectorField(
                name=field.name,
                dimensions=field.dimensions,
                model_digest=field.model_digest,
                stored=_TOKEN_TYPE_NUMBERS[field.stored],
                encoding=None if field.encoding is None else pb.FixedDimensionalEncoding(**field.encoding.model_dump()),
            )
            for field in schema.multi_vector
        ],
        metadata_fields=[
            pb.MetadataField(name=field.name, type=_KIND_NUMBERS[field.kind]) for field in schema.metadata
        ],
        windows=None if schema.windows is None else _windows_message(schema.windows),
    )


def _windows_message(windows: Windows) -> model_pb2.Windows:
    aggregation = _AGGREGATION_NUMBERS[windows.aggregation]
    return model_pb2.Windows(overlap_token_count=windows.overlap, aggregation=aggregation)
