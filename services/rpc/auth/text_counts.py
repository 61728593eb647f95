"""The number of texts in a request, for quotas.

Add every new field that carries texts to the table below. `tests/contract/test_texts.py` fails until it is added.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final

from google.protobuf import descriptor_pool
from google.protobuf.message import Message

_POOL: Final[Any] = descriptor_pool.Default()  # type: ignore[no-untyped-call]


def text_count(request: Message) -> int:
    """Return the number of texts, documents, queries and sequences of token ids in a request.

    The number is never larger than the request's size in bytes allows.
    """
    return sum(_COUNTED[name](getattr(request, name), request) for name in _text_fields(request.DESCRIPTOR.full_name))


def _one(value: Any, request: Any) -> int:
    """Return 1 for a text, or for the token ids of one."""
    return 1 if value else 0


def _each(value: Any, request: Any) -> int:
    return len(value)


def _inner(value: Any, request: Any) -> int:
    """Return the number of texts in nested messages."""
    return sum(map(text_count, value))


def _inputs(value: Any, request: Any) -> int:
    """Return the number of a text, of several, or of the rows of tensors, of which the longest counts.

    A shape is only a claim of the caller. Each row has at least one element, so there are no more rows than elements of
    typed contents and bytes of raw contents.
    """
    if isinstance(value, str):
        return _one(value, request)
    shapes = [item.shape for item in value if hasattr(item, "shape")]
    if not shapes:
        return len(value)
    typed = sum(len(values) for item in value for _, values in item.contents.ListFields())
    held = typed + sum(map(len, request.raw_input_contents))
    return max(1, min(held, max(shape[0] if shape else 1 for shape in shapes)))


_COUNTED: Final[Mapping[str, Callable[[Any, Any], int]]] = {
    "text": _one,
    "texts": _each,
    "documents": _each,
    "query": _one,
    "more_queries": _each,
    "queries": _inner,
    "among": _inner,
    "sequences": _each,
    "ids": _one,
    "inputs": _inputs,
}


@cache
def _text_fields(message: str) -> tuple[str, ...]:
    fields = _POOL.FindMessageTypeByName(message).fields_by_name
    return tuple(name for name in _COUNTED if name in fields)
