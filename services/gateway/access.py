"""The permissions of a request: which methods of the services behind the gateway it may call.

| the gateway has | permissions of a request |
|---|---|
| `--tokens` | those of its token, within its quotas. A request costs one call, and each of its texts once |
| no tokens | the orchestrator decides. Other services are open only while the orchestrator requires no token |

Rule: `Caller` checks the permissions before every call, so a route cannot skip the check.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, Protocol

import grpc
from sluice.errors import Unauthenticated, Unavailable
from sluice.search.v1.search_service_pb2 import ListPipelinesRequest

from services.gateway.settings import GatewaySettings
from services.rpc.auth.authorizer import Authorizer
from services.rpc.auth.text_counts import text_count
from services.rpc.auth.tokens import Token, check_allowed
from services.rpc.server.interceptor import HEALTH

logger = logging.getLogger(__name__)

_PROBE_TIMEOUT_S: Final = 2.0
# How long a request waits, right after the gateway has started, until it is known whether tokens are required.
_FIRST_PROBE_S: Final = 2.0


class Method:
    """A method of a service behind the gateway. Only `Caller` calls it, after it has checked the permissions."""

    def __init__(self, path: str, *, is_inner: bool, rpc: Any) -> None:
        self.path = path
        """`/package.Service/Method`."""
        self.is_inner = is_inner and not path.startswith(HEALTH)
        """Whether it belongs to a service that trusts the gateway and does not check tokens itself."""
        self.rpc = rpc
        """The gRPC callable; for a stream, a function that returns one."""


class Rights(Protocol):
    """The permissions of one request."""

    async def check(self, method: Method, request: Any) -> None:
        """Raise SluiceError if the request may not make this call."""

    async def check_inner(self) -> None:
        """Raise SluiceError if the request may not read from the services behind the orchestrator."""

    def pay_texts(self, texts: int) -> None:
        """Charge the texts of a request whose texts are spread over several calls. Raises QuotaExceeded."""

    def throttle(self, messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Yield the messages of a stream, no faster than the quota of texts allows."""

    def may_see(self, collection: str) -> bool:
        """Return whether the response may name this collection."""


class TokenRights:
    """The permissions of a token for one request. The call is already charged, its texts are not."""

    def __init__(self, authorizer: Authorizer, token: Token) -> None:
        self._authorizer = authorizer
        self._token = token
        self._texts: Counter[str] = Counter()
        self._paid = 0

    async def check(self, method: Method, request: Any) -> None:
        """Raise PermissionDenied or QuotaExceeded. Texts that are sent to several methods are charged once."""
        if method.path.startswith(HEALTH):
            return
        self._authorizer.check_rights(self._token, method.path, request)
        self._texts[method.path] += text_count(request)
        self.pay_texts(self._texts[method.path])

    async def check_inner(self) -> None:
        """Raise PermissionDenied if the token may not read."""
        check_allowed(self._token, "read", "reading")

    def pay_texts(self, texts: int) -> None:
        """Charge the texts that have not been charged yet. Raises QuotaExceeded."""
        if texts > self._paid:
            self._authorizer.pay_texts(self._token, texts, paid=self._paid)
            self._paid = texts

    def throttle(self, messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Yield the messages no faster than the token's quota allows."""
        return self._authorizer.throttle(self._token, messages)

    def may_see(self, collection: str) -> bool:
        """Return whether the token may use the collection."""
        return self._token.allows(collection)


class InnerRoutes:
    """Whether a gateway without tokens opens the routes to the services behind the orchestrator.

    `watch` calls the orchestrator without credentials at intervals. The routes are open while those calls succeed.
    Until the first response, and while it is not known, they are closed.

    probe    the method `ListPipelines` of the orchestrator
    is_open  None follows the orchestrator
    """

    def __init__(self, probe: Any, *, is_open: bool | None = None) -> None:
        self._probe = probe
        self._is_open = is_open
        self._is_fixed = is_open is not None
        self._is_known = asyncio.Event()

    async def watch(self, every_s: float) -> None:
        """Probe the orchestrator at intervals, until cancelled."""
        while not self._is_fixed:
            await self._refresh()
            await asyncio.sleep(every_s)

    async def check(self) -> None:
        """Raise Unauthenticated if the orchestrator requires tokens, or Unavailable if that is not known yet."""
        if self._is_open is None:
            await self._first_probe()
        if self._is_open is None:
            raise Unavailable(
                "the orchestrator has not responded yet, so it is not known whether it requires tokens; try again, or "
                "start a gateway that has no orchestrator with --inner-routes open",
                retry_after_s=1.0,
            )
        if not self._is_open:
            raise Unauthenticated(
                "the orchestrator requires tokens, and this gateway has no tokens to check; start it with --tokens"
            )

    async def _first_probe(self) -> None:
        try:
            await asyncio.wait_for(self._is_known.wait(), _FIRST_PROBE_S)
        except TimeoutError:
            return

    async def _refresh(self) -> None:
        before = self._is_open
        self._is_open = await self._probe_once()
        if self._is_open is not None:
            self._is_known.set()
        if before != self._is_open:
            logger.info("inner routes changed", extra={"open": bool(self._is_open)})

    async def _probe_once(self) -> bool | None:
        """Return whether the orchestrator accepts calls without credentials; the previous result if it is down."""
        try:
            await self._probe(ListPipelinesRequest(), timeout=_PROBE_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            is_closed = error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
            return False if is_closed else self._is_open
        return True


class OpenRights:
    """The permissions of a request to a gateway without tokens."""

    def __init__(self, inner_routes: InnerRoutes) -> None:
        self._inner_routes = inner_routes

    async def check(self, method: Method, request: Any) -> None:
        """Raise Unauthenticated or Unavailable for a call to a service other than the orchestrator."""
        if method.is_inner:
            await self._inner_routes.check()

    async def check_inner(self) -> None:
        """Raise Unauthenticated or Unavailable."""
        await self._inner_routes.check()

    def pay_texts(self, texts: int) -> None:
        """Do nothing: without tokens there are no quotas."""

    def throttle(self, messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Return the messages unchanged."""
        return messages

    def may_see(self, collection: str) -> bool:
        """Return True."""
        return True


class Access:
    """The source of the permissions of each request.

    probe  the method `ListPipelines` of the orchestrator
    """

    def __init__(self, settings: GatewaySettings, authorizer: Authorizer | None, probe: Any) -> None:
        self._authorizer = authorizer
        self._inner_routes = InnerRoutes(probe, is_open=True if authorizer or settings.inner_routes == "open" else None)

    async def watch(self, every_s: float) -> None:
        """Follow whether the orchestrator requires tokens, until cancelled."""
        await self._inner_routes.watch(every_s)

    def admit(self, headers: Mapping[str, str]) -> Rights:
        """Charge the call of a request and return its permissions. Raises Unauthenticated and QuotaExceeded."""
        if self._authorizer is None:
            return OpenRights(self._inner_routes)
        given = headers.get("authorization")
        return TokenRights(self._authorizer, self._authorizer.admit([("authorization", given)] if given else []))
