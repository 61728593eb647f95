"""Documents with their vectors, from and to protos."""

import math
from collections.abc import Callable, Sequence
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp as TimestampMessage
from sluice.common.v1.document_pb2 import Document as DocumentMessage
from sluice.common.v1.document_pb2 import MetadataList, MetadataValue
from sluice.retrieval.v1 import retrieval_service_pb2 as pb

from services.retrieval.domain.documents import Batch, Document, Scalar, Timestamp, Value, kind_of, to_json
from services.retrieval.domain.schema import Kind, Schema
from services.retrieval.wire.schema import unique
from services.retrieval.wire.vectors import VectorReader
from services.rpc.validation import Violations, validating

DOCUMENTS_MAX: Final = 1024
ID_BYTES_MAX: Final = 512
_TITLE_BYTES_MAX: Final = 4096
_TEXT_BYTES_MAX: Final = 65_536
_METADATA_KEYS_MAX: Final = 64
_METADATA_BYTES_MAX: Final = 16_384
_HASH_BYTES_MAX: Final = 128
# The years 1 to 9999, as google.protobuf.Timestamp has them.
_SECONDS_MIN: Final = -62_135_596_800
_SECONDS_MAX: Final = 253_402_300_799

_SCALARS: Final[dict[str, Callable[[MetadataValue], Scalar]]] = {
    "string_value": lambda value: value.string_value,
    "number_value": lambda value: value.number_value,
    "bool_value": lambda value: value.bool_value,
    "timestamp_value": lambda value: Timestamp(value.timestamp_value.ToMicroseconds()),
}


def batch(request: pb.UpsertRequest, schema: Schema) -> Batch:
    """Return the documents to write. Raises InvalidRequest, and PreconditionFailed for vectors of another model."""
    with validating() as violations:
        count = len(request.documents)
        violations.limit("documents", count, low=1, high=DOCUMENTS_MAX, what="documents")
        violations.limit("content_hashes", len(request.content_hashes), low=0, high=DOCUMENTS_MAX, what="hashes")
        hashes = _hashes(request, violations)
        documents = [
            _document(f"documents[{i}]", given, hash_, schema, violations)
            for i, (given, hash_) in enumerate(zip(request.documents, hashes, strict=True))
        ]
        unique(((f"documents[{i}].document_id", d.document_id) for i, d in enumerate(request.documents)), violations)
        vectors = VectorReader(request, violations)
        read = Batch(documents, vectors.dense(schema), vectors.sparse(schema), vectors.multi_vector(schema))
    for error in vectors.mismatches:
        raise error
    return read


def message(document: Document) -> DocumentMessage:
    """Return the message of a document."""
    if not (document.title or document.text or document.metadata):
        return DocumentMessage(document_id=document.document_id)  # four times faster; most responses contain only ids
    return DocumentMessage(
        document_id=document.document_id,
        title=document.title,
        text=document.text,
        metadata={name: value_message(value) for name, value in document.metadata.items()},
    )


def messages(found: Sequence[Document], *, with_documents: bool) -> tuple[list[DocumentMessage], list[str]]:
    """Return the messages of documents, whole or with only their ids, and their content hashes."""
    sent = [message(one) if with_documents else DocumentMessage(document_id=one.document_id) for one in found]
    return sent, [document.content_hash for document in found]


def check_ids(path: str, ids: Sequence[str], violations: Violations) -> None:
    """Note ids that are empty, too long, or contain a NUL."""
    for i, id_ in enumerate(ids[:DOCUMENTS_MAX]):
        _check_id(f"{path}[{i}]", id_, violations)


def _check_id(path: str, id_: str, violations: Violations) -> None:
    violations.count(path, len(id_.encode()), low=1, high=ID_BYTES_MAX, what="bytes of UTF-8")
    # The JSON functions of SQLite end a string at a NUL, so such an id would match another one.
    check_no_nul(path, id_, violations)


def check_no_nul(path: str, text: str, violations: Violations) -> None:
    """Note a text with a NUL character."""
    if "\0" in text:
        violations.add(path, f"expected an id without NUL characters, got one at {text.index(chr(0))}")


