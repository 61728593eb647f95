"""The services as processes of this machine: start them, wait until they are healthy, find them again, stop them.

HOME/bundles/NAME/VERSION/   models
HOME/data/                   data of the retrieval service
HOME/logs/NAME.log           log of a service; NAME.log.old is the log of its previous run
HOME/system.json             processes of the running system
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from sluice.cli.console import CommandFailed
from sluice.signals import deferred_signals

from services.local.health import SERVING, TIMEOUT_S, gateway_health, health
from services.local.plan import Plan

# Calls in flight get 10 s by default (drain_grace_s); the rest is for the shutdown itself.
_STOP_S: Final = 20.0
_POLL_S: Final = 0.1
_LOG_LINES: Final = 5


@dataclass(frozen=True)
class Process:
    """A service as a process."""

    name: str
    pid: int
    address: str

    def is_alive(self) -> bool:
        """Return whether the process still runs. An unrelated process that reuses its id does not count."""
        try:
            command = Path(f"/proc/{self.pid}/cmdline").read_bytes()
        except OSError:
            return False
        return f"services.{self.name}".encode() in command

    def health(self, timeout_s: float = TIMEOUT_S) -> str:
        """Return `SERVING`, another health state, or the name of the status code if the check fails."""
        if self.name == "gateway":
            return gateway_health(self.address, timeout_s)
        return health(self.name, self.address, timeout_s)

    def signal(self, number: int) -> None:
        """Send a signal to the process if it still runs."""
        if self.is_alive():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


def running(home: Path) -> list[Process]:
    """Return the processes that were started with this home folder and still run."""
    try:
        records = json.loads(_record(home).read_text())
    except FileNotFoundError:
        return []
    return [process for record in records if (process := Process(**record)).is_alive()]


def start(plan: Plan) -> Iterator[Process]:
    """Start the services and yield each once it is healthy.

    If one fails, stops all of them and raises CommandFailed.
    """
    (plan.home / "logs").mkdir(parents=True, exist_ok=True)
    processes: list[Process] = []
    try:
        for name, command in plan.commands().items():
            with deferred_signals():
                processes.append(Process(name, _spawn(command, _log(plan.home, name)), plan.address(name)))
                _record(plan.home).write_text(json.dumps([asdict(process) for process in processes]))
        for process in processes:
            _await_healthy(process, plan.home)
            yield process
    except BaseException:
        stop(processes, plan.home)
        raise


def stop(processes: Sequence[Process], home: Path) -> None:
    """Stop processes by SIGTERM, callers before the services that they call, and kill those that run on after 20 s."""
    for process in reversed(processes):
        process.signal(signal.SIGTERM)
    deadline = time.monotonic() + _STOP_S
    while time.monotonic() < deadline and any(process.is_alive() for process in processes):
        time.sleep(_POLL_S)
    for process in processes:
        process.signal(signal.SIGKILL)
    _record(home).unlink(missing_ok=True)


def _spawn(command: list[str], log: Path) -> int:
    """Start a process in its own session, so that ^C reaches only this program. Return its id."""
    if log.exists():
        log.replace(log.with_suffix(".log.old"))
    with log.open("wb") as output:
        popen = subprocess.Popen(  # noqa: S603 - our own program
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    return popen.pid


def _await_healthy(process: Process, home: Path, timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while process.health() != SERVING:
        if not process.is_alive():
            raise CommandFailed(f"{process.name} ended while it started:\n{_log_end(_log(home, process.name))}")
        if time.monotonic() > deadline:
            raise CommandFailed(f"{process.name} is not healthy after {timeout_s:g} s: see {_log(home, process.name)}")
        time.sleep(_POLL_S)


def _log_end(log: Path) -> str:
    """Return the events of the last lines of a log."""
    lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
    return "\n".join(f"  {_event(line)}" for line in lines) + f"\n  full log: {log}"


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
