"""The gate of a server: who calls, whether they may, and whether their quota lasts.

    a token     asked for before a request is read: who has none costs nothing
    collections and texts   checked once the request is there; a stream is slowed down to its quota instead of refused

Rule: the decisions are those of `services.rpc.tokens`; here are the file, the clock and the messages of gRPC.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Container, Iterable
from functools import cache
from pathlib import Path
from time import monotonic
from typing import Any, Final, Literal

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message import Message
from sluice.errors import SluiceError

from services.rpc.changes import mark_of
from services.rpc.metrics import RELOADS, TOKEN_CALLS
from services.rpc.tokens import Callers, Kind, Token, TokensError, check_allowed, check_collections, load, over_quota

logger = logging.getLogger(__name__)

_POOL: Final[Any] = descriptor_pool.Default()  # type: ignore[no-untyped-call]
# A field with one of these words in its name names a collection; so does `name` in messages of this ending.
_COLLECTION_WORDS: Final = ("collection", "alias")
_NAMED_BY_NAME: Final = "CollectionRequest"
_LULL_S: Final = 0.2
# Fields whose items count as texts; one that is a text counts as one, and a tensor as its rows.
_TEXT_FIELDS: Final = ("text", "texts", "documents", "input", "inputs")


class Gate:
    """Lets bearers of tokens in. Raises TokensError when the file is wrong from the start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mark = mark_of([path])
        self._callers = Callers(load(path))

    def refresh(self) -> bool:
        """Read the file again when it changed; whether there are other tokens."""
        mark = mark_of([self._path])
        if mark == self._mark:
            return False
        self._mark = mark
        try:
            self._callers.replace(load(self._path))
        except TokensError as error:
            RELOADS.labels("tokens", "refused").inc()
            logger.error("the changed tokens are wrong, those before stay: %s", error)
            return False
        RELOADS.labels("tokens", "taken").inc()
        logger.info("tokens changed", extra={"tokens": [token.name for token in self._callers.tokens]})
        return True

    def identify(self, metadata: "Iterable[tuple[str, str | bytes]]") -> Token:
        """The caller. Raises Unauthenticated."""
        return self._callers.bearer(next((value for key, value in metadata if key == "authorization"), None))

    def enter(self, metadata: "Iterable[tuple[str, str | bytes]]", method: str, kind: Kind) -> Token:
        """The caller of a method, who may call it and has a call left. Raises what keeps it out."""
        try:
            token = self.identify(metadata)
        except SluiceError:
            TOKEN_CALLS.labels("", "unauthenticated").inc()
            raise
        try:
            check_allowed(token, kind, method)
        except SluiceError:
            TOKEN_CALLS.labels(token.name, "denied").inc()
            raise
        self._pay(token, "calls", 1)
        TOKEN_CALLS.labels(token.name, "admitted").inc()
        return token

    def check(self, token: Token, request: Any) -> None:
        """Raise unless the caller may use the collections of a request, and has quota for its texts."""
        check_collections(token, collections_of(request))
        self._pay(token, "texts", text_count(request))

    async def checked(self, token: Token, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """The messages of a stream, no faster than the caller's quota of texts. Raises PermissionDenied."""
        async for request in requests:
            try:
                check_collections(token, collections_of(request))
            except SluiceError:
                await lull(requests)
                raise
            texts = text_count(request)
            await self._wait(token, texts)
            self._callers.charge(token, "texts", texts, monotonic())
            yield request

    async def _wait(self, token: Token, texts: int) -> None:
        """Until the caller may send so many texts: other calls of the same caller may take them first."""
        while wait_s := self._callers.wait_s(token, "texts", texts, monotonic()):  # noqa: ASYNC110 - time brings them
            await asyncio.sleep(wait_s)

    def _pay(self, token: Token, what: Any, units: int) -> None:
        now = monotonic()
        if wait_s := self._callers.wait_s(token, what, units, now):
            TOKEN_CALLS.labels(token.name, "over_quota").inc()
            raise over_quota(token, what, wait_s)
        self._callers.charge(token, what, units, now)


async def lull(requests: AsyncIterator[Any]) -> None:
    """Until a stream that is to be refused has been quiet, for a fifth of a second at most.

    Fact: a grpc.aio client that is writing when its stream ends sees INTERNAL, and never why.
    """

    async def read() -> None:
        async for _ in requests:
            pass

    reading = asyncio.create_task(read())
    await asyncio.wait({reading}, timeout=_LULL_S)
    reading.cancel()


@cache
def kind_of(method: str) -> Kind:
    """What a method does, by its proto: `/package.Service/Method`. A method that no proto describes is `admin`."""
    try:
        found = _POOL.FindMethodByName(method.removeprefix("/").replace("/", "."))
    except KeyError:
        return "admin"
    assert isinstance(found, MethodDescriptor)
    if found.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS:
        return "read"
    return "write" if _collection_fields(found.input_type.full_name) else "admin"


def methods_of(service: str, *, but: Container[str] = ()) -> frozenset[str]:
    """The methods of a service, by its full name, but for those of these names: for `Service.reads`."""
    methods = _POOL.FindServiceByName(service).methods
    return frozenset(f"/{service}/{method.name}" for method in methods if method.name not in but)


def collections_of(request: Message) -> list[str]:
    """The collections, and aliases, that a request names."""
    names: list[str] = []
    for field, kind in _collection_fields(request.DESCRIPTOR.full_name):
        value = getattr(request, field)
        for item in value if kind == "repeated" else [value]:
            names += [item] if isinstance(item, str) else collections_of(item)
    return [name for name in names if name]


def text_count(request: Message) -> int:
    """How many texts and documents a request brings; a query counts as one."""
    counted = sum(_size(getattr(request, field)) for field in _text_fields(request.DESCRIPTOR.full_name))
    return counted + ("query" in request.DESCRIPTOR.fields_by_name)


def _size(value: Any) -> int:
    """Texts in the value of a field. Tensors of one request stand side by side: the longest counts."""
    if isinstance(value, str):
        return 1
    rows = [item.shape[0] if item.shape else 1 for item in value if hasattr(item, "shape")]
    return max(1, *rows) if rows else len(value)


@cache
def _collection_fields(message: str) -> tuple[tuple[str, Literal["one", "repeated"]], ...]:
    """Names of the fields of a message that name collections: texts, or messages with such fields."""
    found = _POOL.FindMessageTypeByName(message).fields
    return tuple(
        (field.name, "repeated" if field.is_repeated else "one")
        for field in found
        if field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_MESSAGE)
        and (
            any(word in field.name for word in _COLLECTION_WORDS)
            or (field.name == "name" and message.endswith(_NAMED_BY_NAME))
        )
    )


@cache
def _text_fields(message: str) -> tuple[str, ...]:
    fields = _POOL.FindMessageTypeByName(message).fields_by_name
    return tuple(name for name in _TEXT_FIELDS if name in fields)
