"""The gate of a server: who calls, whether they may, and whether their quota lasts.

    a token     asked for before a request is read: who has none costs nothing
    collections and texts   checked once the request is there; a stream is slowed down to its quota instead of refused

Rule: the decisions are those of `services.rpc.tokens`; here are the file, the clock and the messages of gRPC.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from functools import cache
from time import monotonic
from typing import Any, Final

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message import Message

from services.rpc.changes import mark_of
from services.rpc.metrics import RELOADS
from services.rpc.settings import ServerSettings
from services.rpc.tokens import Callers, Kind, Token, TokensError, check_allowed, check_collections, load, over_quota

logger = logging.getLogger(__name__)

# Fields of requests that name a collection, in every message; and in messages of these endings its `name` does.
_COLLECTION_FIELDS: Final = ("collection", "alias")
_NAMED_BY_NAME: Final = "CollectionRequest"
# Fields whose items count as texts.
_TEXT_FIELDS: Final = ("texts", "documents", "input", "inputs")


class Gate:
    """Lets bearers of tokens in. Raises TokensError when the file is wrong from the start."""

    def __init__(self, settings: ServerSettings) -> None:
        assert settings.tokens is not None
        self._path = settings.tokens
        self._mark = mark_of([self._path])
        self._callers = Callers(load(self._path))

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
        token = self.identify(metadata)
        check_allowed(token, kind, method)
        self._pay(token, "calls", 1)
        return token

    def check(self, token: Token, request: Any) -> None:
        """Raise unless the caller may use the collections of a request, and has quota for its texts."""
        check_collections(token, collections_of(request))
        self._pay(token, "texts", text_count(request))

    async def checked(self, token: Token, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """The messages of a stream, no faster than the caller's quota of texts. Raises PermissionDenied."""
        async for request in requests:
            check_collections(token, collections_of(request))
            texts = text_count(request)
            while wait_s := self._callers.wait_s(token, "texts", texts, monotonic()):
                await asyncio.sleep(wait_s)
            self._callers.charge(token, "texts", texts, monotonic())
            yield request

    def _pay(self, token: Token, what: Any, units: int) -> None:
        now = monotonic()
        if wait_s := self._callers.wait_s(token, what, units, now):
            raise over_quota(token, what, wait_s)
        self._callers.charge(token, what, units, now)


@cache
def kind_of(method: str) -> Kind:
    """What a method does, by its proto: `/package.Service/Method`. A method that no proto describes is `admin`."""
    try:
        found = descriptor_pool.Default().FindMethodByName(method.removeprefix("/").replace("/", "."))
    except KeyError:
        return "admin"
    assert isinstance(found, MethodDescriptor)
    if found.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS:
        return "read"
    return "write" if _collection_fields(found.input_type.full_name) else "admin"


def collections_of(request: Message) -> list[str]:
    """The collections, and aliases, that a request names."""
    names = [getattr(request, field) for field in _collection_fields(request.DESCRIPTOR.full_name)]
    return [name for name in names if name]


def text_count(request: Message) -> int:
    """How many texts and documents a request brings; a query counts as one."""
    counted = sum(len(getattr(request, field)) for field in _text_fields(request.DESCRIPTOR.full_name))
    return counted + ("query" in request.DESCRIPTOR.fields_by_name)


@cache
def _collection_fields(message: str) -> tuple[str, ...]:
    fields = descriptor_pool.Default().FindMessageTypeByName(message).fields_by_name
    wanted = (*_COLLECTION_FIELDS, *(("name",) if message.endswith(_NAMED_BY_NAME) else ()))
    return tuple(name for name in wanted if name in fields and fields[name].type == FieldDescriptor.TYPE_STRING)


@cache
def _text_fields(message: str) -> tuple[str, ...]:
    fields = descriptor_pool.Default().FindMessageTypeByName(message).fields_by_name
    return tuple(name for name in _TEXT_FIELDS if name in fields and fields[name].is_repeated)
