"""Balance without a mesh: one long-lived client, one name, and servers that come and go."""

import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sluice.client import SearchClient

from tests.support.dns import name_server
from tests.support.processes import ServerProcess, start

pytestmark = pytest.mark.slow

# Calls whose shares are compared: enough that chance does not make one of four servers a third busier.
WINDOW = 400
PATIENCE_S = 600.0


@dataclass
class Replica:
    """One server behind the name."""

    host: str
    process: ServerProcess
    seen: float = 0.0

    def new_calls(self) -> float:
        """Return the calls that ended since the last time."""
        (ready,) = [event for event in self.process.events() if event["event"] == "ready"]
        with urllib.request.urlopen(f"http://{ready['metrics']}/metrics", timeout=30) as response:
            page = response.read().decode()
        total = sum(
            sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == "grpc_server_handled_total" and sample.labels["grpc_method"] == "ListPipelines"
        )
        before, self.seen = self.seen, total
        return total - before


@pytest.fixture
def replicas() -> Iterator[Callable[[int], Replica]]:
    """Starts the replica of a number, at 127.0.0.NUMBER and a port that all have."""
    with ExitStack() as stack:
        port = free_port()

        def started(number: int) -> Replica:
            host = f"127.0.0.{number}"
            options = ["--metrics-listen", f"{host}:0", "--max-connection-age-s", "0.5", "--drain-grace-s", "2"]
            process = start("services.orchestrator", "--listen", f"{host}:{port}", *options)
            stack.callback(lambda: process.terminate() if process.popen.poll() is None else None)
            return Replica(host, process)

        yield started


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def shares(client: SearchClient, replicas: list[Replica]) -> list[float]:
    """Return the calls that each replica got, of a window of calls."""
    for replica in replicas:
        replica.new_calls()
    for _ in range(WINDOW):
        client.pipelines(timeout_s=60)
    return [replica.new_calls() for replica in replicas]


def is_even(found: list[float]) -> bool:
    return min(found) > 0 and max(found) <= 1.3 * min(found)


def until_so(client: SearchClient, replicas: list[Replica], holds: Callable[[list[float]], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    found: list[float] = []
    while time.monotonic() < deadline:
        found = shares(client, replicas)
        if holds(found):
            return
    raise AssertionError(f"shares of {WINDOW} calls after {PATIENCE_S:g} s: {found}")


def test_new_servers_get_their_share_and_a_drained_one_gets_nothing(replicas: Callable[[int], Replica]) -> None:
    """From one to four servers, the busiest gets at most 1.3 times what the idlest gets."""
    with name_server() as names:
        all_ = [replicas(1)]
        port = int(all_[0].process.address.rpartition(":")[2])
        names.addresses = ["127.0.0.1"]
        with SearchClient(names.target(port), timeout_s=60) as client:
            assert shares(client, all_) == [WINDOW]
            for number in (2, 3, 4):
                all_.append(replicas(number))
                names.addresses = [replica.host for replica in all_]
                until_so(client, all_, is_even)
            drained = all_.pop()
            names.addresses = [replica.host for replica in all_]
            assert drained.process.terminate() == 0
            until_so(client, all_, is_even)
            assert sum(shares(client, all_)) == WINDOW


def test_several_addresses_in_one_target_are_used_in_turn(replicas: Callable[[int], Replica]) -> None:
    """Without a name: what `sluice` and the servers take as an address may list replicas."""
    both = [replicas(1), replicas(2)]
    with SearchClient("ipv4:" + ",".join(replica.process.address for replica in both), timeout_s=60) as client:
        until_so(client, both, is_even)
