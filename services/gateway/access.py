"""What a request may do with the services behind the gateway.

| the gateway has | a request may |
|---|---|
| `--tokens` | what its token may, and no more than its quotas: one call a request, each text once |
| no tokens | what the orchestrator decides; other services only while the orchestrator asks for no token |

Rule: `Caller` asks here before every call, so no route can forget to.
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
from services.rpc.auth.authorizer import Gate
from services.rpc.auth.text_counts import text_count
from services.rpc.auth.tokens import Token, check_allowed
from services.rpc.server.interceptor import HEALTH

logger = logging.getLogger(__name__)

_PROBE_TIMEOUT_S: Final = 2.0
# How long a request waits for the first answer of the orchestrator, right after the gateway's start.
_FIRST_ANSWER_S: Final = 2.0


class Method:
    """A method of a service behind the gateway. Only `Caller` calls it, after a check of the request's rights."""

    def __init__(self, path: str, *, is_inner: bool, rpc: Any) -> None:
        self.path = path
        """`/package.Service/Method`."""
        self.is_inner = is_inner and not path.startswith(HEALTH)
        """Whether it belongs to a service that trusts the gateway and asks for no token itself."""
        self.rpc = rpc
        """The callable of gRPC; for a stream a function that makes one."""


class Rights(Protocol):
    """What one request may do."""

    async def check(self, method: Method, request: Any) -> None:
        """Raise SluiceError unless the request may make this call."""

    async def check_inner(self) -> None:
        """Raise SluiceError unless the request may read from the services behind the orchestrator."""

    def pay_texts(self, texts: int) -> None:
        """Charge the texts of the whole request, before the calls that share them. Raises QuotaExceeded."""

    def throttled(self, messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """The messages of a stream, no faster than the quota of texts."""

    def may_see(self, collection: str) -> bool:
        """Whether a collection may be named to the caller."""


class TokenRights:
    """The rights of a token's bearer for one request, whose call is paid for."""

    def __init__(self, gate: Gate, token: Token) -> None:
        self._gate = gate
        self._token = token
        self._texts: Counter[str] = Counter()
        self._paid = 0

    async def check(self, method: Method, request: Any) -> None:
        """Raise PermissionDenied or QuotaExceeded. Texts that go to several methods are charged once."""
        if method.path.startswith(HEALTH):
            return
        self._gate.check_rights(self._token, method.path, request)
        self._texts[method.path] += text_count(request)
        self.pay_texts(self._texts[method.path])

    async def check_inner(self) -> None:
        """Raise PermissionDenied for a token that may not read."""
        check_allowed(self._token, "read", "reading")

    def pay_texts(self, texts: int) -> None:
        """Charge what is not paid for yet. Raises QuotaExceeded."""
        if texts > self._paid:
            self._gate.pay_texts(self._token, texts, paid=self._paid)
            self._paid = texts

    def throttled(self, messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """The messages at the pace of the token's quota."""
        return self._gate.checked(self._token, messages)

    def may_see(self, collection: str) -> bool:
        """Whether the token may use the collection."""
        return self._token.allows(collection)


class Door:
    """Whether the services behind the orchestrator are open, of a gateway without tokens: as the orchestrator is.

    The orchestrator is called without credentials, again and again. Its last answer holds; until the first one,
    nothing is open.
    """

    def __init__(self, ask: Any, *, is_open: bool | None = None) -> None:
        self._ask = ask
        self._is_open = is_open
        self._is_fixed = is_open is not None
        self._answered = asyncio.Event()

    async def watch(self, every_s: float) -> None:
        """Ask the orchestrator, until cancelled."""
        while not self._is_fixed:
            await self._refresh()
            await asyncio.sleep(every_s)

    async def check(self) -> None:
        """Raise Unauthenticated while the orchestrator asks for tokens, Unavailable while that is not known."""
        if self._is_open is None:
            await self._first_answer()
        if self._is_open is None:
            raise Unavailable(
                "the orchestrator has not answered yet, so it is not known whether it asks for tokens; "
                "a gateway without an orchestrator needs --inner-routes open",
                retry_after_s=1.0,
            )
        if not self._is_open:
            raise Unauthenticated(
                "the orchestrator asks for tokens, and this gateway has none to check: start it with --tokens"
            )

    async def _first_answer(self) -> None:
        try:
            await asyncio.wait_for(self._answered.wait(), _FIRST_ANSWER_S)
        except TimeoutError:
            return

    async def _refresh(self) -> None:
        before = self._is_open
        self._is_open = await self._answer()
        if self._is_open is not None:
            self._answered.set()
        if before != self._is_open:
            logger.info("inner routes", extra={"open": bool(self._is_open)})

    async def _answer(self) -> bool | None:
        """Whether the orchestrator answers without credentials; what was known before when it does not answer."""
        try:
            await self._ask(ListPipelinesRequest(), timeout=_PROBE_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            is_asking = error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
            return False if is_asking else self._is_open
        return True


class OpenRights:
    """The rights of a request to a gateway without tokens."""

    def __init__(self, door: Door) -> None:
        self._door = door

    async def check(self, method: Method, request: Any) -> None:
        """Raise Unauthenticated or Unavailable for calls that the orchestrator does not decide on."""
        if method.is_inner:
            await self._door.check()

    async def check_inner(self) -> None:
        """Raise Unauthenticated or Unavailable."""
        await self._door.check()

    def pay_texts(self, texts: int) -> None:
        """Nothing: there are no quotas here."""

    def throttled(self, messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """The messages as they are."""
        return messages

    def may_see(self, collection: str) -> bool:
        """True."""
        return True


class Access:
    """Gives each request its rights."""

    def __init__(self, settings: GatewaySettings, gate: Gate | None, ask: Any) -> None:
        self._gate = gate
        self._door = Door(ask, is_open=True if gate or settings.inner_routes == "open" else None)

    async def watch(self, every_s: float) -> None:
        """Follow what the orchestrator asks for, until cancelled."""
        await self._door.watch(every_s)

    def admit(self, headers: Mapping[str, str]) -> Rights:
        """The rights of a request, whose call is charged. Raises Unauthenticated and QuotaExceeded."""
        if self._gate is None:
            return OpenRights(self._door)
        given = headers.get("authorization")
        return TokenRights(self._gate, self._gate.admit([("authorization", given)] if given else []))
