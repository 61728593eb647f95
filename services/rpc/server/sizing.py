"""Limits of serialized messages that are checked before they are parsed.

Parsing multiplies the size of a message with many small parts: eight filters of a million values took 1.5 GB. Sizes are
found by scanning the fields of the message without parsing it. Small messages are not checked: 1 MiB takes at most 40
MB when parsed.
"""

from functools import cache
from typing import Final

from google.protobuf.descriptor import Descriptor
from sluice.common.v1.filter_pb2 import Filter

from services.rpc.validation import validating

# A membership filter of 1,024 document ids of maximal length takes half of it. Smaller messages are not checked.
FILTER_BYTES_MAX: Final = 2**20
# Fields of a message larger than FILTER_BYTES_MAX; each item of a list counts, and settings allow lists of up to 65,536
# items. Counting so many takes about 0.3 s, so large messages are checked in a thread.
FIELDS_MAX: Final = 2**17
_VARINT_BYTES_MAX: Final = 10


def check_message(data: bytes, descriptor: Descriptor) -> None:
    """Raise InvalidRequest for a message with too many fields or with a filter that is too large.

    Malformed messages are left to the parser.
    """
    if len(data) <= FILTER_BYTES_MAX:
        return
    filters = _filters(descriptor)
    sizes, fields = field_bytes(data)
    with validating() as violations:
        violations.count(descriptor.name, fields, low=0, high=FIELDS_MAX, what="fields and items of lists")
        for number, name in filters.items():
            violations.count(name, sizes.get(number, 0), low=0, high=FILTER_BYTES_MAX, what="bytes of filter")


def field_bytes(data: bytes, *, most: int = FIELDS_MAX) -> tuple[dict[int, int], int]:
    """Return the size of each field of a serialized message, and the number of fields.

    Occurrences of a repeated field are added up in its size and counted one by one. Counting ends where the message is
    malformed, and after `most` + 1 occurrences.
    """
    sizes: dict[int, int] = {}
    place = count = 0
    try:
        while place < len(data) and count <= most:
            tag, place = _varint(data, place)
            length, place = _length(data, place, tag & 7)
            sizes[tag >> 3] = sizes.get(tag >> 3, 0) + length
            place += length
            count += 1
    except ValueError:
        pass
    return sizes, count


@cache
def _filters(descriptor: Descriptor) -> dict[int, str]:
    """Return the names of the fields that are filters, by field number."""
    return {
        field.number: field.name
        for field in descriptor.fields
        if field.message_type is not None and field.message_type.full_name == Filter.DESCRIPTOR.full_name
    }


def _length(data: bytes, place: int, wire_type: int) -> tuple[int, int]:
    """Return the length of the value at a position, and where the value begins. Raises ValueError."""
    match wire_type:
        case 0:
            return _varint(data, place)[1] - place, place
        case 1:
            return 8, place
        case 2:
            return _varint(data, place)
        case 5:
            return 4, place
    raise ValueError(f"expected a wire type of 0, 1, 2 or 5, got {wire_type}")


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """Return the number at a position, and where it ends. Raises ValueError."""
    value = 0
    for position, byte in enumerate(data[place : place + _VARINT_BYTES_MAX]):
        value |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:
            return value, place + position + 1
    raise ValueError(f"expected a varint of at most {_VARINT_BYTES_MAX} bytes, got none")
