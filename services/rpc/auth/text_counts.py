"""How many texts a request brings, for quotas.

A new field that carries texts must be added to the table below; `tests/contract/test_texts.py` fails until it is.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final

from google.protobuf import descriptor_pool
from google.protobuf.message import Message

_POOL: Final[Any] = descriptor_pool.Default()  # type: ignore[no-untyped-call]


def text_count(request: Message) -> int:
    """Texts, documents, queries and sequences of token ids in a request; never more than its bytes can hold."""
    return sum(_COUNTED[name](getattr(request, name), request) for name in _text_fields(request.DESCRIPTOR.full_name))


def _one(value: Any, request: Any) -> int:
    """A text, or the ids of one."""
    return 1 if value else 0


def _each(value: Any, request: Any) -> int:
    return len(value)


def _inner(value: Any, request: Any) -> int:
    """Messages that may have texts."""
    return sum(map(text_count, value))


def _inputs(value: Any, request: Any) -> int:
    """A text, several, or tensors: these stand side by side, so the longest counts.

    A shape is only what a caller says. Each row has one element at least, so there are no more rows than elements of
    typed contents and bytes of raw ones.
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
