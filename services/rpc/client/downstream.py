"""Calls to another service: within a deadline, with retries and a circuit breaker.

Facts: a breaker that is open refuses for nothing, so a call that may wait does so without sending anything, and a
service that restarts is met by one probe at a time. A refusal as OVERLOADED says that the service is well. A server
that stops may end a call that just came as CANCELLED, whatever its grace; calls we cancel ourselves never get here.
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

# A call given less than this says nothing about the service when its time ends: callers in a hurry open no breaker.
_TELLING_S: Final = 0.05
# Retries of a call that may be left out: enough to meet another replica.
_IMPATIENT_RETRIES: Final = 2

Response = TypeVar("Response")


@dataclass
class Downstream:
    """One service that is called. Errors are those that the service raised, as `sluice.errors`."""

    name: str
    """What messages call it, e.g. `embedding`."""
    lane: Literal["interactive", "bulk"] = "interactive"
    """Which calls share this breaker and this budget."""
    breaker: Breaker = field(default_factory=Breaker)
    budget: RetryBudget = field(default_factory=RetryBudget)
    splits: bool = False
    """Raise a refusal as OVERLOADED at once: the caller waits, and sends less. Other refusals are tried again here."""
    chance: Callable[[], float] = random.random
    """Random numbers of 0 to 1, for the waits."""

    async def call(
        self, method: "Callable[..., Awaitable[Response]]", request: object, deadline: Deadline, *, patient: bool
    ) -> Response:
        """The response. UNAVAILABLE is tried again while budget and deadline allow.

        patient  wait until the deadline for a service that is away; else give up when the breaker is open, or after
                 two retries
        """
        tries = 0
        while True:
            try:
                if not self.breaker.permits(monotonic()):
                    raise self._refusal()
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
        """One try, told to the breaker and the budget however it ends."""
        timeout = deadline.remaining_s()
        try:
            response = await self._traced(method, request, deadline.timeout_s())
        except grpc.RpcError as rpc_error:
            error = self._named(from_rpc_error(rpc_error), timeout)
            self._tell_failure(error, timeout)
            raise error from None
        except BaseException:  # cancelled, or no time left: nothing is known of the service
            self.breaker.abandoned()
            raise
        if self.breaker.state != "closed":
            logger.warning("calls go on", extra={"service": self.name, "lane": self.lane})
        self.breaker.succeeded()
        self.budget.earn()
        return response

    async def _traced(
        self, method: "Callable[..., Awaitable[Response]]", request: object, timeout_s: float
    ) -> Response:
        """The response of a call that carries this call's id and trace. Raises grpc.RpcError."""
        with traces.call(self.name, type(request).__name__.removesuffix("Request")) as span:
            try:
                return await method(request, timeout=timeout_s, metadata=(*caller(), *traces.outgoing()))
            except grpc.aio.AioRpcError as error:
                span.fail(error.code().name)
                raise

    def _refusal(self) -> Unavailable:
        wait = self.breaker.wait_s(monotonic())
        message = f"{self.name}: not called, because its last calls failed; tried again in {wait:.1f} s"
        return Unavailable(message, retry_after_s=wait)

    def _may_retry(self, tries: int, deadline: Deadline, wait: float, *, patient: bool) -> bool:
        if deadline.remaining_s() <= wait:
            return False
        if self.breaker.state != "closed":
            return patient  # to wait costs nothing: the breaker lets one probe through at a time
        return (patient or tries <= _IMPATIENT_RETRIES) and self.budget.spend()

    def _tell_failure(self, error: SluiceError, timeout: float) -> None:
        if _is_ill(error, timeout):
            before = self.breaker.state
            self.breaker.failed(monotonic())
            if before == "closed" and self.breaker.state == "open":
                BREAKER_OPENED.labels(self.name, self.lane).inc()
                logger.warning("calls stopped", extra={"service": self.name, "lane": self.lane, "last": error.message})
        elif isinstance(error, DeadlineExpired):
            self.breaker.abandoned()
        else:
            self.breaker.succeeded()

    def _named(self, error: SluiceError, timeout: float) -> SluiceError:
        """The error with the service's name in front of its message, and a reason even when gRPC itself raised it."""
        if isinstance(error, Cancelled):
            return Unavailable(f"{self.name}: cancelled there", reason=ErrorReason.ERROR_REASON_DRAINING)
        what = f"no answer within {timeout:.3g} s" if isinstance(error, DeadlineExpired) else error.message
        error.message = f"{self.name}: {what}"
        error.args = (error.message,)
        error.reason = error.reason or error.default_reason
        return error


def _is_ill(error: SluiceError, timeout: float) -> bool:
    """Whether a failure says that the service does not work, rather than that it did not like the call."""
    if isinstance(error, Unavailable):
        return error.reason != ErrorReason.ERROR_REASON_OVERLOADED
    return isinstance(error, BackendFailed) or (isinstance(error, DeadlineExpired) and timeout >= _TELLING_S)
