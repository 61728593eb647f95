"""Calls of an index stream to one service, sent again, and smaller, while the service refuses them."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Final, TypeVar

from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.errors import DeadlineExpired, QuotaExceeded, Unavailable

from services.orchestrator.indexing.pace import Pace
from services.orchestrator.metrics import INDEX_REFUSED
from services.rpc.deadline import Deadline

logger = logging.getLogger(__name__)

_TOO_MUCH: Final = frozenset({ErrorReason.ERROR_REASON_OVERLOADED})

T = TypeVar("T")
Refusal = Unavailable | DeadlineExpired | QuotaExceeded


@dataclass(eq=False)
class Sender:
    """Sends the batches of one stream to one service.

    Rule: only calls that may be repeated. Errors other than a refusal for now pass at once.
    """

    service: str
    """Its name in metrics."""
    pace: Pace
    timeout_s: float
    """For one try."""
    stored: Callable[[], int] = lambda: 0
    """How many documents of the stream are stored, for the last message."""
    _draining: asyncio.Event = field(default_factory=asyncio.Event)

    def drain(self) -> None:
        """Wait for no service any more: a refusal ends the stream, and the caller sends the rest elsewhere."""
        self._draining.set()

    async def call(self, send: Callable[[Deadline], Awaitable[T]]) -> T:
        """Return the answer, however often it takes. Raises Unavailable when patience ends."""
        while True:
            try:
                answer = await send(Deadline.after(self.timeout_s))
            except (Unavailable, DeadlineExpired) as error:
                await self._wait(error, count=0)
            else:
                self.pace.taken(0)
                return answer

    async def batch(self, count: int, send: Callable[[Deadline], Awaitable[T]]) -> T | None:
        """Return the answer to a batch of so many documents; None, after a wait, when it is to be sent smaller.

        Raises Unavailable when patience ends.
        """
        while count <= self.pace.size or count == 1:
            try:
                answer = await send(Deadline.after(self.timeout_s))
            except (Unavailable, DeadlineExpired, QuotaExceeded) as error:
                if isinstance(error, QuotaExceeded) and count == 1:
                    raise
                await self._wait(error, count=count)
            else:
                self.pace.taken(count)
                return answer
        return None

    async def _wait(self, error: Refusal, *, count: int) -> None:
        """Wait as the pace says after a refused batch; `count` is 0 for what is no batch. Raises Unavailable."""
        is_too_much = count > 0 and (not isinstance(error, Unavailable) or error.reason in _TOO_MUCH)
        asked_s = error.retry_after_s if isinstance(error, Unavailable) else None
        INDEX_REFUSED.labels(self.service, error.reason_name).inc()
        before = self.pace.size
        wait_s = self.pace.refused(
            count,
            now=monotonic(),
            chance=random.random(),  # noqa: S311 - spreads retries, guards nothing
            asked_s=asked_s,
            is_too_much=is_too_much,
        )
        if wait_s is None or self._draining.is_set():
            raise self._given_up(error)
        if self.pace.size < before:
            fields = {"service": self.service, "documents": self.pace.size, "wait_s": round(wait_s, 3)}
            logger.debug("index batch made smaller", extra={**fields, "reason": error.message})
        with suppress(TimeoutError):
            await asyncio.wait_for(self._draining.wait(), wait_s)

    def _given_up(self, error: Refusal) -> Unavailable:
        """Return the end of the stream: how long, why, what is stored and how to go on."""
        if self._draining.is_set():
            what = "shutting down while a service took no documents"
            return Unavailable(f"{what}: send the rest again", reason=ErrorReason.ERROR_REASON_DRAINING)
        stored = self.stored()
        return Unavailable(
            f"no document could be stored for {self.pace.patience_s:g} s, and {stored:,} of this stream were before; "
            f"send the others again when there is room. The last refusal: {error.message}",
            reason=error.reason if isinstance(error, Unavailable) else ErrorReason.ERROR_REASON_OVERLOADED,
            metadata={**error.metadata, "patience_s": self.pace.patience_s, "stored": stored},
            retry_after_s=error.retry_after_s if isinstance(error, Unavailable) else None,
        )