def scalar(path: str, given: MetadataValue, violations: Violations) -> Scalar:
    """Return a string, number, bool or timestamp. Any other value is noted as a violation, and "" is returned."""
    which = given.WhichOneof("value")
    if which not in _SCALARS:
        violations.add(path, f"expected a string, number, bool or timestamp, got {which or 'nothing'}")
        return ""
    if which == "number_value" and not math.isfinite(given.number_value):
        violations.add(path, f"expected a finite number, got {given.number_value}")
    if which == "timestamp_value" and not _is_valid(given.timestamp_value):
        violations.add(path, "expected a time in the years 1 to 9999 and 0 to 999,999,999 nanoseconds, got another")
        return Timestamp(0)
    return _SCALARS[which](given)


def _is_valid(given: TimestampMessage) -> bool:
    return _SECONDS_MIN <= given.seconds <= _SECONDS_MAX and 0 <= given.nanos <= 999_999_999


def _hashes(request: pb.UpsertRequest, violations: Violations) -> Sequence[str]:
    count = len(request.documents)
    for i, given in enumerate(request.content_hashes):
        violations.count(f"content_hashes[{i}]", len(given.encode()), low=0, high=_HASH_BYTES_MAX, what="bytes")
    if request.content_hashes and len(request.content_hashes) != count:
        description = f"expected none, or one for each of the {count} documents, got {len(request.content_hashes)}"
        violations.add("content_hashes", description, expected=count, given=len(request.content_hashes))
        return [""] * count
    return request.content_hashes or [""] * count


def _document(path: str, given: DocumentMessage, hash_: str, schema: Schema, violations: Violations) -> Document:
    bytes_ = "bytes of UTF-8"
    _check_id(f"{path}.document_id", given.document_id, violations)
    violations.count(f"{path}.title", len(given.title.encode()), low=0, high=_TITLE_BYTES_MAX, what=bytes_)
    violations.count(f"{path}.text", len(given.text.encode()), low=0, high=_TEXT_BYTES_MAX, what=bytes_)
    violations.count(f"{path}.metadata", len(given.metadata), low=0, high=_METADATA_KEYS_MAX, what="keys")
    metadata: dict[str, Value] = {}
    # Each element takes at least one byte, so these lists are too large in any case and are not read.
    if sum(len(value.list_value.values) for value in given.metadata.values()) > _METADATA_BYTES_MAX:
        violations.add(f"{path}.metadata", f"expected at most {_METADATA_BYTES_MAX:,} bytes as JSON, got more")
    elif len(given.metadata) <= _METADATA_KEYS_MAX:
        metadata = {
            name: _value(f"{path}.metadata[{name[:64]!r}]", name, value, schema, violations)
            for name, value in given.metadata.items()
        }
    if metadata:
        size = len(to_json(metadata).encode())
        violations.count(f"{path}.metadata", size, low=0, high=_METADATA_BYTES_MAX, what="bytes as JSON")
    return Document(given.document_id, given.title, given.text, metadata, hash_)


def _value(path: str, name: str, given: MetadataValue, schema: Schema, violations: Violations) -> Value:
    value = _list(path, given, violations) if given.HasField("list_value") else scalar(path, given, violations)
    declared = schema.kind(name)
    if declared is not None and given.WhichOneof("value") and kind_of(value) is not declared:
        violations.add(path, f"expected a {declared}, as the collection declares {name!r}, got a {kind_of(value)}")
    return value


def _list(path: str, given: MetadataValue, violations: Violations) -> tuple[Scalar, ...]:
    values = tuple(
        scalar(f"{path}.list_value.values[{i}]", element, violations)
        for i, element in enumerate(given.list_value.values)
    )
    kinds = sorted({kind_of(value) for value in values})
    if len(kinds) > 1:
        violations.add(path, f"expected a list with elements of one type, got {', '.join(kinds)}")
    if Kind.TIMESTAMP in kinds:
        violations.add(path, "expected a list of strings, numbers or bools, got timestamps")
    return values


def value_message(value: Value) -> MetadataValue:
    """Return the message of a metadata value."""
    match value:
        case str():
            return MetadataValue(string_value=value)
        case bool():
            return MetadataValue(bool_value=value)
        case Timestamp(us):
            timestamp = TimestampMessage()
            timestamp.FromMicroseconds(us)
            return MetadataValue(timestamp_value=timestamp)
        case tuple():
            return MetadataValue(list_value=MetadataList(values=[value_message(element) for element in value]))
    return MetadataValue(number_value=value)
