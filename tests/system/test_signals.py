"""Commands stop on SIGINT and SIGTERM, also when a shell started them in the background with SIGINT ignored."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.judged_collection import write_collection
from tests.support.processes import IGNORING_SIGINT, command_running
from tests.support.waiting import GUARD_S, until

pytestmark = pytest.mark.slow


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """Run a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(GUARD_S)
        yield listening


def address_of(listening: socket.socket) -> str:
    host, port = listening.getsockname()
    return f"{host}:{port}"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    "command",
    [
        ["sluice", "index", "FOLDER/corpus.jsonl", "--address", "ADDRESS"],
        ["sluice", "eval", "FOLDER", "--search", "ADDRESS", "--embedding", "ADDRESS"],
        ["sluice", "load", "steady", "--data", "FOLDER", "--search", "ADDRESS", "--embedding", "ADDRESS"],
        ["loadtest", "eval", "FOLDER", "--search", "ADDRESS", "--embedding", "ADDRESS"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_a_command_that_waits_for_a_server_stops(
    tmp_path: Path, silent: socket.socket, command: list[str], number: signal.Signals, status: int
) -> None:
    folder = write_collection(tmp_path / "collection")
    values = {"FOLDER": str(folder), "ADDRESS": address_of(silent)}
    for name, value in values.items():
        command = [word.replace(name, value) for word in command]
    started = [*IGNORING_SIGINT, sys.executable, "-m", *command]
    with command_running(started, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=tmp_path) as process:
        connection, _ = silent.accept()
        with connection:
            process.send_signal(number)
            _, words = process.communicate(timeout=GUARD_S)
    assert process.returncode == status, words


@pytest.mark.parametrize(
    "command",
    [["eval", "FOLDER", "--bundle", "BUNDLE"], ["bench", "start", "--bundle", "BUNDLE", "--data", "FOLDER"]],
    ids=lambda command: command[0],
)
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_with_services_of_its_own_leaves_none_running(
    tmp_path: Path, tiny_bi_encoder: Path, command: list[str], number: signal.Signals, status: int
) -> None:
    values = {"FOLDER": str(write_collection(tmp_path / "collection")), "BUNDLE": str(tiny_bi_encoder)}
    arguments = [values.get(word, word) for word in command]
    # Every process that the command starts inherits this.
    marked = os.environ | {"TMPDIR": str(tmp_path)}
    with command_running(
        [*IGNORING_SIGINT, sys.executable, "-m", "loadtest", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=marked,
        cwd=tmp_path,
    ) as process:
        until(lambda: process.poll() is not None or bool(psutil.Process(process.pid).children()))
        process.send_signal(number)
        _, words = process.communicate(timeout=GUARD_S)
    assert process.returncode == status, words
    assert running_with("TMPDIR", str(tmp_path)) == []


def running_with(name: str, value: str) -> list[str]:
    """Return the command lines of processes with this variable in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(name) == value:
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found
