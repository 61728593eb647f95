"""The four services and the gateway as processes of this machine: start, wait until healthy, find again, stop.

HOME/bundles/NAME/VERSION/   models
HOME/data/                   what retrieval stores
HOME/logs/NAME.log           the log of each service; NAME.log.old is that of the run before
HOME/system.json             the processes of the running system
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sluice.cli.access import Access
from sluice.cli.console import CommandFailed
from sluice.client.credentials import bearer
from sluice.errors import from_rpc_error

# Calls in flight get 10 s by default (drain_grace_s); then the rest of the shutdown.
_STOP_S: Final = 20.0
_POLL_S: Final = 0.1
_HEALTH_NAMES: Final = {
    "embedding": "sluice.embedding.v1.EmbeddingService",
    "retrieval": "sluice.retrieval.v1.RetrievalService",
    "reranking": "sluice.reranking.v1.RerankingService",
    "orchestrator": "sluice.search.v1.SearchService",
}
_PORT_OFFSETS: Final = {"orchestrator": 0, "embedding": 1, "retrieval": 2, "reranking": 3, "gateway": 4}
# Behind those, the metrics pages of the four services, which the gateway's console draws.
_METRICS_OFFSET: Final = 5
DEFAULT_PORT: Final = 50050
LAST_PORT: Final = 65_535 - _METRICS_OFFSET - 3
_GATEWAY_NEEDS: Final = ("fastapi", "httptools", "orjson", "uvicorn")


def has_gateway() -> bool:
    """Whether the extra `gateway` is installed."""
    return all(find_spec(module) is not None for module in _GATEWAY_NEEDS)


@dataclass(frozen=True)
class Plan:
    """What the four services are started with."""

    home: Path
    embedding_bundle: Path
    reranking_bundle: Path
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    pipelines: Path | None = None
    variant: str = "auto"
    gateway: bool = field(default_factory=has_gateway)

    def address(self, name: str) -> str:
        """Where a service serves: the orchestrator at `port`, the others behind it."""
        return f"{self.host}:{self.port + _PORT_OFFSETS[name]}"

    def metrics(self, name: str) -> str:
        """Where a service has its metrics page."""
        return f"{self.host}:{self.port + _METRICS_OFFSET + _PORT_OFFSETS[name]}"

    def commands(self) -> dict[str, list[str]]:
        """The command line of each service, by name, in the order to start them."""
        downstream = [f"--{name}={self.address(name)}" for name in ("embedding", "retrieval", "reranking")]
        arguments = {
            "embedding": ["--bundles", str(self.embedding_bundle), "--variant", self.variant],
            "retrieval": ["--data", str(self.home / "data")],
            "reranking": ["--bundles", str(self.reranking_bundle), "--variant", self.variant],
            "orchestrator": downstream + ([f"--pipelines={self.pipelines}"] if self.pipelines else []),
        }
        for name, own in arguments.items():
            own += ["--metrics-listen", self.metrics(name)]
        if self.gateway:
            scraped = [f"--scrape={name}={self.metrics(name)}" for name in arguments]
            arguments["gateway"] = [f"--orchestrator={self.address('orchestrator')}", *downstream, *scraped]
        # -P: a folder `services` where the command is called must not be taken for ours.
        return {
            name: [sys.executable, "-P", "-m", f"services.{name}", "--listen", self.address(name), *own]
            for name, own in arguments.items()
        }


@dataclass(frozen=True)
class Process:
    """A service as a process."""

    name: str
    pid: int
    address: str

    def is_alive(self) -> bool:
        """True while it runs. A number that the system gave to another process since does not count."""
        try:
            command = Path(f"/proc/{self.pid}/cmdline").read_bytes()
        except OSError:
            return False
        return f"services.{self.name}".encode() in command

    def health(self, timeout_s: float = 2.0) -> str:
        """`SERVING`, or what else its health check says; the status code's name when there is no answer."""
        if self.name == "gateway":
            return _http_health(self.address, timeout_s)
        return health(self.name, self.address, timeout_s)

    def signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.is_alive():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


def health(name: str, address: str, timeout_s: float = 2.0, access: Access | None = None) -> str:
    """What the health check of a service says; the status code's name when it says nothing."""
    request = health_pb2.HealthCheckRequest(service=_HEALTH_NAMES[name])
    shown = access or Access(token=None, credentials=None)
    credentials = shown["credentials"]
    with grpc.secure_channel(address, credentials) if credentials else grpc.insecure_channel(address) as channel:
        try:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(request, timeout=timeout_s, metadata=bearer(shown["token"]))
        except grpc.RpcError as error:
            return from_rpc_error(error).code.name
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def _http_health(address: str, timeout_s: float) -> str:
    """`SERVING` when a gateway says that it is ready."""
    try:
        with urllib.request.urlopen(f"http://{address}/health", timeout=timeout_s):
            return "SERVING"
    except urllib.error.HTTPError:
        return "NOT_SERVING"
    except OSError:
        return "UNAVAILABLE"


def running(home: Path) -> list[Process]:
    """The processes of the system that was started with this home, those that still run."""
    try:
        records = json.loads(_record(home).read_text())
    except FileNotFoundError:
        return []
    return [process for record in records if (process := Process(**record)).is_alive()]


def start(plan: Plan) -> Iterator[Process]:
    """Start the services; gives each once it is healthy.

    When one fails, stops them all again and raises CommandFailed.
    """
    (plan.home / "logs").mkdir(parents=True, exist_ok=True)
    processes: list[Process] = []
    try:
        for name, command in plan.commands().items():
            processes.append(Process(name, _spawn(command, _log(plan.home, name)), plan.address(name)))
            _record(plan.home).write_text(json.dumps([asdict(process) for process in processes]))
        for process in processes:
            _await_healthy(process, plan.home)
            yield process
    except BaseException:
        stop(processes, plan.home)
        raise


def stop(processes: Sequence[Process], home: Path) -> None:
    """Stop processes kindly, those that call others first; kill what is still there after its grace."""
    for process in reversed(processes):
        process.signal(signal.SIGTERM)
    deadline = time.monotonic() + _STOP_S
    while time.monotonic() < deadline and any(process.is_alive() for process in processes):
        time.sleep(_POLL_S)
    for process in processes:
        process.signal(signal.SIGKILL)
    _record(home).unlink(missing_ok=True)


def _spawn(command: list[str], log: Path) -> int:
    """Start a process of its own session, so that ^C reaches only us, and we stop it kindly. Returns its id."""
    if log.exists():
        log.replace(log.with_suffix(".log.old"))
    with log.open("wb") as output:
        popen = subprocess.Popen(  # noqa: S603 - our own program
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    return popen.pid


def _await_healthy(process: Process, home: Path, timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while process.health() != "SERVING":
        if not process.is_alive():
            raise CommandFailed(f"{process.name} ended:\n{_last_words(_log(home, process.name))}")
        if time.monotonic() > deadline:
            raise CommandFailed(f"{process.name} is not healthy after {timeout_s:g} s: see {_log(home, process.name)}")
        time.sleep(_POLL_S)


def _last_words(log: Path) -> str:
    """The end of a log: the events of its last lines."""
    lines = log.read_text(errors="replace").splitlines()[-5:]
    return "\n".join(f"  {_event(line)}" for line in lines) + f"\n  the whole log: {log}"


def _event(line: str) -> str:
    try:
        record = json.loads(line)
    except ValueError:
        return line
    return str(record.get("event", line)) if isinstance(record, dict) else line


def _record(home: Path) -> Path:
    return home / "system.json"


def _log(home: Path, name: str) -> Path:
    return home / "logs" / f"{name}.log"
