"""Fuzzed requests, made from the descriptors of a server: plausible ones, and ones with boundary values.

Rule: no I/O. Everything follows from the random numbers that the caller gives.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

F = FieldDescriptor

# Stands for the bytes of a lone surrogate, which protobuf's Python API refuses to write into a string.
_SURROGATE: Final = "<surrogates>"
_SURROGATE_BYTES: Final = b"<\xed\xa0\x80urrogat>"
assert len(_SURROGATE) == len(_SURROGATE_BYTES)

_STRINGS: Final = (
    "", " ", "\0", "a", "é", "𝄞" * 300, "x" * 300, "x" * 70_000, "..", "/", "../../etc/passwd", "a\nb", "'\"`;--",
    "NaN", "-1", "\u202e", "%s%n", "{}", _SURROGATE,
)  # fmt: skip
_INTEGERS: Final = (0, 1, -1, 2, 3, 16, 1000, 1001, 65_536, 2**31 - 1, -(2**31), 2**32 - 1, 2**53, 2**62, 2**63 - 1)
_FLOATS: Final = (0.0, -0.0, 1.0, -1.0, 0.5, math.nan, math.inf, -math.inf, 1e-40, 5e-324, 3e38, -3e38, 1e308)
_ENUMS: Final = (0, 1, 2, 3, 99, -1, 2**31 - 1, -(2**31))
_BYTES: Final = (b"", b"\0", b"\xff\xfe", b"\0\0\x80\x3f" * 4, b"\xff\xff\xff\xff", b"\0\0\xc0\x7f" * 4)
_LENGTHS: Final = (0, 1, 2, 3, 300)
_RANGES: Final[Mapping[int, tuple[int, int]]] = {
    F.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    F.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    F.CPPTYPE_UINT32: (0, 2**32 - 1),
    F.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_DEEPEST: Final = 6


class Mutator:
    """Makes payloads of messages.

    words     strings that mean something to the server: names of collections, fields, models
    examples  requests that a server answers, by the full name of their message, serialized
    """

    def __init__(self, rng: random.Random, words: Sequence[str], examples: Mapping[str, Sequence[bytes]]) -> None:
        self._rng = rng
        self._strings = (*words, *words, *words, *_STRINGS)
        self._examples = examples

    def payload(self, descriptor: Descriptor, others: Sequence[Descriptor]) -> bytes:
        """Return the bytes of one message, right or wrong; `others` are messages of other methods."""
        rng, choice = self._rng, self._rng.random()
        if choice < 0.10:
            return bytes(self._started(descriptor).SerializeToString())
        if choice < 0.70:
            message = self._started(descriptor)
            for _ in range(rng.choice((1, 1, 1, 2, 3))):
                self._mutate(message)
            return _with_surrogates(message.SerializeToString())
        if choice < 0.82:
            return _with_surrogates(self._made(descriptor).SerializeToString())
        return self._broken(descriptor, others)

    def _broken(self, descriptor: Descriptor, others: Sequence[Descriptor]) -> bytes:
        """Return bytes that most often are no message, or not one of this method."""
        rng, whole = self._rng, self._started(descriptor).SerializeToString()
        numbers = [field.number for field in descriptor.fields] or [1]
        makers: tuple[Callable[[], bytes], ...] = (
            lambda: rng.randbytes(rng.randrange(200)),
            lambda: b"\x0a\x02\xff\xfe",
            lambda: whole[: rng.randrange(len(whole) + 1)],
            lambda: _with_surrogates(self._made(rng.choice(others)).SerializeToString()),
            lambda: whole + self._made(descriptor).SerializeToString(),
            lambda: _flipped(whole, rng),
            lambda: _nested(rng.choice(numbers), rng.choice((50, 120, 2000))),
        )
        return rng.choice(makers)()

    def _started(self, descriptor: Descriptor) -> Any:
        """Return a message that a server would answer, or a random one where there is no example."""
        examples = self._examples.get(descriptor.full_name)
        if not examples or self._rng.random() < 0.15:
            return self._made(descriptor)
        return message_factory.GetMessageClass(descriptor).FromString(self._rng.choice(examples))

    def _made(self, descriptor: Descriptor, depth: int = 0) -> Any:
        """Return a message with random values in some of its fields."""
        message: Any = message_factory.GetMessageClass(descriptor)()
        for field in descriptor.fields:
            if depth < _DEEPEST and self._rng.random() < 0.6:
                self._assign(message, field, depth)
        return message

    def _mutate(self, message: Any) -> None:
        """Change one field, somewhere in the tree of the message."""
        rng = self._rng
        while True:
            if not message.DESCRIPTOR.fields:
                return
            field = rng.choice(message.DESCRIPTOR.fields)
            inner = _messages_in(message, field)
            if not inner or rng.random() < 0.3:
                self._assign(message, field, 0)
                return
            message = rng.choice(inner)

    def _assign(self, message: Any, field: FieldDescriptor, depth: int) -> None:
        name, rng = field.name, self._rng
        if _is_map(field):
            for _ in range(rng.randrange(3)):
                self._put(getattr(message, name), field, depth)
        elif field.is_repeated:
            values = [self._value(field, depth) for _ in range(rng.choice(_LENGTHS[:-1]))]
            many = rng.choice(_LENGTHS) if depth == 0 else 1
            if rng.random() < 0.7:
                message.ClearField(name)
            getattr(message, name).extend(values[:1] * many if many > 3 else values)
        elif field.message_type is not None:
            getattr(message, name).CopyFrom(self._value(field, depth))
        elif rng.random() < 0.1:
            message.ClearField(name)
        else:
            setattr(message, name, self._value(field, depth))

    def _put(self, entries: Any, field: FieldDescriptor, depth: int) -> None:
        assert field.message_type is not None
        kinds = field.message_type.fields_by_name
        key, value = self._value(kinds["key"], depth), kinds["value"]
        if value.message_type is None:
            entries[key] = self._value(value, depth)
        else:
            entries[key].CopyFrom(self._made(value.message_type, depth + 1))

    def _value(self, field: FieldDescriptor, depth: int) -> Any:
        if field.message_type is not None:
            return self._made(field.message_type, depth + 1)
        if limits := _RANGES.get(field.cpp_type):
            low, high = limits
            return self._rng.choice([number for number in (*_INTEGERS, low, high) if low <= number <= high])
        values: Mapping[int, Sequence[Any]] = {
            F.TYPE_ENUM: _ENUMS,
            F.TYPE_BYTES: _BYTES,
            F.TYPE_STRING: self._strings,
            F.TYPE_BOOL: (False, True),
        }
        return self._rng.choice(values.get(field.type, _FLOATS))


def smaller(message: Any) -> list[Any]:
    """Return copies of the message that each lack one field, or half of a repeated field."""
    found: list[Any] = []
    for field, value in message.ListFields():
        without = _copy(message)
        without.ClearField(field.name)
        found.append(without)
        if field.is_repeated and not _is_map(field) and len(value) > 1:
            for part in (value[: len(value) // 2], value[len(value) // 2 :]):
                half = _copy(without)
                getattr(half, field.name).extend(part)
                found.append(half)
        elif field.message_type is not None and not _is_map(field):
            found += _with_smaller_inner(message, field, value)
    return found


def _with_smaller_inner(message: Any, field: FieldDescriptor, value: Any) -> list[Any]:
    found: list[Any] = []
    for inner in smaller(value[0] if field.is_repeated else value):
        copy = _copy(message)
        place = getattr(copy, field.name)
        (place[0] if field.is_repeated else place).CopyFrom(inner)
        found.append(copy)
    return found


def _copy(message: Any) -> Any:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _messages_in(message: Any, field: FieldDescriptor) -> list[Message]:
    """Return the messages that a field holds now."""
    if field.message_type is None:
        return []
    value = getattr(message, field.name)
    if _is_map(field):
        has_messages = field.message_type.fields_by_name["value"].message_type is not None
        return list(value.values()) if has_messages else []
    if field.is_repeated:
        return list(value)
    return [value] if message.HasField(field.name) else []


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def _with_surrogates(data: bytes) -> bytes:
    return data.replace(_SURROGATE.encode(), _SURROGATE_BYTES)


def _flipped(data: bytes, rng: random.Random) -> bytes:
    """Return the bytes with a few of them changed."""
    changed = bytearray(data)
    for _ in range(min(len(changed), rng.choice((1, 2, 5)))):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _nested(number: int, depth: int) -> bytes:
    """Return a field that is nested in itself `depth` times."""
    data = b""
    for _ in range(depth):
        data = _varint(number << 3 | 2) + _varint(len(data)) + data
    return data


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes((*encoded, number))
