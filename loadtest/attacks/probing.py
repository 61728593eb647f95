"""Probes: health checks and legitimate calls during an attack, sent by a process of their own.

In the process of the attack they would wait for the attacker's own work.
"""

import json
import multiprocessing
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any, Final, Protocol

import grpc
from grpc_health.v1 import health_pb2

from loadtest.attacks.verdict import Answer
from loadtest.channels import CHANNEL_OPTIONS

_EVERY_S: Final = 0.5
# A legitimate client retries what an overloaded server rejects, as `sluice.client` does.
_TRIES: Final = 5
_FIRST_WAIT_S: Final = 0.1
_RETRIED: Final = ("UNAVAILABLE", "503")
_TIMEOUT_S: Final = 30.0
_CHECK: Final = "/grpc.health.v1.Health/Check"


class Probe(Protocol):
    """A request that is repeated during the attack. Pickled and sent to the probing process."""

    name: str
    is_health: bool

    def ask(self) -> str:
        """Wait for the answer. Return what is wrong with it, empty when nothing is."""


@dataclass
class HealthProbe:
    """A health check over gRPC, each with a connection of its own, as Kubernetes makes it."""

    name: str
    address: str
    is_health: bool = True

    def ask(self) -> str:
        """Return the code of a check that failed."""
        with grpc.insecure_channel(self.address, options=CHANNEL_OPTIONS) as channel:
            call: Any = channel.unary_unary(_CHECK)
            return _code(call, b"", (), health_pb2.HealthCheckResponse(status="SERVING").SerializeToString())


@dataclass
class CallProbe:
    """A legitimate call over gRPC, on one connection that stays."""

    name: str
    address: str
    method: str
    request: bytes
    metadata: tuple[tuple[str, str], ...] = ()
    is_health: bool = False
    _channel: Any = None

    def ask(self) -> str:
        """Return the code of a call that failed."""
        self._channel = self._channel or grpc.insecure_channel(self.address, options=CHANNEL_OPTIONS)
        return _code(self._channel.unary_unary(self.method), self.request, self.metadata)


@dataclass
class HttpProbe:
    """A request over HTTP, each with a connection of its own."""

    name: str
    address: str
    method: str
    path: str
    body: bytes = b""
    token: str = ""
    is_health: bool = False

    def ask(self) -> str:
        """Return the status of a request that failed."""
        headers = {"content-type": "application/json"}
        headers |= {"authorization": f"Bearer {self.token}"} if self.token else {}
        connection = HTTPConnection(self.address, timeout=_TIMEOUT_S)
        try:
            connection.request(self.method, self.path, self.body or None, headers)
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, HTTPException) as error:
            return f"{type(error).__name__}: {error}"
        finally:
            connection.close()
        return "" if answer.status == 200 else f"{answer.status}: {content[:200].decode(errors='replace')}"


class Prober:
    """A process that asks all probes. `first` returns when each was asked once."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._answers: list[Answer] = []

    def first(self) -> None:
        """Wait until every probe was answered once."""
        self._connection.recv()

    def stop(self) -> list[Answer]:
        """Ask no more. Return all answers."""
        self._connection.send(None)
        answers: list[Answer] = self._connection.recv()
        return answers


@contextmanager
def probing(probes: Sequence[Probe]) -> Iterator[Prober]:
    """Ask the probes, each twice a second, for the block or until `stop`."""
    # gRPC does not survive a fork.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=ask_all, args=(theirs, list(probes)), daemon=True)
    process.start()
    theirs.close()
    try:
        yield Prober(ours)
    finally:
        process.kill()
        process.join()
        ours.close()


def ask_all(connection: Connection, probes: Sequence[Probe]) -> None:
    """Ask the probes until the other side says so, then send the answers."""
    for probe in probes:
        probe.ask()
    stopped = threading.Event()
    answers: list[Answer] = []
    threads = [threading.Thread(target=_ask, args=(probe, answers, stopped)) for probe in probes]
    for thread in threads:
        thread.start()
    connection.send(None)
    connection.recv()
    stopped.set()
    for thread in threads:
        thread.join()
    connection.send(answers)


def search_body(collection: str, query: str) -> bytes:
    """Return a search for the gateway."""
    return json.dumps({"collection": collection, "query": query, "pipeline": "fast"}).encode()


def ask_patiently(probe: Probe) -> str:
    """Ask again while the answer is a refusal for overload. Return what is wrong with the last answer."""
    error = probe.ask()
    for tried in range(_TRIES - 1):
        if not error.startswith(_RETRIED):
            break
        time.sleep(_FIRST_WAIT_S * 2**tried)
        error = probe.ask()
    return error


def _ask(probe: Probe, answers: list[Answer], stopped: threading.Event) -> None:
    while not stopped.is_set():
        started = perf_counter()
        error = probe.ask() if probe.is_health else ask_patiently(probe)
        answers.append(Answer(probe.name, perf_counter() - started, error, probe.is_health))
        stopped.wait(_EVERY_S)


def _code(call: Any, request: bytes, metadata: tuple[tuple[str, str], ...], expected: bytes | None = None) -> str:
    try:
        answer = call(request, timeout=_TIMEOUT_S, metadata=metadata)
    except grpc.RpcError as error:
        failed: Any = error
        return f"{failed.code().name}: {failed.details()}"
    return "" if expected is None or answer == expected else f"expected {expected!r}, got {answer!r}"
