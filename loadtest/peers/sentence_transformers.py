"""sentence-transformers as a peer, in its own process so that its torch is not ours."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sluice.cli.console import CommandFailed

from loadtest.bench.closed_loop import Driven
from loadtest.peers.work import Task, Work


@dataclass
class InProcess:
    """The process and its work. `memory_bytes` is of the last measurement."""

    process: "subprocess.Popen[str]"
    work: Work
    memory_bytes: int = 0

    def drive(self, callers: int, seconds: float, threads: int) -> Driven:
        """Repeat the work for so many seconds with so many torch threads. Raises CommandFailed."""
        given = self._ask(jobs=self.work.plain, callers=callers, seconds=seconds, threads=threads)
        self.memory_bytes = given["memory_bytes"]
        return Driven(given["calls"], given["seconds"], given["latencies_s"])

    def values(self, threads: int) -> Sequence[float]:
        """Return the answer to the first job."""
        values: list[float] = self._ask(one=self.work.plain[0], threads=threads)["values"]
        return values

    def bulk_per_second(self, count: int, threads: int) -> float:
        """Return the texts per second if `count` are given at once, sorted and batched by the library: its limit."""
        return float(self._ask(bulk=self.work.plain[:count], threads=threads)["per_second"])

    def _ask(self, **wanted: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(wanted) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise CommandFailed("sentence-transformers ended; check that the extra `export` is installed")
        given: dict[str, Any] = json.loads(line)
        return given


@contextmanager
def serving(checkpoint: Path, task: Task, work: Work) -> Iterator[InProcess]:
    """Run sentence-transformers with a checkpoint for the block."""
    process = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", "loadtest.peers.unbatched", str(checkpoint), task],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    try:
        yield InProcess(process, work)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)
