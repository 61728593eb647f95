"""Calls of an index stream to one service, repeated with smaller batches while the service rejects them."""

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
Rejection = Unavailable | DeadlineExpired | QuotaExceeded


@dataclass(eq=False)
class Sender:
    """Sends the batches of one stream to one service.

    Rule: only for calls that can be repeated safely. Errors other than a Rejection are raised at once.
    """

    service: str
    """Name of the service in metrics."""
    pace: Pace
    timeout_s: float
    """Seconds for one attempt."""
    stored: Callable[[], int] = lambda: 0
    """Number of documents of the stream that are stored, for the error message."""
    _draining: asyncio.Event = field(default_factory=asyncio.Event)

    def drain(self) -> None:
        """Wait for no service any more: the next rejection ends the stream."""
        self._draining.set()

    async def call(self, send: Callable[[Deadline], Awaitable[T]]) -> T:
        """Return the response, after as many attempts as it takes. Raises Unavailable when patience ends."""
        while True:
            try:
                response = await send(Deadline.after(self.timeout_s))
            except (Unavailable, DeadlineExpired) as error:
                await self._wait(error, count=0)
            else:
                self.pace.record_accepted(0)
                return response

    async def batch(self, count: int, send: Callable[[Deadline], Awaitable[T]]) -> T | None:
        """Return the response to a batch of so many documents; None, after a wait, if a smaller one should be sent.

        Raises Unavailable when patience ends.
        """
        while count <= self.pace.size or count == 1:
            try:
                response = await send(Deadline.after(self.timeout_s))
            except (Unavailable, DeadlineExpired, QuotaExceeded) as error:
                if isinstance(error, QuotaExceeded) and count == 1:
                    raise
                await self._wait(error, count=count)
            else:
                self.pace.record_accepted(count)
                return response
        return None

    async def _wait(self, error: Rejection, *, count: int) -> None:
        """Wait after a rejected batch; `count` is 0 for other calls. Raises Unavailable."""
        is_too_much = count > 0 and (not isinstance(error, Unavailable) or error.reason in _TOO_MUCH)
        asked_s = error.retry_after_s if isinstance(error, Unavailable) else None
        INDEX_REFUSED.labels(self.service, error.reason_name).inc()
        before = self.pace.size
        wait_s = self.pace.record_rejected(
            count,
            now=monotonic(),
            chance=random.random(),  # noqa: S311 - spreads retries, not used for security
            asked_s=asked_s,
            is_too_much=is_too_much,
        )
        if wait_s is None or self._draining.is_set():
            raise self._end(error)
        if self.pace.size < before:
            fields = {"service": self.service, "documents": self.pace.size, "wait_s": round(wait_s, 3)}
            logger.debug("index batch size reduced", extra={**fields, "reason": error.message})
        with suppress(TimeoutError):
            await asyncio.wait_for(self._draining.wait(), wait_s)

    def _end(self, error: Rejection) -> Unavailable:
        """Return the error that ends the stream, with the last rejection and the number of stored documents."""
        if self._draining.is_set():
            return Unavailable(
                "the server is shutting down while a service accepts no documents; send the other documents again",
                reason=ErrorReason.ERROR_REASON_DRAINING,
            )
        stored = self.stored()
        return Unavailable(
            f"no document could be stored for {self.pace.patience_s:g} s; {stored:,} documents of this stream are "
            f"stored, send the others again later. The last rejection: {error.message}",
            reason=error.reason if isinstance(error, Unavailable) else ErrorReason.ERROR_REASON_OVERLOADED,
            metadata={**error.metadata, "patience_s": self.pace.patience_s, "stored": stored},
            retry_after_s=error.retry_after_s if isinstance(error, Unavailable) else None,
        )
