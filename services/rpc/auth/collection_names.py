"""The collections that messages name, found by the names of fields.

A string field names a collection if its name contains `collection` or `alias`. So does the field `name` of a message
whose own name ends in `Collection` or `CollectionRequest`.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, Final, Literal

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

_POOL: Final[Any] = descriptor_pool.Default()  # type: ignore[no-untyped-call]
_WORDS: Final = ("collection", "alias")
_NAMED_BY_NAME: Final = ("Collection", "CollectionRequest")


def collections_of(request: Message) -> list[str]:
    """Return the collections and aliases that a request names."""
    names: list[str] = []
    for field, kind in _fields(request.DESCRIPTOR.full_name):
        value = getattr(request, field)
        for item in value if kind == "repeated" else [value]:
            names += [item] if isinstance(item, str) else collections_of(item)
    return [name for name in names if name]


def names_collections(message: str) -> bool:
    """Return whether messages of this full name can name collections."""
    return bool(_fields(message))


def hide(response: Any, allows: Callable[[str], bool]) -> None:
    """Remove the entries of lists, at any depth, that name a collection which is not allowed."""
    for field, is_repeated in _holders(response.DESCRIPTOR.full_name):
        value = getattr(response, field)
        if is_repeated:
            for position in reversed(range(len(value))):
                if not all(map(allows, _own_names(value[position]))):
                    del value[position]
        for item in value if is_repeated else [value]:
            hide(item, allows)


def _own_names(message: Any) -> list[str]:
    return [getattr(message, field) for field in _name_fields(message.DESCRIPTOR.full_name)]


@cache
def _fields(message: str) -> tuple[tuple[str, Literal["one", "repeated"]], ...]:
    """Return the fields of a message that name collections: strings, or messages with such fields."""
    found = _POOL.FindMessageTypeByName(message)
    return tuple(
        (field.name, "repeated" if field.is_repeated else "one")
        for field in found.fields
        if field.name in _name_fields(message)
        or (field.type == FieldDescriptor.TYPE_MESSAGE and any(word in field.name for word in _WORDS))
    )


@cache
def _name_fields(message: str) -> tuple[str, ...]:
    found = _POOL.FindMessageTypeByName(message)
    return tuple(
        field.name
        for field in found.fields
        if field.type == FieldDescriptor.TYPE_STRING
        and (
            any(word in field.name for word in _WORDS) or (field.name == "name" and found.name.endswith(_NAMED_BY_NAME))
        )
    )


@cache
def _holders(message: str) -> tuple[tuple[str, bool], ...]:
    """Return the fields whose messages name collections at any depth, and whether they are repeated."""
    found = _POOL.FindMessageTypeByName(message)
    return tuple((field.name, field.is_repeated) for field in found.fields if _leads_to_names(field.message_type, ()))


def _leads_to_names(message: Descriptor | None, above: tuple[str, ...]) -> bool:
    if message is None or message.full_name in above or message.GetOptions().map_entry:
        return False
    inner = (*above, message.full_name)
    return bool(_name_fields(message.full_name)) or any(
        _leads_to_names(field.message_type, inner) for field in message.fields
    )
