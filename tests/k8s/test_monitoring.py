"""The rules, the dashboard and the runbook agree with each other and with what servers expose."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from sluice.client import Document, SearchClient

from tests.contract.test_metrics import documented
from tests.support.processes import ROOT, ServerProcess, running
from tests.support.prometheus import MONITORING, Prometheus, program, scraping
from tests.support.waiting import until

RULES = MONITORING / "rules.yaml"
CASES = Path(__file__).with_name("rules_test.yaml")


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def alerts() -> set[str]:
    return {rule["alert"] for rule in rules() if "alert" in rule}


def expressions() -> list[str]:
    """Every expression of the dashboard."""
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def promtool(*arguments: str, folder: Path) -> None:
    result = subprocess.run([program("promtool"), *arguments], cwd=folder, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_rules_are_well_formed() -> None:
    promtool("check", "rules", str(RULES), folder=ROOT)


def test_the_alerts_fire_when_they_should_and_not_else(tmp_path: Path) -> None:
    for file in (RULES, CASES):
        shutil.copy(file, tmp_path)
    promtool("test", "rules", CASES.name, folder=tmp_path)


def test_every_alert_fires_in_a_unit_test() -> None:
    tests = yaml.safe_load(CASES.read_text())["tests"]
    fired = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case.get("exp_alerts")}
    assert fired == alerts()


def test_the_runbook_has_a_section_for_each_alert() -> None:
    sections = re.findall(r"^## (\w+)$", (ROOT / "k8s" / "RUNBOOK.md").read_text(), re.MULTILINE)
    assert sorted(sections) == sorted(alerts())


def test_rules_and_dashboard_use_documented_metrics() -> None:
    known = {metric.name for metric in documented()}
    used = set(re.findall(r"\b(?:sluice|grpc)_\w+", "\n".join([*expressions(), *(rule["expr"] for rule in rules())])))
    bases = {re.sub("_(bucket|sum|count)$", "", name) for name in used}
    assert bases - {"grpc_service", "grpc_method", "grpc_code"} <= known


@pytest.fixture(scope="module")
def prometheus(tiny_bi_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes a system during searches."""
    folder = tmp_path_factory.mktemp("monitored")
    program("prometheus")
    with ExitStack() as stack:

        def started(name: str, *arguments: str) -> ServerProcess:
            return stack.enter_context(running(f"services.{name}", "--metrics-listen", "127.0.0.1:0", *arguments))

        servers = {name: started(name, "--bundles", str(tiny_bi_encoder)) for name in ("embedding", "reranking")}
        servers["retrieval"] = started("retrieval", "--data", str(folder / "data"), "--recall-sample-every", "1")
        addresses = [f"--{name}={server.address}" for name, server in servers.items()]
        servers["orchestrator"] = started("orchestrator", *addresses)
        targets = [ready["metrics"] for one in servers.values() for ready in one.events() if ready["event"] == "ready"]
        prometheus = stack.enter_context(scraping(targets, folder))
        client = stack.enter_context(SearchClient(servers["orchestrator"].address))
        used(client, 0)
        until(lambda: len(prometheus.query('up{job="sluice"} == 1')) == 4)
        used(client, 1)  # rates need an increase between two scrapes
        yield prometheus


def used(client: SearchClient, number: int) -> None:
    """Index and search something that was not there before."""
    documents = [Document(f"{number}-{position}", text=f"words of {number} {position}") for position in range(8)]
    assert len(list(client.index("things", documents, create=True))) == len(documents)
    client.search("things", f"words {number}", timeout_s=20)


@pytest.mark.slow
def test_every_target_says_that_it_is_ready(prometheus: Prometheus) -> None:
    assert [series["value"][1] for series in prometheus.query("sluice_ready")] == ["1"] * 4


@pytest.mark.slow
@pytest.mark.parametrize("expression", expressions())
def test_every_expression_of_the_dashboard_returns_series(prometheus: Prometheus, expression: str) -> None:
    until(lambda: bool(prometheus.query(expression)))


@pytest.mark.slow
def test_labels_are_those_of_the_table(prometheus: Prometheus) -> None:
    for metric, labels in documented().items():
        name = f"{metric.name}_count" if metric.kind == "histogram" else metric.name
        for series in prometheus.query(name):
            assert set(series["metric"]) - {"__name__", "instance", "job"} == set(labels), name


@pytest.mark.slow
def test_no_alert_fires_while_all_is_well(prometheus: Prometheus) -> None:
    assert prometheus.query('ALERTS{alertstate="firing"}') == []
