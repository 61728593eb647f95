"""The plan of a system on this machine: which programs are started, and where they listen."""

from pathlib import Path

import pytest

from services.local.plan import DEFAULT_PORT, LAST_PORT, Plan

ROOT = Path(__file__).parents[3]
HOME = Path("/home/ada/.sluice")
SERVICES = ["embedding", "retrieval", "reranking", "orchestrator"]


def plan(port: int = DEFAULT_PORT, *, gateway: bool = True) -> Plan:
    return Plan(HOME, HOME / "bundles/e5/1", HOME / "bundles/marco/1", port=port, gateway=gateway)


def test_each_service_is_started_as_a_module_that_exists() -> None:
    for name, command in plan().commands().items():
        assert command[1:4] == ["-P", "-m", f"services.{name}"]
        assert (ROOT / "services" / name / "__main__.py").is_file()


@pytest.mark.parametrize(("gateway", "names"), [(True, [*SERVICES, "gateway"]), (False, SERVICES)])
def test_callers_are_started_after_the_services_that_they_call(gateway: bool, names: list[str]) -> None:
    assert list(plan(gateway=gateway).commands()) == names


@pytest.mark.parametrize("first", [1, DEFAULT_PORT, LAST_PORT])
def test_nine_ports_in_a_row_are_used_once_each(first: int) -> None:
    system = plan(first)
    addresses = [system.address(name) for name in (*SERVICES, "gateway")] + [system.metrics(name) for name in SERVICES]
    ports = sorted(int(address.rpartition(":")[2]) for address in addresses)
    assert ports == list(range(first, first + 9))
    assert ports[-1] <= 65_535


def test_the_gateway_reads_the_metrics_page_of_each_service() -> None:
    system = plan()
    commands = system.commands()
    for name in SERVICES:
        assert commands[name][-2:] == ["--metrics-listen", system.metrics(name)]
        assert f"--scrape={name}={system.metrics(name)}" in commands["gateway"]
