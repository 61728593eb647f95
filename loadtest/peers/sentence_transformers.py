"""sentence-transformers as a peer: a process of its own, so that its torch is not ours."""

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

from loadtest.bench.drive import Driven


@dataclass
class InProcess:
    """The process. `memory_bytes` and `vector` are of the last measurement."""

    process: "subprocess.Popen[str]"
    memory_bytes: int = 0
    vector: Sequence[float] = ()

    def for_seconds(self, texts: Sequence[str], callers: int, seconds: float, threads: int) -> Driven:
        """Texts over and over for so long, one a call, with so many torch threads. Raises CommandFailed."""
        wanted = {"texts": list(texts), "callers": callers, "seconds": seconds, "threads": threads}
        given = self._ask(wanted)
        self.memory_bytes, self.vector = given["memory_bytes"], given["vector"]
        return Driven(given["calls"], given["seconds"], given["latencies_s"])

    def bulk_per_second(self, texts: Sequence[str], threads: int) -> float:
        """Texts a second when all are given at once, so that the library sorts and batches them: its limit."""
        return float(self._ask({"texts": list(texts), "threads": threads})["texts_per_s"])

    def _ask(self, wanted: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(wanted) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise CommandFailed("sentence-transformers ended; is the `export` extra installed?")
        given: dict[str, Any] = json.loads(line)
        return given


@contextmanager
def serving(checkpoint: Path) -> Iterator[InProcess]:
    """sentence-transformers with a checkpoint, for the block."""
    process = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", "loadtest.peers.once", str(checkpoint)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    try:
        yield InProcess(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)
