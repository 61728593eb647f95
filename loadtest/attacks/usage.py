"""Memory and processor time of processes, from /proc."""

import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

MB: Final = 10**6
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_SAMPLE_S: Final = 0.05
_POLL_S: Final = 0.25
# Written to clear_refs it sets the peak to the memory now (proc_pid_clear_refs(5)).
_RESET_PEAK: Final = "5"


def resident_bytes(pid: int) -> int:
    """Return the resident memory now, 0 when the process has ended."""
    return _status(pid, "VmRSS")


def peak_bytes(pid: int) -> int:
    """Return the largest resident memory since the last reset, 0 when the process has ended."""
    return _status(pid, "VmHWM")


def reset_peak(pid: int) -> bool:
    """Set the peak to the memory now. Return False where that is not allowed."""
    try:
        Path(f"/proc/{pid}/clear_refs").write_text(_RESET_PEAK)
    except OSError:
        return False
    return True


def processor_s(pid: int) -> float:
    """Return the processor time of all threads, in user and system mode; 0 when the process has ended."""
    try:
        # The name of the program may have spaces and parentheses; the numbers follow the last parenthesis.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


@dataclass
class Watch:
    """The memory and processor time of several processes since a moment."""

    pids: Mapping[str, int]
    """By server."""
    most_mb: float = math.inf
    """A server that grows by more is killed, to spare the machine."""
    before: dict[str, int] = field(default_factory=dict)
    """Resident bytes at the beginning."""
    _began_s: dict[str, float] = field(default_factory=dict)
    _sampled: dict[str, int] = field(default_factory=dict)
    _resets: set[str] = field(default_factory=set)

    def begin(self) -> None:
        """Note the memory of now as that before the attack."""
        self.before = {name: resident_bytes(pid) for name, pid in self.pids.items()}
        self.lap()

    def lap(self) -> None:
        """Begin a step: processor time and peak count from now, memory still from `begin`."""
        self._resets = {name for name, pid in self.pids.items() if reset_peak(pid)}
        self._sampled = {name: resident_bytes(pid) for name, pid in self.pids.items()}
        self._began_s = {name: processor_s(pid) for name, pid in self.pids.items()}

    def growth_mb(self) -> dict[str, float]:
        """Return the growth from `begin` to the peak of this step, by server."""
        self._sample()
        return {name: (self._sampled[name] - self.before[name]) / MB for name in self.pids}

    def used_s(self) -> dict[str, float]:
        """Return the processor time of this step, by server."""
        return {name: processor_s(pid) - self._began_s[name] for name, pid in self.pids.items()}

    def ended(self) -> list[str]:
        """Return the servers that have ended."""
        return [name for name, pid in self.pids.items() if not resident_bytes(pid)]

    def remaining(self) -> dict[str, float]:
        """Return the memory now / the memory at `begin`, by server; 0 for a server that has ended."""
        return {name: resident_bytes(pid) / self.before[name] for name, pid in self.pids.items()}

    def settle(self, most: float, timeout_s: float) -> dict[str, float]:
        """Wait until no server has more than `most` times the memory of before. Return what remains."""
        until = time.monotonic() + timeout_s
        while max((remaining := self.remaining()).values()) > most and time.monotonic() < until:
            time.sleep(_POLL_S)
        return remaining

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Sample the memory for the block, for systems that do not let the peak be reset."""
        ended = threading.Event()

        def sample() -> None:
            while not ended.wait(_SAMPLE_S):
                self._sample()

        thread = threading.Thread(target=sample, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _sample(self) -> None:
        for name, pid in self.pids.items():
            now = peak_bytes(pid) if name in self._resets else resident_bytes(pid)
            self._sampled[name] = max(self._sampled[name], now)
            if resident_bytes(pid) - self.before[name] > self.most_mb * MB:
                os.kill(pid, signal.SIGKILL)


def _status(pid: int, name: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)
