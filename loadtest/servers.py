"""Server processes for measurements, started on free ports and stopped at the end."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
from sluice.cli.console import CommandFailed
from sluice.signals import deferred_signals

from loadtest.load.targets import Addresses

_START_S: Final = 120.0
_STOP_S: Final = 30.0
_POLL_S: Final = 0.005


@dataclass(frozen=True)
class Server:
    """A running server."""

    name: str
    address: str
    metrics: str
    """HOST:PORT of its Prometheus metrics."""
    pid: int
    ready_s: float
    """Seconds from the start of the process until it was ready."""

    def memory_bytes(self) -> int:
        """Return the resident memory now."""
        return int(psutil.Process(self.pid).memory_info().rss)


@contextmanager
def server(name: str, *arguments: str, tree: Path | None = None, module: str = "") -> Iterator[Server]:
    """Run `python -m services.NAME` for the block, optionally from another source tree, or another module.

    Raises CommandFailed with the last lines of its log if it does not start.
    """
    metrics = f"127.0.0.1:{_free_port()}"
    command = [
        sys.executable,
        "-m",
        module or f"services.{name}",
        "--listen",
        "127.0.0.1:0",
        "--metrics-listen",
        metrics,
    ]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SLUICE_")}
    if tree is not None:
        environment["PYTHONPATH"] = os.pathsep.join([str(tree), str(tree / "protos" / "python")])
    with tempfile.TemporaryDirectory(prefix="sluice-") as folder, ExitStack() as stack:
        log = Path(folder) / "log"
        started = time.perf_counter()
        with log.open("wb") as output, deferred_signals():
            process = subprocess.Popen(  # noqa: S603 - our own program
                [*command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                cwd=tree,
            )
            stack.callback(_stop, process)
        address = _await_ready(name, process, log)
        yield Server(name, address, metrics, process.pid, time.perf_counter() - started)


@dataclass(frozen=True)
class Parts:
    """The configuration of a whole system."""

    bundles: Sequence[Path]
    """Bundles of the embedding service."""
    reranker: Path
    index_fields: Sequence[str] = ()
    """Kinds of fields of new collections; empty means the orchestrator's default."""
    pipelines: Path | None = None
    """Pipelines file; None means the packaged pipelines."""
    data: Path | None = None
    """Folder of the store, which is kept; None means a temporary one."""
    variant: str = ""
    """Graph of the models; empty means the bundle's default."""
    caches: bool = True
    """Whether the model servers cache results."""


@contextmanager
def system(made_of: Parts) -> Iterator[tuple[Addresses, list[Server]]]:
    """Run all four services for the block."""
    with ExitStack() as stack:
        data = made_of.data or stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-data-"))
        bundles = json.dumps([str(bundle) for bundle in made_of.bundles])
        own = ["--variant", made_of.variant] if made_of.variant else []
        own += [] if made_of.caches else ["--cache-entries", "0"]
        embedding = stack.enter_context(server("embedding", "--bundles", bundles, *own))
        reranking = stack.enter_context(server("reranking", "--bundles", str(made_of.reranker), *own))
        retrieval = stack.enter_context(server("retrieval", "--data", str(data)))
        downstream = {"embedding": embedding, "retrieval": retrieval, "reranking": reranking}
        flags = [f"--{name}={one.address}" for name, one in downstream.items()]
        flags += [f"--index-fields={json.dumps(list(made_of.index_fields))}"] if made_of.index_fields else []
        flags += [f"--pipelines={made_of.pipelines}"] if made_of.pipelines else []
        orchestrator = stack.enter_context(server("orchestrator", *flags))
        addresses = Addresses(
            search=orchestrator.address,
            embed=embedding.address,
            retrieve=retrieval.address,
            rerank=reranking.address,
        )
        yield addresses, [orchestrator, embedding, retrieval, reranking]


def _await_ready(name: str, process: "subprocess.Popen[bytes]", log: Path) -> str:
    """Wait until the server is ready, and return its address."""
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        for line in log.read_text(errors="replace").splitlines():
            if '"ready"' in line and line.endswith("}"):
                return str(json.loads(line)["address"])
        if process.poll() is not None:
            break
        time.sleep(_POLL_S)
    words = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
    raise CommandFailed(f"services.{name} did not become ready:\n{words}")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    """Return a port that is free now. Servers do not report their metrics port, so it is chosen in advance."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
