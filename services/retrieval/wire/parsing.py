"""Requests with a filter, parsed only when the filter is not too large.

Parsed, a filter takes some four times its bytes, and more while it is sized: eight of a million values took 900 MB. Its
encoded size is found without parsing it, by going over the fields of the request.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import grpc
from google.protobuf.message import Message

from services.retrieval.wire.filters import check_bytes

_FILTER: Final = "filter"
# Fields of a request that are looked at: those of the largest requests are fewer.
_FIELDS_MAX: Final = 4096
_VARINT_BYTES_MAX: Final = 10


class Registry:
    """What a servicer is added to instead of a server: its handlers then parse no filter that is too large.

    The parser of a handler raises InvalidRequest for such a filter.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, _handlers: Sequence[object]) -> None:
        """Do nothing: the handlers come again, by name."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Add the handlers of a service."""
        sized = {name: _sized(handler) for name, handler in handlers.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, sized),))


def field_bytes(data: bytes, number: int) -> int:
    """Return how many bytes a field takes in a serialized message, all its occurrences together.

    Counting ends where the message does not parse, and after the first _FIELDS_MAX fields.
    """
    total, place = 0, 0
    try:
        for _ in range(_FIELDS_MAX):
            if place >= len(data):
                break
            tag, place = _varint(data, place)
            length, place = _length(data, place, tag & 7)
            total += length if tag >> 3 == number else 0
            place += length
    except ValueError:
        pass
    return total


def _length(data: bytes, place: int, wire_type: int) -> tuple[int, int]:
    """The length of the value at a place, and where it begins. Raises ValueError."""
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
    """The number at a place, and where it ends. Raises ValueError."""
    value = 0
    for position, byte in enumerate(data[place : place + _VARINT_BYTES_MAX]):
        value |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:
            return value, place + position + 1
    raise ValueError(f"expected a varint of at most {_VARINT_BYTES_MAX} bytes, got none")


def _sized(handler: Any) -> Any:
    """The handler, with a parser that refuses large filters when its requests have one."""
    parse = handler.request_deserializer
    field = parse.__self__.DESCRIPTOR.fields_by_name.get(_FILTER)
    if field is None:
        return handler
    return grpc.unary_unary_rpc_method_handler(
        handler.unary_unary, _parser(parse, field.number), handler.response_serializer
    )


def _parser(parse: Callable[[bytes], Message], number: int) -> Callable[[bytes], Message]:
    def parsed(data: bytes) -> Message:
        try:
            check_bytes(field_bytes(data, number))
            return parse(data)
        finally:
            # Not to be kept by the traceback of a refusal.
            del data

    return parsed
