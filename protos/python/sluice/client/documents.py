"""Documents and metadata as Python values, and their conversion to and from protos."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sluice.common.v1 import document_pb2 as pb
from sluice.errors import InvalidRequest, Violation

Scalar = str | float | bool | datetime
MetadataValue = Scalar | Sequence[Scalar]


@dataclass(frozen=True)
class Document:
    """A document, which is indexed and found. It needs a title or a text."""

    document_id: str
    """Id that the caller chooses, 1 to 512 bytes of UTF-8. Indexing an id again replaces the document."""
    text: str
    """Text of the document. May be empty if there is a title."""
    title: str = ""
    """Title of the document. It is embedded too, in front of the text."""
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)
    """Values for filters and for callers: str, number, bool, datetime with a time zone, or a list of these."""


def document_proto(document: Document) -> pb.Document:
    """Return the proto of a document. Raises InvalidRequest for a field that cannot be sent."""
    for field_path in ("document_id", "title", "text"):
        check_unicode(getattr(document, field_path), field_path)
    metadata = {name: value_proto(value, _metadata_path(name)) for name, value in document.metadata.items()}
    return pb.Document(document_id=document.document_id, title=document.title, text=document.text, metadata=metadata)


def document_of(proto: pb.Document) -> Document:
    """Return the document of a proto. Timestamps are in UTC."""
    metadata = {name: value_of(value) for name, value in proto.metadata.items()}
    return Document(proto.document_id, proto.text, proto.title, metadata)


def value_proto(value: MetadataValue, where: str) -> pb.MetadataValue:
    """Return the proto of a metadata value. Raises InvalidRequest, with `where` as the field of the violation."""
    match value:
        case str():
            check_unicode(value, where)
            return pb.MetadataValue(string_value=value)
        case bool():
            return pb.MetadataValue(bool_value=value)
        case int() | float():
            return pb.MetadataValue(number_value=_number(value, where))
        case datetime():
            return _timestamp(value, where)
        case bytes() | bytearray() | memoryview():
            pass
        case Sequence():
            elements = [_element(element, f"{where}[{i}]") for i, element in enumerate(value)]
            return pb.MetadataValue(list_value=pb.MetadataList(values=elements))
    raise unfit(where, f"expected a str, number, bool, datetime or list of them, got {type(value).__name__}")


def value_of(proto: pb.MetadataValue) -> MetadataValue:
    """Return the Python value of a proto; an empty string if it is not set."""
    match proto.WhichOneof("value"):
        case "number_value":
            return proto.number_value
        case "bool_value":
            return proto.bool_value
        case "timestamp_value":
            return proto.timestamp_value.ToDatetime(tzinfo=UTC)
        case "list_value":
            elements = [value_of(element) for element in proto.list_value.values]
            return [element for element in elements if isinstance(element, Scalar)]
    return proto.string_value


def check_unicode(text: str, where: str) -> None:
    """Raise InvalidRequest if a text has lone surrogates, which UTF-8 cannot encode."""
    if not isinstance(text, str):
        raise unfit(where, f"expected a str, got {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        description = f"expected Unicode text, got the lone surrogate U+{code:04X} at character {error.start + 1:,}"
        raise unfit(where, description) from None


def unfit(field_path: str, description: str) -> InvalidRequest:
    """Return the error for a field that cannot be sent."""
    return InvalidRequest(f"{field_path}: {description}", violations=[Violation(field_path, description)])


def _element(value: Scalar, where: str) -> pb.MetadataValue:
    """Return the proto of an element of a list. Raises InvalidRequest for a list, because lists do not nest."""
    if isinstance(value, str | float | int | bool | datetime):
        return value_proto(value, where)
    raise unfit(where, f"expected a str, number, bool or datetime, got {type(value).__name__}")


def _metadata_path(name: str) -> str:
    if not isinstance(name, str):
        raise unfit("metadata", f"expected names that are str, got {type(name).__name__}")
    check_unicode(name, "metadata")
    return f"metadata.{name:.64}"


def _number(value: float, where: str) -> float:
    """Return a number as float. Raises InvalidRequest for an int that would be rounded."""
    try:
        number = float(value)
    except OverflowError:
        number = float("nan")
    if isinstance(value, int) and number != value:
        raise unfit(where, "expected an integer that a 64-bit float holds exactly, got a larger one; send it as text")
    return number


def _timestamp(value: datetime, where: str) -> pb.MetadataValue:
    if value.tzinfo is None:
        raise unfit(where, f"expected a datetime with a time zone, got {value.isoformat()} without")
    proto = pb.MetadataValue()
    try:
        proto.timestamp_value.FromDatetime(value.astimezone(UTC))
    except (OverflowError, ValueError):
        raise unfit(where, f"expected a time in the years 1 to 9999 in UTC, got {value.isoformat()}") from None
    return proto
