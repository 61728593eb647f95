"""Real server processes: start one, wait until it is ready, terminate or kill it."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.support.waiting import GUARD_S

ROOT: Final = Path(__file__).parents[2]
# Put before a command, starts it as `command &` in a script does.
IGNORING_SIGINT: Final = ("sh", "-c", 'trap "" INT; exec "$@"', "sh")


class StartRefused(Exception):
    """The process ended before it was ready."""

    def __init__(self, status: int, log: Sequence[str]) -> None:
        super().__init__(f"exit status {status}\n" + "\n".join(log))
        self.status = status
        self.log = tuple(log)


@dataclass
class ServerProcess:
    """A running server. `address` is where it serves, `log` the lines that it has written."""

    popen: subprocess.Popen[str]
    address: str = ""
    log: list[str] = field(default_factory=list)
    _ready: threading.Event = field(default_factory=threading.Event)
    _reader: threading.Thread | None = None

    @property
    def pid(self) -> int:
        """Process id."""
        return self.popen.pid

    def events(self) -> list[dict[str, Any]]:
        """Return the log lines that are JSON objects, parsed."""
        return [json.loads(line) for line in list(self.log) if line.startswith("{")]

    def kill(self) -> None:
        """Kill the process with SIGKILL, and wait until it is gone."""
        self.popen.kill()
        self.wait()

    def terminate(self) -> int:
        """Send SIGTERM, wait until it has drained, and return its exit status."""
        self.popen.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end of the process, and return its exit status. Raises TimeoutExpired."""
        status = self.popen.wait(GUARD_S)
        if self._reader is not None:
            self._reader.join()
        return status

    def follow(self) -> None:
        """Read the log in the background until it ends."""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def await_ready(self, timeout_s: float) -> None:
        """Wait for the log line `ready`. Raises StartRefused if the process ends, TimeoutError if it takes too long."""
        if not self._ready.wait(timeout_s):
            self.kill()
            raise TimeoutError("not ready in time:\n" + "\n".join(self.log))
        if not self.address:
            raise StartRefused(self.wait(), self.log)

    def _read(self) -> None:
        assert self.popen.stderr is not None
        with self.popen.stderr as lines:
            for line in lines:
                self.log.append(line.rstrip("\n"))
                if not self.address and line.startswith("{"):
                    self._note_ready(json.loads(line))
        self._ready.set()

    def _note_ready(self, event: dict[str, Any]) -> None:
        if event.get("event") == "ready":
            self.address = event["address"]
            self._ready.set()


@contextmanager
def command_running(arguments: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a command for the block, with text output, and kill it at the end if it still runs."""
    with subprocess.Popen(arguments, text=True, **options) as popen:
        try:
            yield popen
        finally:
            popen.kill()


def start(
    module: str,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
    timeout_s: float = GUARD_S,
    checkout: Path = ROOT,
) -> ServerProcess:
    """Start `python -m module` on a free port, and wait until it is ready. `prefix` is a command such as `prlimit`.

    Raises StartRefused if it does not become ready.
    """
    command = [*prefix, sys.executable, "-m", module, "--listen", "127.0.0.1:0", "--log-format", "json", *arguments]
    popen = subprocess.Popen(
        command,
        cwd=checkout,
        env=environment_of(checkout, environment or {}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    server = ServerProcess(popen)
    server.follow()
    server.await_ready(timeout_s)
    return server


def environment_of(checkout: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """Return an environment for programs of a work tree: this process's, with these settings and no others."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SLUICE_")}
    paths = [] if checkout == ROOT else [str(checkout), str(checkout / "protos" / "python")]
    if paths:
        inherited["PYTHONPATH"] = os.pathsep.join(paths)
    return inherited | dict(settings)


@contextmanager
def running(module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[ServerProcess]:
    """Run a server for the block, and terminate it at the end unless it has ended."""
    server = start(module, *arguments, environment=environment)
    try:
        yield server
    finally:
        if server.popen.poll() is None:
            server.terminate()
        else:
            server.wait()
