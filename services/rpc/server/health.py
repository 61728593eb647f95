"""What a server says of itself. Health answers from what is known: it never runs a model or writes to a disk.

    name             SERVING when                                            Kubernetes asks for
    "" and each      it has loaded, is not draining, and nothing             readiness, startup
    service's own    keeps it from answering
    startup          it has loaded, whatever came after                      startup
    liveness         its event loop turns: an answer says so                 liveness

What keeps a server from answering is what its services say: a batch that does not end, a golden check that failed, a
disk that takes no writes. Restarting helps against none of them for certain, so liveness does not speak of them.
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
# A problem is seen within this time, in seconds, and so is its end.
_EVERY_S: Final = 1.0

State = Literal["loading", "ready", "draining"]
Problem = Callable[[], str]
"""What keeps a service from answering now; empty when nothing does. Takes no time."""


def statuses(state: State, problems: Mapping[str, str]) -> dict[str, bool]:
    """Whether each name serves. `problems`: what keeps each service from it, empty for nothing."""
    ready = state == "ready"
    own = {name: ready and not problem for name, problem in problems.items()}
    return {"": ready and not any(problems.values()), LIVENESS: True, STARTUP: state != "loading", **own}


class HealthServicer(health_pb2_grpc.HealthServicer):
    """gRPC's health service. Watches see a change whether or not others of the same name come and go, or do not read.

    Fact: grpcio-health-checking 1.81 loses the other watches of a name when one ends, and a watch that nobody reads
    holds a lock that the next change waits for.
    """

    def __init__(self) -> None:
        self._serving: Mapping[str, bool] = {}
        self._changed = asyncio.Event()

    def say(self, serving: Mapping[str, bool]) -> None:
        """Tell whether each name serves, from now on."""
        self._serving = serving
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def Check(self, request: Any, context: Any) -> health_pb2.HealthCheckResponse:
        """Answer for one name. Raises NotFound."""
        if request.service not in self._serving:
            raise NotFound(f"expected the name of a service here, got {request.service!r:.80}")
        return health_pb2.HealthCheckResponse(status=self._status(request.service))

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Answer for one name, and again whenever the answer changes."""
        said = None
        while True:
            changed, status = self._changed, self._status(request.service)
            if status != said:
                yield health_pb2.HealthCheckResponse(status=status)
                said = status
            await changed.wait()

    def _status(self, name: str) -> Any:
        if name not in self._serving:
            return health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        states = health_pb2.HealthCheckResponse
        return states.SERVING if self._serving[name] else states.NOT_SERVING


class Health:
    """The health of one server, as gRPC's health service tells it."""

    def __init__(self) -> None:
        self.servicer = HealthServicer()
        self._state: State = "loading"
        self._services: Mapping[str, Problem] = {}
        self._said: dict[str, bool] = {}
        self._problems: Mapping[str, str] = {}

    def become(self, state: State, services: Mapping[str, Problem] | None = None) -> None:
        """Go on to the next state, with these services from now on."""
        self._state = state
        self._services = self._services if services is None else services
        self.look()

    def look(self) -> None:
        """Ask the services what problems them, and say it when it changed."""
        problems = {name: problem() for name, problem in self._services.items()}
        said = statuses(self._state, problems)
        if said != self._said:
            self.servicer.say(said)
        READY.set(said[""])
        present = {name: problem for name, problem in problems.items() if problem}
        if present.keys() != self._problems.keys():
            _tell(present)
        self._said, self._problems = said, present

    async def watch(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(_EVERY_S)
            self.look()


def _tell(problems: Mapping[str, str]) -> None:
    if problems:
        logger.error("not ready", extra={"problems": dict(problems)})
    else:
        logger.info("nothing keeps it from answering")
