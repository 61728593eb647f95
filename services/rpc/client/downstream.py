"""Calls to another service, with a deadline, retries and a circuit breaker.

Facts: an open breaker rejects calls locally, so a patient call waits without sending anything, and a restarted service
gets one probe at a time. A rejection with the reason OVERLOADED shows that the service is healthy. A server that stops
can end a new call as CANCELLED despite its grace period; calls that this process cancels do not reach this code.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Final, Literal, TypeVar

import grpc
from prometheus_client import Counter
from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.errors import BackendFailed, Cancelled, DeadlineExpired, SluiceError, Unavailable, from_rpc_error

from services.rpc.client.breaker import Breaker
from services.rpc.client.retry import RetryBudget, wait_s
from services.rpc.deadline import Deadline
from services.rpc.observability import traces
from services.rpc.observability.logs import caller

logger = logging.getLogger(__name__)

RETRIES: Final = Counter(
    "sluice_retries", "Calls to another service that were sent again after UNAVAILABLE.", ["service", "lane"]
)
BREAKER_OPENED: Final = Counter("sluice_breaker_opened", "Times that a circuit breaker opened.", ["service", "lane"])

# A shorter timeout that expires does not count as a failure of the service, so that short deadlines open no breaker.
_SIGNIFICANT_S: Final = 0.05
# Retries of a call that is not patient: enough to reach another replica.
_IMPATIENT_RETRIES: Final = 2

Response = TypeVar("Response")


@dataclass
class Downstream:
    """A service that is called. Raises the errors that the service raised, as `sluice.errors`."""

    name: str
    """Name in messages, such as `embedding`."""
    lane: Literal["interactive", "bulk"] = "interactive"
    """Lane of the calls that share this breaker and this budget."""
    breaker: Breaker = field(default_factory=Breaker)
    budget: RetryBudget = field(default_factory=RetryBudget)
    splits: bool = False
    """Raise a rejection with OVERLOADED immediately, because the caller waits and then sends less. Other rejections are
    retried here."""
    chance: Callable[[], float] = random.random
    """Returns random numbers from 0 to 1, for the waits."""

    async def call(
        self, method: "Callable[..., Awaitable[Response]]", request: object, deadline: Deadline, *, patient: bool
    ) -> Response:
        """Return the response. A call that fails with UNAVAILABLE is retried while budget and deadline allow.

        patient  wait until the deadline for a service that is away; otherwise give up if the breaker is open, or
                 after two retries
        """
        tries = 0
        while True:
            try:
                if not self.breaker.permits(monotonic()):
                    raise self._rejection()
                tries += 1
                RETRIES.labels(self.name, self.lane).inc(tries > 1)
                return await self._send(method, request, deadline)
            except Unavailable as error:
                wait = wait_s(max(tries, 1), chance=self.chance(), asked_s=error.retry_after_s)
                is_for_caller = self.splits and error.reason == ErrorReason.ERROR_REASON_OVERLOADED
                if is_for_caller or not self._may_retry(tries, deadline, wait, patient=patient):
                    raise
            await asyncio.sleep(wait)

    async def _send(
        self, method: "Callable[..., Awaitable[Response]]", request: object, deadline: Deadline
    ) -> Response:
        """Send the call once, and record its outcome in the breaker and the budget."""
        timeout = deadline.remaining_s()
        try:
            response = await self._send_traced(method, request, deadline.timeout_s())
        except grpc.RpcError as rpc_error:
            error = self._with_service_name(from_rpc_error(rpc_error), timeout)
            self._record_failure(error, timeout)
            raise error from None
        except BaseException:  # cancelled, or no time left: this says nothing about the service
            self.breaker.record_abandonment()
            raise
        if self.breaker.state != "closed":
            logger.warning("circuit breaker closed", extra={"service": self.name, "lane": self.lane})
        self.breaker.record_success()
        self.budget.earn()
        return response

    async def _send_traced(
        self, method: "Callable[..., Awaitable[Response]]", request: object, timeout_s: float
    ) -> Response:
        """Send the call with the current request id and trace. Raises grpc.RpcError."""
        with traces.call(self.name, type(request).__name__.removesuffix("Request")) as span:
            try:
                return await method(request, timeout=timeout_s, metadata=(*caller(), *traces.outgoing()))
            except grpc.aio.AioRpcError as error:
                span.fail(error.code().name)
                raise

    def _rejection(self) -> Unavailable:
        wait = self.breaker.wait_s(monotonic())
        message = f"{self.name}: not called because its last calls failed; next attempt in {wait:.1f} s"
        return Unavailable(message, retry_after_s=wait)

    def _may_retry(self, tries: int, deadline: Deadline, wait: float, *, patient: bool) -> bool:
        if deadline.remaining_s() <= wait:
            return False
        if self.breaker.state != "closed":
            return patient  # waiting is cheap: the breaker permits one probe at a time
        return (patient or tries <= _IMPATIENT_RETRIES) and self.budget.spend()

    def _record_failure(self, error: SluiceError, timeout: float) -> None:
        if _is_unhealthy(error, timeout):
            before = self.breaker.state
            self.breaker.record_failure(monotonic())
            if before == "closed" and self.breaker.state == "open":
                BREAKER_OPENED.labels(self.name, self.lane).inc()
                logger.warning(
                    "circuit breaker opened", extra={"service": self.name, "lane": self.lane, "last": error.message}
                )
        elif isinstance(error, DeadlineExpired):
            self.breaker.record_abandonment()
        else:
            self.breaker.record_success()

    def _with_service_name(self, error: SluiceError, timeout: float) -> SluiceError:
        """Prefix an error with the name of the service, and give it a reason even if gRPC itself raised it."""
        if isinstance(error, Cancelled):
            return Unavailable(f"{self.name}: the service cancelled the call", reason=ErrorReason.ERROR_REASON_DRAINING)
        what = f"no answer within {timeout:.3g} s" if isinstance(error, DeadlineExpired) else error.message
        error.message = f"{self.name}: {what}"
        error.args = (error.message,)
        error.reason = error.reason or error.default_reason
        return error


def _is_unhealthy(error: SluiceError, timeout: float) -> bool:
    """Whether a failure says that the service does not work, rather than that it did not like the call."""
    if isinstance(error, Unavailable):
        return error.reason != ErrorReason.ERROR_REASON_OVERLOADED
    return isinstance(error, BackendFailed) or (isinstance(error, DeadlineExpired) and timeout >= _SIGNIFICANT_S)
