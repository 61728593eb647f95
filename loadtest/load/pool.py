"""Pool of worker processes: distributes the load over them and collects their calls.

Fact: gRPC does not survive a fork, so workers are spawned. They start once per run, before the first call.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Final

from sluice.cli.console import CommandFailed

from loadtest.load.calls import Call, Outage
from loadtest.load.generator import ClosedLoop, Finished, OpenLoop, Order, work
from loadtest.load.targets import Calls

# Time to reach every worker before the first call is due.
_HEAD_START_S: Final = 0.5
_STOP_S: Final = 5.0

Load = OpenLoop | ClosedLoop
Progress = Callable[[Sequence[Call], float], None]
"""Receives the calls that ended since the last time, and the seconds since the start."""


class TargetLost(CommandFailed):
    """The target stopped answering during a run. `calls` is what was measured before."""

    def __init__(self, message: str, calls: list[Call]) -> None:
        super().__init__(message)
        self.calls = calls


@dataclass(frozen=True)
class Measured:
    """Result of a run: its calls, and the processor share of the busiest worker (1.0 is a whole core)."""

    start: float
    """Start of the run on the monotonic clock."""
    calls: list[Call]
    cpu_share: float


class Pool:
    """Workers that are ready for orders."""

    def __init__(self, members: Sequence[tuple[BaseProcess, Connection]], outage_s: float) -> None:
        self._members = members
        self._outage_s = outage_s

    def run(self, loads: Sequence[Load], progress: Progress) -> Measured:
        """Send the loads and return the calls. Raises TargetLost, and CommandFailed if a worker dies."""
        start = time.monotonic() + _HEAD_START_S
        for position, (_, connection) in enumerate(self._members):
            connection.send(Order(start, tuple(_part(load, position, len(self._members)) for load in loads)))
        calls: list[Call] = []
        outage = Outage(self._outage_s)
        shares: list[float] = []
        while len(shares) < len(self._members):
            ended: list[Call] = []
            for message in self._messages():
                if isinstance(message, Finished):
                    shares.append(message.cpu_share)
                else:
                    ended += message
            calls += ended
            progress(ended, time.monotonic() - start)
            if (since := outage.note(ended)) is not None:
                raise TargetLost(
                    f"the target stopped answering {since:.1f} s after the start; check that it is running", calls
                )
        return Measured(start, calls, max(shares))

    def _messages(self) -> Iterator[list[Call] | Finished]:
        """Yield the messages that workers send within a short time."""
        ready = wait([connection for _, connection in self._members], timeout=0.25)
        for process, connection in self._members:
            if connection in ready:
                try:
                    yield connection.recv()
                except EOFError:
                    process.join()
                    raise CommandFailed(f"a worker of the generator ended with status {process.exitcode}") from None


@contextmanager
def workers(count: int, plans: Sequence[Calls], *, outage_s: float) -> Iterator[Pool]:
    """Run a pool of `count` workers for the block."""
    context = multiprocessing.get_context("spawn")
    members: list[tuple[BaseProcess, Connection]] = []
    try:
        for position in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=work, args=(theirs, list(plans), position, count), daemon=True)
            process.start()
            theirs.close()
            members.append((process, ours))
        yield Pool(members, outage_s)
        for _, connection in members:
            connection.send(None)
        for member, _ in members:
            member.join(_STOP_S)
    finally:
        for member, connection in members:
            member.kill()
            member.join()
            connection.close()


def _part(load: Load, position: int, count: int) -> Load:
    """Return one worker's part: every `count`th arrival, or its share of the callers."""
    if isinstance(load, OpenLoop):
        return OpenLoop(load.times_s[position::count])
    return ClosedLoop(len(range(position, load.callers, count)), load.spans_s)
