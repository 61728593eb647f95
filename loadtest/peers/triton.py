"""NVIDIA Triton by pytriton: its environment, and a server of the same graph.

Facts, of version 0.7.0: the wheel includes the Triton server (480 MB with its dependencies); its Python backend needs
the interpreter's libpython on LD_LIBRARY_PATH.
"""

import os
import signal
import subprocess
import sysconfig
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import grpc
from sluice.cli.console import CommandFailed, err
from sluice.kserve.v2 import inference_service_pb2 as pb
from sluice.kserve.v2.inference_service_pb2_grpc import GRPCInferenceServiceStub

from loadtest.peers.infinity import free_port, run

MODEL: Final = "peer"
_PACKAGES: Final = ("nvidia-pytriton==0.7.0", "onnxruntime==1.31.1", "tokenizers==0.22.2")
_PROGRAM: Final = Path(__file__).with_name("triton_served.py")
_START_S: Final = 120.0
_STOP_S: Final = 30.0
_POLL_S: Final = 0.2


def environment(cache: Path) -> Path:
    """Return a Python with pytriton in its own virtual environment, created if necessary."""
    python = cache / "triton" / "bin" / "python"
    done = cache / "triton" / ".installed"
    if not done.is_file():
        err.print(f"creating an environment for {_PACKAGES[0]} in {cache / 'triton'}; this takes a minute")
        venv.create(cache / "triton", with_pip=True)
        run([str(python), "-m", "pip", "install", "--quiet", *_PACKAGES])
        done.touch()
    return python


@contextmanager
def serving(python: Path, bundle: Path, threads: int) -> Iterator[str]:
    """Run Triton with a bundle's graph for the block, and yield its address. Raises CommandFailed with its log."""
    ports = [free_port() for _ in range(3)]
    command = [str(python), str(_PROGRAM), str(bundle.absolute()), str(threads), *map(str, ports)]
    library = sysconfig.get_config_var("LIBDIR") or ""
    with tempfile.TemporaryDirectory(prefix="triton-") as logs:
        log = Path(logs) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - our own program
                command, stdout=output, stderr=output, env=os.environ | {"LD_LIBRARY_PATH": library}, cwd=logs
            )
        try:
            _await_ready(process, ports[0], log)
            yield f"127.0.0.1:{ports[0]}"
        finally:
            _stop(process)


def _await_ready(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if stub.ModelReady(pb.ModelReadyRequest(name=MODEL), timeout=2).ready:
                    return
            except grpc.RpcError:
                pass
            time.sleep(_POLL_S)
    words = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
    raise CommandFailed(f"Triton did not become ready:\n{words}")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End the process, which ends the server that it started."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
