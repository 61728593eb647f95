"""Embedding servers of Sluice in processes of their own."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from kit import KIT, ON_CPU, OUT, bundle_folder, environment

VARIANT: Final = "fp32" if ON_CPU else "fp16"
"""Graph that servers fitted to the GPU take."""
FITTED: Final = ("--max-batch-tokens", "16384", "--max-batch-rows", "512")
"""Flags for batches that fill a GPU."""

_UNCACHED: Final = ("--cache-entries", "0", "--max-deadline-s", "60")
_START_S: Final = 240 if ON_CPU else 90
_STOP_S: Final = 20


@dataclass(frozen=True)
class Launch:
    """How a server is started."""

    flags: Sequence[str]
    bundle: str = "plain"
    shims: Sequence[str] = ()
    """Flags of `serve.py`, which change the server from outside."""
    libraries: bool = True
    """Whether it finds the CUDA libraries."""
    extra: Mapping[str, str] = field(default_factory=dict)
    """Environment variables to add."""


class Server:
    """An embedding server that serves. Raises RuntimeError when it does not start."""

    def __init__(self, launch: Launch) -> None:
        self._metrics = f"127.0.0.1:{_free_port()}"
        self.log = OUT / f"server-{time.monotonic_ns()}.log"
        OUT.mkdir(parents=True, exist_ok=True)
        own = ["--listen", "127.0.0.1:0", "--metrics-listen", self._metrics]
        own += ["--bundles", str(bundle_folder(launch.bundle))]
        command = [sys.executable, str(KIT / "serve.py"), *launch.shims, *own, *_UNCACHED, *launch.flags]
        variables = environment(launch.extra, libraries=launch.libraries)
        started = time.monotonic()
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                command, stdout=log, stderr=log, env=variables
            )
        self.address = self._await_ready(started + _START_S)
        self.ready_s = time.monotonic() - started

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def logged(self, event: str) -> dict[str, Any]:
        """Return the fields of the first log line of an event; empty without one."""
        for line in self.log.read_text(errors="replace").splitlines():
            if f'"{event}"' in line and line.startswith("{") and line.endswith("}"):
                fields: dict[str, Any] = json.loads(line)
                return fields
        return {}

    def model(self, field: str) -> object:
        """Return a field of the log line about the loaded model."""
        return self.logged("model loaded").get(field, "")

    def metrics(self) -> dict[str, float]:
        """Return the server's metrics by name, summed over their labels."""
        with urllib.request.urlopen(f"http://{self._metrics}/metrics", timeout=5) as page:
            text = page.read().decode()
        result: dict[str, float] = {}
        for name, value in re.findall(r"^(sluice_\w+|process_\w+)(?:\{[^}]*\})? (\S+)$", text, re.MULTILINE):
            result[name] = result.get(name, 0) + float(value)
        return result

    def cpu_s(self) -> float:
        """Return the processor time that the server took so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        """End the server with SIGTERM, and with SIGKILL when that takes too long."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _await_ready(self, until: float) -> str:
        while self.is_alive and time.monotonic() < until:
            if line := self.logged("ready"):
                return str(line["address"])
            time.sleep(0.05)
        self.stop()
        raise RuntimeError(f"the server did not start: {self.log.read_text(errors='replace')[-1500:]}")


@contextlib.contextmanager
def serving(launch: Launch) -> Iterator[Server]:
    """Run a server for the block."""
    server = Server(launch)
    try:
        yield server
    finally:
        server.stop()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
