"""infinity-emb (REST): its environment, its model folder, its server.

Facts, of version 0.0.78: torch must be installed and pinned first; the optimum engine needs `model.onnx` at the root of
the model's folder; without `--pooling-method mean` its vectors of mean-pooled models are wrong; `--model-id .` works
inside the folder; the number of OpenMP threads matters a lot.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from sluice.cli.console import CommandFailed, err

from loadtest.peers.work import Task

Engine = Literal["torch", "optimum"]
ENGINES: Final[tuple[Engine, ...]] = ("torch", "optimum")
_EXPORTED: Final = {"embed": "feature-extraction", "rerank": "text-classification"}

_TORCH: Final = "torch==2.13.0"
_INFINITY: Final = "infinity-emb[server,torch,optimum,logging]==0.0.78"
_START_S: Final = 120.0
_POLL_S: Final = 0.2


@dataclass(frozen=True)
class Peer:
    """A running peer."""

    address: str
    """HOST:PORT."""
    pid: int


def environment(cache: Path) -> Path:
    """Return the program `infinity_emb` in its own virtual environment, created if necessary."""
    program = cache / "infinity" / "bin" / "infinity_emb"
    done = cache / "infinity" / ".installed"
    if done.is_file() and program.is_file():
        return program
    err.print(f"creating an environment for {_INFINITY} in {cache / 'infinity'}; this takes minutes")
    venv.create(cache / "infinity", with_pip=True)
    pip = [str(cache / "infinity" / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    for package in (_TORCH, _INFINITY):
        run([*pip, package])
    done.touch()
    return program


def model_folder(checkpoint: Path, cache: Path, task: Task) -> Path:
    """Return a copy of the checkpoint with `model.onnx` at its root, exported by optimum as infinity documents it."""
    folder = cache / "models" / f"{checkpoint.parent.name}-{checkpoint.name}"
    if (folder / "model.onnx").is_file():
        return folder
    with tempfile.TemporaryDirectory() as exported:
        command = [sys.executable, "-m", "optimum.commands.optimum_cli", "export", "onnx", "--model", str(checkpoint)]
        run([*command, "--task", _EXPORTED[task], "--library", "transformers", exported])
        shutil.copytree(checkpoint, folder, dirs_exist_ok=True)
        shutil.copy(Path(exported) / "model.onnx", folder / "model.onnx")
    return folder


@contextmanager
def serving(program: Path, folder: Path, engine: Engine, threads: int) -> Iterator[Peer]:
    """Run Infinity with an engine and a number of OpenMP threads for the block. Raises CommandFailed with its log."""
    port = free_port()
    flags = ["--engine", engine, "--device", "cpu", "--port", str(port), "--host", "127.0.0.1"]
    command = [str(program), "v2", "--model-id", ".", *flags, "--no-model-warmup", "--no-bettertransformer"]
    environ = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads), "DO_NOT_TRACK": "1"}
    with tempfile.TemporaryDirectory(prefix="infinity-") as logs:
        log = Path(logs) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - the program we installed
                [*command, "--pooling-method", "mean"], cwd=folder, stdout=output, stderr=output, env=environ
            )
        try:
            _await_healthy(process, port, log)
            yield Peer(f"127.0.0.1:{port}", process.pid)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await_healthy(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(_POLL_S)
    words = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
    raise CommandFailed(f"infinity did not become healthy:\n{words}")


def run(command: Sequence[str]) -> None:
    """Run a command of the setup. Raises CommandFailed with the end of its output."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments
    if done.returncode:
        raise CommandFailed(f"{' '.join(command)}: failed:\n{done.stderr[-2000:]}")


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
