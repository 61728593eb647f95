"""The four services as processes, as users run them. Each can be killed and restarted."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.fake_services import PIPELINES
from tests.support.processes import ServerProcess, start


@dataclass
class System:
    """A running system. A restarted service keeps its address."""

    arguments: dict[str, list[str]]
    processes: dict[str, ServerProcess]

    @property
    def address(self) -> str:
        """Address of the orchestrator."""
        return self.processes["orchestrator"].address

    def kill(self, name: str) -> None:
        """Kill a service with SIGKILL."""
        self.processes[name].kill()

    def restart(self, name: str) -> None:
        """Restart a killed service at its address."""
        address = self.processes[name].address
        self.processes[name] = start(f"services.{name}", "--listen", address, *self.arguments[name])


@contextmanager
def running_system(home: Path, bundle: Path, *shared: str) -> Iterator[System]:
    """Run a system with this bundle for embedding and late interaction. At the end, all must exit with 0.

    shared  arguments of all services
    """
    arguments = {
        "embedding": ["--bundles", str(bundle), *shared],
        "reranking": ["--bundles", str(bundle), *shared],
        "retrieval": ["--data", str(home / "data"), *shared],
    }
    processes = {name: start(f"services.{name}", *own) for name, own in arguments.items()}
    arguments["orchestrator"] = [*(f"--{name}={process.address}" for name, process in processes.items()), *shared]
    arguments["orchestrator"].append(f"--pipelines={PIPELINES}")
    processes["orchestrator"] = start("services.orchestrator", *arguments["orchestrator"])
    system = System(arguments, processes)
    try:
        yield system
    finally:
        statuses = {name: process.terminate() for name, process in reversed(system.processes.items())}
        assert set(statuses.values()) == {0}, statuses
