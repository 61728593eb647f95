"""`sluice up` and `sluice down`: the processes that they start and stop."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from services.local.processes import Process, running, stop
from tests.support.processes import IGNORING_SIGINT, command_running
from tests.support.waiting import GUARD_S, until

pytestmark = pytest.mark.slow


def sluice(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), check=False, capture_output=True, text=True, timeout=GUARD_S, env=environment(home)
    )


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "sluice", *arguments]


def environment(home: Path) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SLUICE_")}
    return clean | {"SLUICE_HOME": str(home), "COLUMNS": "100"}


@pytest.fixture
def port() -> str:
    """The first of nine free ports in a row."""
    while True:
        with ExitStack() as held:
            first = held.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            try:
                for offset in range(1, 9):
                    held.enter_context(socket.create_server(("127.0.0.1", first + offset)))
            except (OSError, OverflowError):
                continue
            return str(first)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home folder. Processes that still run from it at the end are stopped."""
    yield tmp_path / "home"
    stop(running(tmp_path / "home"), tmp_path / "home")


def test_up_detached_serves_until_down(tiny_bi_encoder: Path, home: Path, port: str) -> None:
    up = ["up", "--bundle", str(tiny_bi_encoder), "--port", port, "--detach"]
    started = sluice(*up, home=home)
    assert started.returncode == 0, started.stderr
    assert started.stdout.count("healthy") == 5
    assert f"console: http://127.0.0.1:{int(port) + 4}" in started.stdout
    processes = running(home)
    assert [process.name for process in processes] == ["embedding", "retrieval", "reranking", "orchestrator", "gateway"]
    assert {process.health() for process in processes} == {"SERVING"}

    corpus = home / "corpus.jsonl"
    corpus.write_text('{"id": "a", "text": "a queue of items"}\n{"id": "b", "text": "boil the water"}\n')
    indexed = sluice("index", str(corpus), "--create", "--address", f"127.0.0.1:{port}", home=home)
    assert "2 indexed" in indexed.stdout, indexed.stderr
    found = sluice("search", "queue", "--json", "--address", f"127.0.0.1:{port}", home=home)
    assert {result["document"]["document_id"] for result in json.loads(found.stdout)["results"]} == {"a", "b"}

    again = sluice(*up, home=home)
    assert again.returncode == 1
    assert "already running" in again.stderr

    assert sluice("down", home=home).stdout == "stopped\n"
    assert not any(process.is_alive() for process in processes)
    assert sluice("down", home=home).stdout == "nothing was running\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_in_front_stops_all_when_it_is_stopped(
    tiny_bi_encoder: Path, home: Path, port: str, number: signal.Signals
) -> None:
    up = [*IGNORING_SIGINT, *command("up", "--bundle", str(tiny_bi_encoder), "--port", port)]
    with command_running(up, stdout=subprocess.PIPE, env=environment(home)) as process:
        assert process.stdout is not None
        assert any("^C stops it" in line for line in process.stdout)
        services = running(home)
        assert len(services) == 5
        process.send_signal(number)
        assert process.wait(GUARD_S) == 0
    assert not any(service.is_alive() for service in services)
    assert not (home / "system.json").exists()


def test_up_ends_when_a_service_ends(tiny_bi_encoder: Path, home: Path, port: str) -> None:
    up = command("up", "--bundle", str(tiny_bi_encoder), "--port", port)
    with command_running(up, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(home)) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert any("^C stops it" in line for line in process.stdout)
        services = {service.name: service for service in running(home)}
        services["retrieval"].signal(signal.SIGKILL)
        assert process.wait(GUARD_S) == 1
        assert "retrieval ended by itself" in process.stderr.read()
    assert not any(service.is_alive() for service in services.values())


def test_up_reports_why_a_service_cannot_start_and_stops_the_others(
    tiny_bi_encoder: Path, home: Path, port: str
) -> None:
    with socket.create_server(("127.0.0.1", int(port) + 2)):
        started = sluice("up", "--bundle", str(tiny_bi_encoder), "--port", port, "--detach", home=home)
    assert started.returncode == 1
    assert "retrieval ended" in started.stderr
    assert f"cannot listen on 127.0.0.1:{int(port) + 2}" in started.stderr
    until(lambda: not running(home))


def test_an_unrelated_process_with_the_recorded_id_is_ignored(tmp_path: Path) -> None:
    """The system reuses the id of a process that has ended."""
    record = [{"name": "retrieval", "pid": os.getpid(), "address": "127.0.0.1:1"}]
    (tmp_path / "system.json").write_text(json.dumps(record))
    assert running(tmp_path) == []
    assert not Process("retrieval", os.getpid(), "127.0.0.1:1").is_alive()
