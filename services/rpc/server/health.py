"""Health of a server, computed from known state: it never runs a model or writes to a disk.

    name               SERVING when                                      used by Kubernetes for
    "" and each        the server has loaded, is not draining,           readiness, startup
    service's name     and its services report no problem
    startup            the server has loaded, whatever happens later     startup
    liveness           always: a response shows that the event loop      liveness
                       is running

Services report problems: a batch that does not end, a golden check that failed, a disk that accepts no writes. A
restart does not reliably fix any of them, so liveness ignores them.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final, Literal

from grpc_health.v1 import health_pb2, health_pb2_grpc
from sluice.errors import NotFound

from services.rpc.observability.metrics import READY

logger = logging.getLogger(__name__)

LIVENESS: Final = "liveness"
STARTUP: Final = "startup"
# Seconds within which a problem, or its end, is noticed.
_EVERY_S: Final = 1.0

State = Literal["loading", "ready", "draining"]
Problem = Callable[[], str]
"""Returns why a service cannot answer now; empty if it can. Must return immediately."""


def statuses(state: State, problems: Mapping[str, str]) -> dict[str, bool]:
    """Return whether each name is SERVING. `problems` are those of each service, empty for none."""
    is_ready = state == "ready"
    own = {name: is_ready and not problem for name, problem in problems.items()}
    return {"": is_ready and not any(problems.values()), LIVENESS: True, STARTUP: state != "loading", **own}


class HealthServicer(health_pb2_grpc.HealthServicer):
    """gRPC's health service. Each watch gets every change, even if other watches of its name end or are not read.

    Fact: in grpcio-health-checking 1.81, the end of a watch removes the other watches of its name, and a watch that is
    not read holds a lock that the next change waits for.
    """

    def __init__(self) -> None:
        self._serving: Mapping[str, bool] = {}
        self._changed = asyncio.Event()

    def set(self, serving: Mapping[str, bool]) -> None:
        """Set whether each name is SERVING from now on."""
        self._serving = serving
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def Check(self, request: Any, context: Any) -> health_pb2.HealthCheckResponse:
        """Return the status of one name. Raises NotFound."""
        if request.service not in self._serving:
            raise NotFound(f"expected the name of a service of this server, got {request.service!r:.80}")
        return health_pb2.HealthCheckResponse(status=self._status(request.service))

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Yield the status of one name, and again each time it changes."""
        sent = None
        while True:
            changed, status = self._changed, self._status(request.service)
            if status != sent:
                yield health_pb2.HealthCheckResponse(status=status)
                sent = status
            await changed.wait()

    def _status(self, name: str) -> Any:
        if name not in self._serving:
            return health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        states = health_pb2.HealthCheckResponse
        return states.SERVING if self._serving[name] else states.NOT_SERVING


class Health:
    """The health of one server."""

    def __init__(self) -> None:
        self.servicer = HealthServicer()
        self._state: State = "loading"
        self._services: Mapping[str, Problem] = {}
        self._statuses: dict[str, bool] = {}
        self._problems: Mapping[str, str] = {}

    def become(self, state: State, services: Mapping[str, Problem] | None = None) -> None:
        """Enter the next state, and replace the services if they are given."""
        self._state = state
        self._services = self._services if services is None else services
        self.refresh()

    def refresh(self) -> None:
        """Ask the services for their problems, and publish the result if it changed."""
        problems = {name: problem() for name, problem in self._services.items()}
        current = statuses(self._state, problems)
        if current != self._statuses:
            self.servicer.set(current)
        READY.set(current[""])
        present = {name: problem for name, problem in problems.items() if problem}
        if present.keys() != self._problems.keys():
            _log(present)
        self._statuses, self._problems = current, present

    async def watch(self) -> None:
        """Refresh every second, until cancelled."""
        while True:
            await asyncio.sleep(_EVERY_S)
            self.refresh()


def _log(problems: Mapping[str, str]) -> None:
    if problems:
        logger.error("not ready", extra={"problems": dict(problems)})
    else:
        logger.info("ready again")
