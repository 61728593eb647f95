"""Authorization of calls by bearer tokens: authentication, permissions and quotas.

A token is checked before the request is read, so a call without one costs nothing. Collections and texts are checked
once the request has arrived. A stream is slowed down to its quota instead of being rejected.

Rule: `services.rpc.auth.tokens` makes the decisions. This module adds the file, the clock and gRPC's messages.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Container, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import monotonic
from typing import Any, Final

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from sluice.errors import SluiceError

from services.rpc.auth.collection_names import collections_of, hide, names_collections
from services.rpc.auth.text_counts import text_count
from services.rpc.auth.tokens import (
    Callers,
    Kind,
    Token,
    TokensError,
    check_allowed,
    check_burst,
    check_collections,
    load,
    over_quota,
)
from services.rpc.file_watch import fingerprint
from services.rpc.observability.metrics import RELOADS, TOKEN_CALLS
from services.rpc.request_streams import discard_rest

logger = logging.getLogger(__name__)

_POOL: Final[Any] = descriptor_pool.Default()  # type: ignore[no-untyped-call]


@dataclass
class Charge:
    """The texts that the last message of a call was charged."""

    texts: int = 0


class Authorizer:
    """Authorizes callers by their tokens. Raises TokensError if the file is invalid at the start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fingerprint = fingerprint([path])
        self._callers = Callers(load(path))

    def refresh(self) -> bool:
        """Reload the file if it changed. Return whether other tokens are in use."""
        current = fingerprint([self._path])
        if current == self._fingerprint:
            return False
        self._fingerprint = current
        try:
            self._callers.replace(load(self._path))
        except TokensError as error:
            RELOADS.labels("tokens", "refused").inc()
            logger.error("tokens file rejected; keeping the previous version: %s", error)
            return False
        RELOADS.labels("tokens", "taken").inc()
        logger.info("tokens reloaded", extra={"tokens": [token.name for token in self._callers.tokens]})
        return True

    def identify(self, metadata: "Iterable[tuple[str, str | bytes]]") -> Token:
        """Return the caller's token. Raises Unauthenticated."""
        return self._callers.bearer(next((value for key, value in metadata if key == "authorization"), None))

    def enter(self, metadata: "Iterable[tuple[str, str | bytes]]", method: str, kind: Kind) -> Token:
        """Authorize and charge a call of a method, and return the caller's token.

        Raises Unauthenticated, PermissionDenied and QuotaExceeded.
        """
        token = self._authenticate(metadata)
        try:
            check_allowed(token, kind, method)
        except SluiceError:
            TOKEN_CALLS.labels(token.name, "denied").inc()
            raise
        return self._charge_call(token)

    def check(self, token: Token, request: Any) -> int:
        """Charge the texts of a request to the caller's quota, and return their number.

        Raises PermissionDenied for a collection that the caller may not use, and QuotaExceeded.
        """
        check_collections(token, collections_of(request))
        texts = text_count(request)
        self._pay(token, "texts", texts)
        return texts

    def refund(self, token: Token, texts: int) -> None:
        """Refund what `check` charged for a request that was then rejected as invalid."""
        self._callers.charge(token, "texts", -texts, monotonic())

    def redact(self, token: Token, response: Any) -> None:
        """Remove from a response the entries that name a collection which the caller may not use."""
        hide(response, token.allows)

    def admit(self, metadata: "Iterable[tuple[str, str | bytes]]") -> Token:
        """Identify the caller and charge one call. An HTTP request is one call, however many RPCs it takes.

        Raises Unauthenticated and QuotaExceeded. Complete the authorization with `check_rights` and `pay_texts`.
        """
        return self._charge_call(self._authenticate(metadata))

    def _authenticate(self, metadata: "Iterable[tuple[str, str | bytes]]") -> Token:
        """Identify the caller, and count a call without a known token. Raises Unauthenticated."""
        try:
            return self.identify(metadata)
        except SluiceError:
            TOKEN_CALLS.labels("", "unauthenticated").inc()
            raise

    def _charge_call(self, token: Token) -> Token:
        """Charge one call, count it, and return its token. Raises QuotaExceeded."""
        self._pay(token, "calls", 1)
        TOKEN_CALLS.labels(token.name, "admitted").inc()
        return token

    def check_rights(self, token: Token, method: str, request: Any) -> None:
        """Raise PermissionDenied unless the caller may call the method and use the collections of the request."""
        try:
            check_allowed(token, kind_of(method), method)
            check_collections(token, collections_of(request))
        except SluiceError:
            TOKEN_CALLS.labels(token.name, "denied").inc()
            raise

    def pay_texts(self, token: Token, texts: int, *, paid: int = 0) -> None:
        """Charge the texts of an HTTP request, of which `paid` are charged already. Raises QuotaExceeded.

        More texts than the burst are rejected, not delayed, because the caller can send fewer at a time.
        """
        try:
            check_burst(token, texts)
        except SluiceError:
            TOKEN_CALLS.labels(token.name, "over_quota").inc()
            raise
        self._pay(token, "texts", texts - paid)

    async def throttle(
        self, token: Token, requests: AsyncIterator[Any], charge: Charge | None = None
    ) -> AsyncIterator[Any]:
        """Yield the messages of a stream no faster than the caller's quota of texts allows. Raises PermissionDenied.

        charge  receives the texts of the last message, for `refund`
        """
        async for request in requests:
            try:
                check_collections(token, collections_of(request))
            except SluiceError:
                await discard_rest(requests)
                raise
            texts = text_count(request)
            await self._wait(token, texts)
            self._callers.charge(token, "texts", texts, monotonic())
            if charge is not None:
                charge.texts = texts
            yield request

    async def _wait(self, token: Token, texts: int) -> None:
        """Wait until the caller may send so many texts. Other calls of the same caller may use the quota first."""
        while wait_s := self._callers.wait_s(token, "texts", texts, monotonic()):  # noqa: ASYNC110 - the quota refills over time
            await asyncio.sleep(wait_s)

    def _pay(self, token: Token, what: Any, units: int) -> None:
        now = monotonic()
        if wait_s := self._callers.wait_s(token, what, units, now):
            TOKEN_CALLS.labels(token.name, "over_quota").inc()
            raise over_quota(token, what, wait_s)
        self._callers.charge(token, what, units, now)


@cache
def kind_of(method: str) -> Kind:
    """Return the kind of a method, `/package.Service/Method`, by its proto; `admin` for an unknown method."""
    try:
        found = _POOL.FindMethodByName(method.removeprefix("/").replace("/", "."))
    except KeyError:
        return "admin"
    assert isinstance(found, MethodDescriptor)
    if found.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS:
        return "read"
    return "write" if names_collections(found.input_type.full_name) else "admin"


def methods_of(service: str, *, but: Container[str] = ()) -> frozenset[str]:
    """Return the methods of a service, by its full name, without those named in `but`. For `Service.reads`."""
    methods = _POOL.FindServiceByName(service).methods
    return frozenset(f"/{service}/{method.name}" for method in methods if method.name not in but)
